"""Shapes: area, circumradius, symmetry and unit gradient of every distance function."""

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.scene import shapes

AREAS = {
  "circle": np.pi,
  "square": 2.0,
  "triangle": 3 * np.sqrt(3) / 4,
  "star": 5 * shapes.STAR_INNER * np.sin(np.pi / 5),
  "ring": np.pi * (1 - shapes.RING_INNER**2),
  "cross": 8 * shapes.CROSS_LENGTH * shapes.CROSS_WIDTH - 4 * shapes.CROSS_WIDTH**2,
}


def _grid(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
  axis = (np.arange(n) + 0.5) / n * 3 - 1.5
  y, x = np.meshgrid(axis, axis, indexing="ij")
  return x, y


@pytest.mark.parametrize("kind", list(AREAS))
def test_area_matches_geometry(kind):
  assert shapes.SHAPES[kind].area == pytest.approx(AREAS[kind], rel=5e-3)


@pytest.mark.parametrize("kind", list(AREAS))
def test_fits_the_unit_circle_and_is_centred(kind):
  x, y = _grid()
  inside = shapes.SHAPES[kind].distance(x, y) < 0
  assert np.hypot(x, y)[inside].max() == pytest.approx(1.0, abs=0.03)
  assert abs(x[inside].mean()) < 0.01
  assert abs(y[inside].mean()) < 0.01


@pytest.mark.parametrize("kind", list(AREAS))
def test_declared_symmetry_is_the_true_one(kind):
  shape = shapes.SHAPES[kind]
  x, y = _grid()

  def turned(angle):
    c, s = np.cos(angle), np.sin(angle)
    return shape.distance(c * x + s * y, c * y - s * x) < 0

  upright = turned(0.0)
  period = 2 * np.pi / shape.symmetry if shape.symmetry else 0.7
  assert np.mean(turned(period) != upright) < 0.01
  if shape.symmetry:
    assert np.mean(turned(period / 2) != upright) > 0.03


@pytest.mark.parametrize("kind", list(AREAS))
def test_gradient_has_unit_length_near_the_outline(kind):
  x, y = _grid()
  distance = shapes.SHAPES[kind].distance
  h = 1e-4
  gx = (distance(x + h, y) - distance(x - h, y)) / (2 * h)
  gy = (distance(x, y + h) - distance(x, y - h)) / (2 * h)
  near = np.abs(distance(x, y)) < 0.03
  assert np.mean(np.abs(np.hypot(gx, gy)[near] - 1) < 0.02) > 0.95


def test_upright_triangle_and_star_point_up():
  for kind in ("triangle", "star"):
    distance = shapes.SHAPES[kind].distance
    assert distance(np.array(0.0), np.array(-0.9)) < 0 < distance(np.array(0.0), np.array(0.9))


def test_register_refuses_a_taken_kind():
  with pytest.raises(UserError, match="circle"):
    shapes.register("circle", shapes.circle, symmetry=0)
