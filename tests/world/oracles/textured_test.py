"""Foreground on painted grounds: coverage, colours, tints, margins of paper."""

import dataclasses

import numpy as np
import pytest

from mg_jax.world.oracles import textured
from mg_jax.world.oracles.pixels import average, compare, measure
from mg_jax.world.scene.facts import BACKGROUNDS, PALETTE, Background, Scene, Thing, facts
from mg_jax.world.scene.grounds import GROUNDS
from mg_jax.world.scene.render import render
from mg_jax.world.scene.sampling import WorldConfig, sample


def _video(name, colour="red", **facts):
  thing = Thing("square", colour, "medium", 0.05, 0.05)
  scene = Scene(0, 0, Background(name, seed=3), (thing,), **facts)
  return render(scene, frames=3, height=64, width=64, fps=8.0).astype(np.float32)


@pytest.mark.parametrize("name", list(GROUNDS))
@pytest.mark.parametrize("colour", ["green", "white"])
def test_alpha_covers_the_object_alone(name, colour):
  alpha, seen, ground = textured.foreground(_video(name, colour))
  # A square of half side 0.16 * sqrt(1 / 2).
  area = 2 * 0.16**2 * 64**2
  inside = alpha[:, 24:46, 24:46].sum(axis=(1, 2))
  assert inside == pytest.approx(area, rel=0.1)
  # Large stars and the moon are as white as an object.
  assert alpha.sum(axis=(1, 2)).max() < (1.12 if name == "space" else 1.03) * inside.min()
  np.testing.assert_allclose(seen, PALETTE[colour], atol=6)
  assert np.linalg.norm(ground - seen) > 60


def test_tint_tells_painted_grounds_from_plain_ones():
  for name in BACKGROUNDS:
    assert textured.tint(_video(name)) < textured.MIN_TINT
  for name in GROUNDS:
    assert textured.tint(_video(name)) > textured.MIN_TINT, name
  for weather, time in (("rain", "dusk"), ("snow", "day"), ("fog", "night")):
    assert textured.tint(_video("meadow", weather=weather, time=time)) > textured.MIN_TINT


def test_empty_grounds_have_no_foreground():
  for name in GROUNDS:
    scene = Scene(0, 0, Background(name, seed=1), ())
    alpha, _, _ = textured.foreground(
      render(scene, frames=2, height=64, width=64).astype(np.float32)
    )
    assert (alpha > 0.5).mean() < 0.02, name


def test_a_margin_of_paper_continues_the_picture():
  plain = _video("city").astype(np.uint8)
  assert textured.unframed(plain) is plain
  scene = Scene(0, 0, Background("city", seed=3), (), style="cartoon")
  framed = render(scene, frames=2, height=64, width=64)
  inside = textured.unframed(framed)
  assert inside.shape == framed.shape and inside.max() < 228 < framed[:, 0].min()
  np.testing.assert_array_equal(inside[:, 6:-6, 6:-6], framed[:, 6:-6, 6:-6])


def test_objects_and_signs_are_read_on_every_ground():
  config = dataclasses.replace(
    WorldConfig.looks(), colours=tuple(PALETTE), styles=("natural",), backgrounds=tuple(GROUNDS)
  )
  for lengths, seed in (((0,), 3), ((1, 2, 3), 4)):
    world = dataclasses.replace(config, word_lengths=lengths)
    if lengths != (0,):
      world = dataclasses.replace(world, colours=("white", "yellow", "cyan"))
    results = []
    for index in range(40):
      scene = sample(seed, index, world)
      video = render(scene, frames=16, height=64, width=64)
      results.append(compare(measure(video), facts(scene)))
    assert min(average(results).values()) >= 0.97, average(results)
