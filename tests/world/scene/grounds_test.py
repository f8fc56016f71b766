"""Grounds: muted colours, structure, layouts that follow a seed alone, what an edit changes."""

import dataclasses
import itertools

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.oracles.textured import MIN_TINT, tint
from mg_jax.world.scene.facts import BACKGROUNDS, PALETTE, Background, Scene, Thing
from mg_jax.world.scene.grounds import GROUNDS, outdoor
from mg_jax.world.scene.render import render
from mg_jax.world.scene.weather import TIMES, WEATHERS

STAR = Thing("star", "red", "large", 0.0, 0.0)


def _scene(name, seed=0, **facts) -> Scene:
  return Scene(0, 0, Background(name, seed=seed), facts.pop("objects", ()), **facts)


def _render(scene, frames=1, side=64, **kwargs):
  return render(scene, frames=frames, height=side, width=side, fps=8.0, **kwargs).astype(int)


def _skies(name):
  return itertools.product(WEATHERS, TIMES) if outdoor(name) else [("clear", "day")]


def test_there_are_many_and_half_of_them_have_weather():
  assert len(GROUNDS) >= 12 and not set(GROUNDS) & set(BACKGROUNDS)
  assert sum(outdoor(name) for name in GROUNDS) >= 6
  assert not any(outdoor(name) for name in BACKGROUNDS)


@pytest.mark.parametrize("name", list(GROUNDS))
def test_colours_are_muted_and_tinted_in_all_weathers(name):
  """The object oracles go by this: palette colours have a chroma of 135 or are nearly white."""
  for weather, time in _skies(name):
    frame = _render(_scene(name, seed=3, weather=weather, time=time))[0]
    chroma = frame.max(-1) - frame.min(-1)
    assert np.quantile(chroma, 0.995) <= 88, (weather, time)
    assert frame.max() <= 208 and np.quantile(frame.min(-1), 0.999) <= 206, (weather, time)
    assert tint(frame[None].astype(np.float32)) > MIN_TINT, (weather, time)
  colours = np.array(list(PALETTE.values()))
  assert np.sort(np.ptp(colours, axis=1))[1] >= 130


@pytest.mark.parametrize("name", list(GROUNDS))
def test_grounds_are_structured_and_the_same_at_any_size(name):
  fine = _render(_scene(name, seed=5), side=128)[0].astype(float)
  coarse = _render(_scene(name, seed=5))[0].astype(float)
  assert np.abs(fine.reshape(64, 2, 64, 2, 3).mean((1, 3)) - coarse).mean() < 4
  cells = coarse.reshape(8, 8, 8, 8, 3)
  assert coarse.std(axis=(0, 1)).max() > 8 and cells.std(axis=(1, 3)).max() > 6


@pytest.mark.parametrize("name", list(GROUNDS))
def test_layout_follows_the_seed_of_the_background_alone(name):
  first = _render(_scene(name, seed=1))
  np.testing.assert_array_equal(first, _render(dataclasses.replace(_scene(name, 1), seed=9)))
  assert np.abs(first - _render(_scene(name, seed=2))).mean() > 0.5
  wide = render(_scene(name, seed=1), frames=1, height=64, width=96, fps=8.0)
  np.testing.assert_array_equal(wide[:, :, 16:80], first)


def test_cameras_move_grounds():
  still = _render(_scene("city"), frames=8)
  np.testing.assert_array_equal(still[0], still[-1])
  right = _render(_scene("city", camera="pan right"), frames=16)
  # The middle of the last frame shows what was further right in the first.
  shift = round(0.12 * 15 / 16 * 64)
  moved = np.abs(right[-1][:, 8:40] - right[0][:, 8 + shift : 40 + shift]).mean()
  assert moved < 0.4 * np.abs(right[-1][:, 8:40] - right[0][:, 8:40]).mean()


@pytest.mark.parametrize("edit", [{"weather": "rain"}, {"time": "night"}, {"weather": "fog"}])
def test_weather_and_time_change_outdoor_grounds_alone(edit):
  scene = _scene("meadow", seed=4, objects=(STAR,))
  before = _render(scene, frames=4)
  after = _render(dataclasses.replace(scene, **edit), frames=4)
  inside = np.abs(before - PALETTE["red"]).max(-1) < 4
  np.testing.assert_array_equal(after[inside], before[inside])
  assert inside.mean() > 0.02 and np.abs(after - before)[~inside].mean() > 8
  brick = _scene("brick", seed=4, objects=(STAR,))
  np.testing.assert_array_equal(_render(brick), _render(dataclasses.replace(brick, **edit)))


def test_another_ground_leaves_the_object_as_it_was():
  scene = _scene("meadow", objects=(STAR,))
  other = dataclasses.replace(scene, background=Background("wood"))
  before, after = _render(scene), _render(other)
  inside = np.abs(before - PALETTE["red"]).max(-1) == 0
  np.testing.assert_array_equal(after[inside], before[inside])


@pytest.mark.parametrize("edit", [{"weather": "hail"}, {"time": "noon"}, {"style": "cubism"}])
def test_unknown_looks_are_told(edit):
  with pytest.raises(UserError, match=next(iter(edit.values()))):
    _render(_scene("sky", **edit))
