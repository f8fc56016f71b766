"""Motions: directions, amounts and cycles of every law over one scene, and beyond its end."""

import numpy as np
import pytest

from mg_jax.world.scene.facts import Motion
from mg_jax.world.scene.motion import MOTIONS

U = np.linspace(0, 1, 65)


@pytest.mark.parametrize(
  "name, way", [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))]
)
def test_travel_covers_its_distance_once(name, way):
  pose = MOTIONS[name](Motion(name, amount=0.5), U)
  assert pose.dx[-1] - pose.dx[0] == pytest.approx(0.5 * way[0])
  assert pose.dy[-1] - pose.dy[0] == pytest.approx(0.5 * way[1])
  assert pose.dx.mean() == pytest.approx(0, abs=1e-9)


def test_travel_comes_back_after_the_scene():
  pose = MOTIONS["right"](Motion("right", amount=0.5), np.array([0.9, 1.0, 1.1, 2.0]))
  assert pose.dx[0] == pytest.approx(pose.dx[2])
  assert pose.dx[1] == pytest.approx(0.25)
  assert pose.dx[3] == pytest.approx(-0.25)


def test_bounce_rebounds_from_the_floor():
  pose = MOTIONS["bounce"](Motion("bounce", amount=0.4, cycles=2.0), U)
  assert pose.dy.max() == pytest.approx(0.2)
  assert pose.dy.min() == pytest.approx(-0.2)
  floor = np.isclose(pose.dy, 0.2, atol=1e-6)
  assert floor.sum() == 3  # start, middle and end of two bounces
  assert not pose.dx.any()


@pytest.mark.parametrize("cycles", [1.0, -1.0])
def test_orbit_keeps_its_radius_and_sense(cycles):
  pose = MOTIONS["orbit"](Motion("orbit", amount=0.2, cycles=cycles), U)
  np.testing.assert_allclose(np.hypot(pose.dx, pose.dy), 0.2, atol=1e-9)
  turned = np.unwrap(np.arctan2(pose.dy, pose.dx))
  assert turned[-1] - turned[0] == pytest.approx(2 * np.pi * cycles)


def test_spin_turns_and_stays():
  pose = MOTIONS["spin"](Motion("spin", cycles=0.5), U)
  assert pose.angle[-1] - pose.angle[0] == pytest.approx(np.pi)
  assert not pose.dx.any() and not pose.dy.any()


@pytest.mark.parametrize("name, ratio", [("grow", 2.0), ("shrink", 0.5)])
def test_resize_ends_at_its_ratio_around_the_nominal_size(name, ratio):
  scale = MOTIONS[name](Motion(name, amount=2.0), U).scale
  assert scale[-1] / scale[0] == pytest.approx(ratio)
  assert np.exp(np.log(scale).mean()) == pytest.approx(1.0)


def test_still_is_still():
  pose = MOTIONS["still"](Motion(), U)
  assert not (pose.dx.any() or pose.dy.any() or pose.angle.any()) and (pose.scale == 1).all()
  assert pose.scale.shape == U.shape


@pytest.mark.parametrize("way", [1, -1])
def test_knock_meets_the_wall_on_its_side(way):
  pose = MOTIONS["knock"](Motion("knock", amount=0.4 * way, cycles=2.0), U)
  assert (way * pose.dx).max() == pytest.approx(0.2)
  assert (way * pose.dx).min() == pytest.approx(-0.2)
  assert not pose.dy.any()


@pytest.mark.parametrize("name", ["bounce", "knock"])
def test_uneven_hits_are_where_they_are_told(name):
  hits = (-0.1, 0.25, 0.5, 0.75, 1.3)
  pose = MOTIONS[name](Motion(name, amount=0.4, hits=hits), U)
  way = pose.dy if name == "bounce" else pose.dx
  assert np.flatnonzero(np.isclose(way, 0.2)).tolist() == [16, 32, 48]
  # The longer the gap, the farther: the longest reaches the whole amount.
  assert way[0] > way[40:].min() and way.min() == pytest.approx(-0.2, abs=0.01)
  assert way[24] == pytest.approx(0.2 - 0.4 * 0.25 / 0.55)
