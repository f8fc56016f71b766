"""Renderer: golden colours, resolution and rate independence, aspect, cropping in time, errors."""

import dataclasses

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.scene.facts import (
  BACKGROUNDS,
  INK,
  PALETTE,
  SIZES,
  Background,
  Motion,
  Scene,
  Sign,
  Thing,
)
from mg_jax.world.scene.letters import board
from mg_jax.world.scene.render import render
from mg_jax.world.scene.sampling import WorldConfig, sample
from mg_jax.world.scene.shapes import SHAPES

STILL = Motion()
GOLDEN_FULL = [50.1, 62.51, 55.45]
GOLDEN_SIMPLE = (27.19, 39.59, 33.47)


def _one(kind="circle", motion=STILL, **kwargs) -> Scene:
  thing = Thing(kind, "red", "large", 0.0, 0.0, motion=motion)
  return Scene(0, 0, Background("dark"), (thing,), **kwargs)


def _centre(frame: np.ndarray) -> np.ndarray:
  weight = np.abs(frame.astype(float) - BACKGROUNDS["dark"][0]).sum(-1)
  y, x = np.indices(weight.shape)
  return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum() + 0.5


def test_golden_mean_colours():
  video = render(sample(0, 4, WorldConfig.full()), frames=4, height=32, width=32)
  np.testing.assert_allclose(video.mean((0, 1, 2)), GOLDEN_FULL, atol=0.1)
  video = render(sample(0, 4, WorldConfig.simple()), frames=16, height=32, width=32)
  np.testing.assert_allclose(video.mean((0, 1, 2)), GOLDEN_SIMPLE, atol=0.1)


@pytest.mark.parametrize("kind", list(SHAPES))
def test_covered_area_and_colour_are_exact(kind):
  frame = render(_one(kind), frames=1, height=128, width=128)[0].astype(float)
  ground = np.array(BACKGROUNDS["dark"][0])
  colour = np.array(PALETTE["red"])
  covered = ((frame - ground) @ (colour - ground)).sum() / ((colour - ground) ** 2).sum()
  assert covered == pytest.approx(SHAPES[kind].area * (SIZES["large"] * 128) ** 2, rel=0.02)
  assert (frame.max((0, 1)) >= colour - 1).all()


def test_resolution_independence():
  for index in range(20):
    scene = sample(2, index, WorldConfig.full())
    fine = render(scene, frames=4, height=128, width=128).astype(float)
    coarse = render(scene, frames=4, height=64, width=64).astype(float)
    pooled = fine.reshape(4, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(pooled - coarse).mean() < 1.0


def test_frame_rate_independence_and_start():
  scene = sample(2, 7, WorldConfig.full())
  fast = render(scene, frames=16, height=32, width=32, fps=16)
  slow = render(scene, frames=8, height=32, width=32, fps=8)
  late = render(scene, frames=8, height=32, width=32, fps=16, start_s=0.5)
  np.testing.assert_array_equal(fast[::2], slow)
  np.testing.assert_array_equal(fast[8:], late)
  spread = render(scene, frames=8, height=32, width=32)
  np.testing.assert_array_equal(
    spread, render(scene, frames=8, height=32, width=32, fps=8 / scene.duration_s)
  )


def test_wide_frames_keep_the_shape_and_add_room():
  scene = _one("star")
  wide = render(scene, frames=1, height=32, width=64)[0]
  square = render(scene, frames=1, height=32, width=32)[0]
  np.testing.assert_array_equal(wide[:, 16:48], square)
  tall = render(_one("circle"), frames=1, height=64, width=32)[0]
  np.testing.assert_array_equal(
    tall.transpose(1, 0, 2), render(_one(), frames=1, height=32, width=64)[0]
  )


def test_motion_is_in_pixels_of_the_shorter_side():
  scene = _one(motion=Motion("right", amount=0.5))
  video = render(scene, frames=2, height=64, width=96, fps=1.0)  # u = 0 and 1 / 2
  moved = _centre(video[1]) - _centre(video[0])
  np.testing.assert_allclose(moved, [0.25 * 64, 0], atol=0.05)


def test_object_that_leaves_the_frame_is_cut_off():
  away = dataclasses.replace(_one().objects[0], x=2.0)
  half = dataclasses.replace(away, x=0.5)
  scene = _one()
  gone = render(dataclasses.replace(scene, objects=(away,)), frames=1, height=32, width=32)
  assert (gone == BACKGROUNDS["dark"][0]).all()
  cut = render(dataclasses.replace(scene, objects=(half,)), frames=1, height=32, width=32)[0]
  whole = render(scene, frames=1, height=32, width=32)[0]
  np.testing.assert_array_equal(cut[:, 16:], whole[:, :16])


def test_camera_moves_the_world():
  still = render(_one(), frames=16, height=64, width=64)
  assert _centre(still[0])[0] == pytest.approx(_centre(still[-1])[0])
  right = render(_one(camera="pan right"), frames=16, height=64, width=64)
  assert _centre(right[-1])[0] < _centre(right[0])[0] - 4
  near = render(_one(camera="zoom in"), frames=16, height=64, width=64)
  assert near[-1].astype(int).sum() > 1.05 * near[0].astype(int).sum()


def test_later_objects_cover_earlier_ones():
  scene = _one()
  blue = dataclasses.replace(scene.objects[0], colour="blue")
  frame = render(
    dataclasses.replace(scene, objects=(*scene.objects, blue)), frames=1, height=33, width=33
  )
  np.testing.assert_array_equal(frame[0, 16, 16], PALETTE["blue"])


def _sign(word="HI", x=0.0, y=0.1, **kwargs):
  return Scene(0, 0, Background("dark"), (), sign=Sign(word, "yellow", 0.25, x, y), **kwargs)


def test_signs_have_their_place_size_and_colours():
  frame = render(_sign("L"), frames=2, height=128, width=160)[1].astype(int)
  lit = np.abs(frame - PALETTE["yellow"]).max(-1) < 3
  rows, cols = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
  width, height = (0.25 * 128 * side for side in board(1))
  assert cols[[0, -1]] == pytest.approx([80 - width / 2, 79 + width / 2], abs=1.1)
  assert rows[[0, -1]] == pytest.approx([76.8 - height / 2, 75.8 + height / 2], abs=1.1)
  dark = np.abs(frame - INK).max(-1) < 3
  # An L is a bar on the left and one below.
  y, x = np.nonzero(dark)
  assert x.min() < 80 - 0.25 * 128 * 0.3 and 94 > y.max() > 76.8 + 0.25 * 128 * 0.4
  assert dark[60:93, 66:95].mean() > 0.2 and not dark[62:80, 80:96].any()


def test_signs_follow_the_camera_and_are_the_same_at_any_size():
  still = render(_sign(), frames=3, height=64, width=64)
  np.testing.assert_array_equal(still[0], still[2])
  right = render(_sign(camera="pan right"), frames=8, height=64, width=64)
  assert _centre(right[-1])[0] < _centre(right[0])[0] - 4
  fine = render(_sign("SIGN"), frames=1, height=128, width=128).astype(float)
  coarse = render(_sign("SIGN"), frames=1, height=64, width=64).astype(float)
  assert np.abs(fine.reshape(1, 64, 2, 64, 2, 3).mean((2, 4)) - coarse).mean() < 2.0


@pytest.mark.parametrize("word, colour", [("cat", "red"), ("CAT", "beige")])
def test_impossible_signs_are_told(word, colour):
  scene = Scene(0, 0, Background("dark"), (), sign=Sign(word, colour, 0.25))
  with pytest.raises(UserError, match="cat|beige"):
    render(scene, frames=1, height=16, width=16)


@pytest.mark.parametrize("name", list(BACKGROUNDS))
def test_backgrounds_are_dim_and_grey(name):
  frame = render(Scene(0, 0, Background(name), ()), frames=1, height=48, width=48)[0].astype(int)
  assert (frame.max(-1) - frame.min(-1)).max() <= 10
  assert frame.max() < 180
  textured = np.ptp(frame[..., 1]) > 5
  assert textured == (name not in ("dark", "light"))


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"height": 0}, {"fps": -1.0}])
def test_sizes_are_checked(wrong):
  with pytest.raises(UserError, match="positive"):
    render(_one(), **{"frames": 1, "height": 8, "width": 8, **wrong})


@pytest.mark.parametrize("field", ["kind", "colour", "size"])
def test_unknown_names_are_told(field):
  thing = dataclasses.replace(_one().objects[0], **{field: "blob"})
  with pytest.raises(UserError, match="blob"):
    render(dataclasses.replace(_one(), objects=(thing,)), frames=1, height=8, width=8)
