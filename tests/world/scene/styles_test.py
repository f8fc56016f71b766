"""Styles: what each does to colours, lines and blocks, frame by frame, at any size."""

import dataclasses

import numpy as np
import pytest

from mg_jax.world.scene.facts import Background, Scene, Thing
from mg_jax.world.scene.render import render
from mg_jax.world.scene.styles import BLOCK, STYLES

SCENE = Scene(0, 0, Background("beach", seed=1), (Thing("star", "red", "large", 0.0, 0.1),))


def _frame(style, side=64, **facts):
  scene = dataclasses.replace(SCENE, style=style, **facts)
  return render(scene, frames=1, height=side, width=side)[0].astype(float)


def test_there_are_several_and_natural_is_the_identity():
  assert len(STYLES) >= 6
  v = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
  np.testing.assert_array_equal(STYLES["natural"].apply(v), v)


@pytest.mark.parametrize("name", list(STYLES))
def test_styles_are_pure_and_treat_every_frame_by_itself(name):
  v = np.random.default_rng(0).uniform(0, 255, (3, 40, 56, 3)).astype(np.float32)
  before = v.copy()
  out = STYLES[name].apply(v)
  np.testing.assert_array_equal(v, before)
  assert out.shape == v.shape and out.min() >= 0 and out.max() <= 255
  np.testing.assert_allclose(out[1:2], STYLES[name].apply(v[1:2]), atol=1e-3)


@pytest.mark.parametrize("name", [name for name in STYLES if name != "natural"])
def test_styles_change_the_picture_and_keep_at_any_size(name):
  plain, styled = _frame("natural"), _frame(name)
  assert np.abs(plain - styled).mean() > 4
  fine = _frame(name, side=192).reshape(64, 3, 64, 3, 3).mean((1, 3))
  assert np.abs(fine - styled).mean() < 0.6 * np.abs(plain - styled).mean()


def test_colours_go_where_a_style_hides_them():
  grey, sepia = _frame("greyscale"), _frame("sepia")
  assert np.ptp(grey, axis=-1).max() == 0
  assert (sepia[..., 0] >= sepia[..., 1]).all() and (sepia[..., 1] >= sepia[..., 2]).all()
  for name in ("outline", "blueprint"):
    frame = _frame(name).reshape(-1, 3)
    first, second = frame - frame[0], frame[np.abs(frame - frame[0]).sum(1).argmax()] - frame[0]
    # All colours are on the line from the paper to the pencil.
    cross = np.linalg.norm(np.cross(first, second / np.linalg.norm(second)), axis=1)
    assert cross.max() < 3, name


def test_pixel_art_is_blocks():
  frame = _frame("pixel art", side=128)
  block = round(BLOCK * 128)
  inner = np.diff(frame[:, 64 % block :], axis=1)
  inside = np.arange(inner.shape[1]) % block != block - 1
  assert np.abs(inner[:, inside]).max() == 0 and np.abs(inner[:, ~inside]).mean() > 4


def test_margins_of_paper_and_dark_light():
  assert _frame("cartoon")[[0, -1]].min() > 235
  assert _frame("watercolour")[[0, -1]].min() > 210
  assert np.median(_frame("neon")) < 40 and _frame("neon").max() > 200


@pytest.mark.parametrize("name", ["greyscale", "sepia"])
def test_objects_as_bright_as_their_ground_keep_an_outline(name):
  green = dataclasses.replace(SCENE.objects[0], colour="green", kind="circle")
  frame = _frame(name, background=Background("light"), objects=(green,)).mean(-1)
  away = np.hypot(*(np.indices((64, 64)) - 31.5 - np.array([6.4, 0])[:, None, None]))
  rim = np.abs(away - 0.21 * 64) < 1.5
  assert np.quantile(np.abs(frame[rim] - np.median(frame)), 0.5) > 15
