"""Shapes of the toy world: a registry from kind to signed distance function.

A distance function takes arrays x, y in units of the shape's circumradius (y down, upright shape
at angle 0) and returns the signed distance to its outline, negative inside, with unit gradient at
the outline. The renderer turns it into coverage and the oracles into templates.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from mg_jax.core.errors import UserError

STAR_INNER = 0.45  # inner over outer radius of the five-pointed star
RING_INNER = 0.55
CROSS_LENGTH = 0.95
CROSS_WIDTH = 0.30


@dataclasses.dataclass(frozen=True)
class Shape:
  """distance: see the module. symmetry: rotations that leave it unchanged, 0 for every rotation.
  area: in squared circumradii."""

  distance: Callable[..., np.ndarray]
  symmetry: int
  area: float


def circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.hypot(x, y) - 1.0


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.abs(np.hypot(x, y) - (1 + RING_INNER) / 2) - (1 - RING_INNER) / 2


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.maximum(np.abs(x), np.abs(y)) - np.sqrt(0.5)


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.maximum(y, np.sqrt(0.75) * np.abs(x) - 0.5 * y) - 0.5


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  ax, ay = np.abs(x), np.abs(y)
  long, wide = np.maximum(ax, ay), np.minimum(ax, ay)
  return np.maximum(long - CROSS_LENGTH, wide - CROSS_WIDTH)


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  # Fold the plane into one tenth of the star: from a tip (angle 0) to the next notch (36 degrees).
  half = np.pi / 5
  theta = np.arctan2(x, -y)
  folded = np.abs(theta - 2 * half * np.round(theta / (2 * half)))
  radius = np.hypot(x, y)
  u, v = radius * np.cos(folded), radius * np.sin(folded)
  edge = np.array([STAR_INNER * np.cos(half) - 1, STAR_INNER * np.sin(half)])
  nx, ny = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
  return (u - 1) * nx + v * ny


SHAPES: dict[str, Shape] = {}


def register(kind: str, distance: Callable[..., np.ndarray], *, symmetry: int) -> None:
  """Adds a kind; its area is measured on a grid. Raises UserError if the kind exists."""
  if kind in SHAPES:
    raise UserError(f"shapes.register: kind {kind!r} exists already; choose another name")
  axis = (np.arange(256) + 0.5) / 128 - 1
  y, x = np.meshgrid(axis, axis, indexing="ij")
  inside = np.clip(0.5 - 128 * distance(x, y), 0, 1)
  SHAPES[kind] = Shape(distance, symmetry, float(inside.sum()) / 128**2)


for _kind, _distance, _symmetry in (
  ("circle", circle, 0),
  ("square", square, 4),
  ("triangle", triangle, 3),
  ("star", star, 5),
  ("ring", ring, 0),
  ("cross", cross, 4),
):
  register(_kind, _distance, symmetry=_symmetry)
