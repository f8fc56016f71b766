"""Oracles end to end: tracks, odd clips, scores of clips and their averages."""

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.oracles.pixels import ATTRIBUTES, average, compare, measure
from mg_jax.world.scene.facts import Background, Motion, Scene, Thing, facts
from mg_jax.world.scene.prompts import parse_prompt
from mg_jax.world.scene.render import render

OBJECTS = ("colour", "shape", "count", "motion")
RIGHT = Motion("right", amount=0.5)


def _clip(count=1, kind="star", motion=RIGHT, height=48, width=48, frames=12):
  things = tuple(
    Thing(kind, "green", "small", 0.02, -0.3 + 0.3 * i, motion=motion) for i in range(count)
  )
  scene = Scene(0, 0, Background("striped"), things)
  return scene, render(scene, frames=frames, height=height, width=width)


def test_tracks_are_in_shorter_sides_from_the_middle():
  _, video = _clip(height=48, width=80)
  seen = measure(video)
  x = 0.02 + 0.5 * (np.arange(12) / 12 - 0.5)
  np.testing.assert_allclose(seen.positions, np.stack([x, np.full(12, -0.3)], 1), atol=0.01)
  assert seen.areas.shape == (12,)
  assert seen.areas.mean() == pytest.approx(1.322 * 0.1**2, rel=0.15)
  assert set(seen.confidence) == set(ATTRIBUTES)
  assert all(0 <= value <= 1 for value in seen.confidence.values())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_counts_and_mean_position(count):
  scene, video = _clip(count)
  seen = measure(video)
  assert seen.count == count
  assert compare(measure(video), facts(scene)) == dict.fromkeys(OBJECTS, True)
  assert seen.positions[0, 1] == pytest.approx(-0.3 + 0.15 * (count - 1), abs=0.01)


def test_empty_clip_is_wrong_in_everything():
  empty = np.full((8, 32, 32, 3), 30, np.uint8)
  seen = measure(empty)
  assert (seen.colour, seen.shape, seen.count, seen.motion) == (None, None, 0, None)
  assert seen.word is None
  assert np.isnan(seen.positions).all()
  wanted = parse_prompt("a red star moves left")
  assert compare(measure(empty), wanted) == dict.fromkeys(OBJECTS, False)
  assert compare(measure(empty), {"word": "CAT"}) == {"word": False, "letters": 0.0}


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (2, 24, 40, 3), (5, 33, 31, 3)])
def test_noise_and_odd_shapes_are_measured_without_errors(shape):
  noise = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
  assert measure(noise).positions.shape == (shape[0], 2)
  assert measure(np.full(shape, 255, np.uint8)).count == 0


def test_only_what_the_prompt_names_is_scored():
  seen = measure(_clip()[1])
  assert compare(seen, parse_prompt("green stars")) == {"colour": True, "shape": True}
  assert compare(seen, {"colour": "red"}) == {"colour": False}


def test_averages_are_over_the_clips_that_name_an_attribute():
  scene, video = _clip()
  prompts = [facts(scene), {"colour": "red"}, {"colour": "green", "kind": "ring"}]
  got = average([compare(measure(video), prompt) for prompt in prompts])
  assert got == pytest.approx(
    {"colour": 2 / 3, "shape": 0.5, "count": 1.0, "motion": 1.0, "all": 1 / 3}
  )


def test_letters_are_averaged_and_do_not_bear_on_all():
  results = [{"word": False, "letters": 0.5}, {"word": True, "letters": 1.0}, {"colour": True}]
  got = average(results)
  assert got == pytest.approx({"colour": 1.0, "word": 0.5, "letters": 0.75, "all": 2 / 3})
  assert average([{"word": True, "letters": 0.0}])["all"] == 1.0


def test_errors_are_told():
  with pytest.raises(UserError, match="float32"):
    measure(np.zeros((2, 8, 8, 3), np.float32))
  with pytest.raises(UserError, match="uint8 video"):
    measure(np.zeros((8, 8, 3), np.uint8))
