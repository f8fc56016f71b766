"""Painting of grounds: a canvas in the coordinates of the scene, and shapes that cover parts of it.

A canvas has as many frames as the camera has views, one if it is static. Shapes are signed distance
functions of `x`, `y`, in units of the frame's shorter side like all lengths of a scene; they become
coverage with a ramp one pixel wide, so a ground looks alike at every resolution.
"""

import numpy as np

Colour = tuple[float, float, float]


class Canvas:
  """Frames `v_THWC` of float32 in 0..255 with the coordinates x (T, 1, W) and y (T, H, 1)."""

  def __init__(self, *, height: int, width: int, zoom_T: np.ndarray, shift_T: np.ndarray):
    side = min(height, width)
    x_W = (np.arange(width) + 0.5 - width / 2) / side
    y_H = (np.arange(height) + 0.5 - height / 2) / side
    self.x = ((x_W - shift_T[:, None]) / zoom_T[:, None]).astype(np.float32)[:, None, :]
    self.y = (y_H / zoom_T[:, None]).astype(np.float32)[:, :, None]
    self.pixel = (1 / (side * zoom_T)).astype(np.float32)[:, None, None]
    self.v_THWC = np.empty((len(zoom_T), height, width, 3), np.float32)

  def crop(self, left: float, right: float, top: float, bottom: float) -> "Canvas":
    """The part of the canvas around a rectangle, to paint in place what is inside of it alone."""
    x_W = ((self.x > left - self.pixel) & (self.x < right + self.pixel)).any(axis=(0, 1))
    y_H = ((self.y > top - self.pixel) & (self.y < bottom + self.pixel)).any(axis=(0, 2))
    cols, rows = (
      slice(*(np.flatnonzero(inside)[[0, -1]] + (0, 1) if inside.any() else (0, 0)))
      for inside in (x_W, y_H)
    )
    part = object.__new__(Canvas)
    part.x, part.y, part.pixel = self.x[:, :, cols], self.y[:, rows], self.pixel
    part.v_THWC = self.v_THWC[:, rows, cols]
    return part

  def fill(self, first: Colour, second: Colour, mix: np.ndarray) -> None:
    """Blends two colours over the whole canvas, `mix` 0 for the first and 1 for the second."""
    first, second = (np.asarray(colour, np.float32) for colour in (first, second))
    self.v_THWC[:] = first + np.asarray(mix, np.float32)[..., None] * (second - first)

  def paint(self, distance: np.ndarray, colour: Colour, opacity: float = 1.0) -> None:
    """Covers the inside of a shape, its negative distances."""
    self.blend(self.cover(distance) * np.float32(opacity), colour)

  def blend(self, alpha: np.ndarray, colour: Colour) -> None:
    """Covers with a coverage in [0, 1] that broadcasts to (T, H, W)."""
    away = np.asarray(colour, np.float32) - self.v_THWC
    self.v_THWC += alpha[..., None].astype(np.float32) * away

  def cover(self, distance: np.ndarray) -> np.ndarray:
    """Coverage in [0, 1] of each pixel by the inside of a shape."""
    return np.clip(0.5 - distance / self.pixel, 0, 1, dtype=np.float32)

  def disc(self, x: float, y: float, radius: float) -> np.ndarray:
    """Distance to a disc."""
    return np.sqrt((self.x - x) ** 2 + (self.y - y) ** 2) - np.float32(radius)

  def box(self, x: float, y: float, half_x: float, half_y: float) -> np.ndarray:
    """Distance to a rectangle of half sides half_x and half_y."""
    return np.maximum(np.abs(self.x - x) - half_x, np.abs(self.y - y) - half_y)

  def peak(self, x: float, y: float, half_x: float, height: float) -> np.ndarray:
    """Distance to an upright triangle with its tip at (x, y)."""
    scale = height / np.hypot(half_x, height)
    sides = (np.abs(self.x - x) - (self.y - y) * (half_x / height)) * scale
    return np.maximum(sides, self.y - y - height)

  def below(self, line: np.ndarray | float, slope: float = 0.0) -> np.ndarray:
    """Distance to everything below a line y = f(x); slope: its typical steepness."""
    return (line - self.y) / np.float32(np.hypot(1, slope))


def repeat(values: np.ndarray, period: float) -> np.ndarray:
  """Offsets from the middle of the nearest cell of a period, in [-period / 2, period / 2]."""
  return values - period * np.round(values / period)


def scatter(*cells: np.ndarray, seed: int) -> np.ndarray:
  """A number in [0, 1) that looks random for each cell, given by integer coordinates."""
  value = np.uint32(2654435769 * (seed + 1) % 2**32)
  for cell in cells:
    value = (value ^ cell.astype(np.int32).astype(np.uint32)) * np.uint32(2246822519)
    value ^= value >> np.uint32(15)
  value = (value * np.uint32(3266489917)) >> np.uint32(8)
  return value.astype(np.float32) * np.float32(2**-24)
