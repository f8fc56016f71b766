"""The layers of a person: a head in two and a half dimensions over neck and shirt.

A head is an ellipsoid in head units (half the height of a face is about 1; x right, y down, z
towards the camera). Features are flat drawings at a point of it, which move and shorten as it
turns; hair is a region of its surface. Every layer is the coverage of one colour in a window of the
frames, so that the renderer blends them in order and the oracles compare single ones.
"""

import dataclasses

import numpy as np

from mg_jax.world.people.facts import BROWS, EYES, HAIRS, SHAPES, SHOTS, SKINS, Identity, Person
from mg_jax.world.people.motion import Curves

INK = (38, 30, 40)
WHITE = (252, 252, 252)
MOUTH = (96, 22, 36)
CRIMSON = (214, 26, 62)
PLASTER = (252, 244, 226)
EYE_X, EYE_Y = 0.37, 0.0
EYE_RX, EYE_RY = 0.235, 0.235
IRIS, PUPIL = 0.165, 0.075
SHADOW = 0.62  # brightness of the side away from a light
SPREAD = 2.0  # largest area of the box around all windows of a layer, in windows
DIM = (0.46, 0.46, 0.58)  # brightness of a dim scene, by channel


@dataclasses.dataclass
class Layer:
  """Coverage (T or 1, h, w) of a colour (3,), or of colours (3, T or 1, h, w), in a window of the
  frames; `where` indexes (T, H, W). Layers that are the same in all frames are drawn once."""

  where: tuple
  cover: np.ndarray
  colour: np.ndarray


@dataclasses.dataclass
class Heads:
  """Where a head is in each frame, (T,): centre and head unit in pixels, yaw and pitch in radians;
  size of the frames (height, width)."""

  x: np.ndarray
  y: np.ndarray
  unit: np.ndarray
  yaw: np.ndarray
  pitch: np.ndarray
  size: tuple[int, int]

  def __post_init__(self):
    self.fixed = not (np.ptp(self.x) or np.ptp(self.y) or np.ptp(self.unit))

  def window(self, left, top, right, bottom, *, margin=1.5):
    """Pixels of a box in head units around each centre, each bound a number or (T,): index `where`,
    coordinates x (T, 1, w) and y (T, h, 1) in head units, and the head unit (T, 1, 1) in pixels.
    None outside of all frames. Boxes that never move are drawn once, with T = 1."""
    x, y, unit = self.x, self.y, self.unit
    if self.fixed:
      x, y, unit = x[:1], y[:1], unit[:1]
    height, width = self.size
    row_T, below_T = y + top * unit - margin, y + bottom * unit + margin
    col_T, beside_T = x + left * unit - margin, x + right * unit + margin
    frames = max(len(row_T), len(col_T))
    if frames > 1 and not np.ptp(row_T) and not np.ptp(col_T) and not np.ptp(beside_T):
      frames = 1
    rows = min(height, int((below_T - row_T).max()) + 2)
    cols = min(width, int((beside_T - col_T).max()) + 2)
    first_row, last_row = _span(row_T, below_T, height)
    first_col, last_col = _span(col_T, beside_T, width)
    if first_row >= last_row or first_col >= last_col:
      return None
    if frames == 1 or (last_row - first_row) * (last_col - first_col) < SPREAD * rows * cols:
      # The box around all boxes: slices are much faster than indices.
      where = (slice(None), slice(first_row, last_row), slice(first_col, last_col))
      row, col = np.arange(first_row, last_row)[None], np.arange(first_col, last_col)[None]
    else:
      row = np.clip(np.floor(row_T).astype(int), 0, height - rows)[:, None] + np.arange(rows)
      col = np.clip(np.floor(col_T).astype(int), 0, width - cols)[:, None] + np.arange(cols)
      where = (np.arange(len(self.x))[:, None, None], row[:, :, None], col[:, None, :])
    if frames == 1 and not self.fixed:
      x, y, unit = x[:1], y[:1], unit[:1]
    y_T = (row + 0.5 - y[:, None]) / unit[:, None]
    x_T = (col + 0.5 - x[:, None]) / unit[:, None]
    unit_T = unit.astype(np.float32)[:, None, None]
    return where, x_T.astype(np.float32)[:, None, :], y_T.astype(np.float32)[:, :, None], unit_T


def _span(low_T: np.ndarray, high_T: np.ndarray, size: int) -> tuple[int, int]:
  """First and last index, exclusive, of the pixels between the least low and the greatest high."""
  return max(0, int(np.floor(low_T.min()))), min(size, int(np.ceil(high_T.max())))


def heads(
  person: Person, curves: Curves, *, height: int, width: int, zoom_T=1.0, shift_T=0.0
) -> Heads:
  """Places the head of a person in frames of a size, under a camera's zoom and shift."""
  unit, middle = SHOTS[person.shot]
  side = min(height, width)
  x = ((person.x + curves.dx) * zoom_T + shift_T) * side + width / 2
  y = (middle + person.y + curves.dy) * zoom_T * side + height / 2
  return Heads(x, y, unit * zoom_T * side + 0 * x, curves.yaw, curves.pitch, (height, width))


def still(*arrays_T: np.ndarray) -> list[np.ndarray]:
  """Arrays (T,) as (T, 1, 1) float32, or (1, 1, 1) each if all are constant."""
  if not any(np.ptp(a) for a in arrays_T):
    arrays_T = [np.ravel(a)[:1] for a in arrays_T]
  return [np.asarray(a, np.float32).reshape(-1, 1, 1) for a in arrays_T]


def cover(distance, unit):
  """Coverage of pixels at a signed distance in head units."""
  return np.clip(0.5 - distance * unit, 0, 1)


def ellipse(x, y, rx, ry):
  """Signed distance to an ellipse, exact at its outline in the first order."""
  x, y = x / rx, y / ry
  size = np.sqrt(x * x + y * y)
  return size * (size - 1) / np.sqrt((x / rx) ** 2 + (y / ry) ** 2 + 1e-6)


def box(x, y, rx, ry, corner=0.0):
  """Signed distance to a box with rounded corners."""
  x, y = np.abs(x) - (rx - corner), np.abs(y) - (ry - corner)
  outside = np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2)
  return outside + np.minimum(np.maximum(x, y), 0) - corner


def half_width(face: str, y):
  """Half width `a` of a face's ellipse at the heights y, wider at a square jaw."""
  a, b, jaw = SHAPES[face]
  if not jaw:
    return a
  v = np.clip(y / b, 0, 1)
  return a * (1 + jaw * v * v * (1 + 1.2 * v))


class Feature:
  """Local coordinates of a flat drawing at (x, y) of a head seen from the front.

  x, y: (T, h, w) coordinates of the drawing in head units. unit: pixels per head unit for its
  coverage, smaller where it is shortened, 0 on the far side.
  """

  def __init__(self, head: Heads, face: str, x, y, rx, ry, *, out: float = 1.0):
    a, b, _ = SHAPES[face]
    u, v = np.asarray(x, np.float64) / a, np.asarray(y, np.float64) / b
    z = np.sqrt(np.maximum(1 - u * u - v * v, 0.01))
    lon, lat = np.arctan2(u, z) + head.yaw, np.arcsin(np.clip(v, -0.99, 0.99)) + head.pitch
    around = np.hypot(u, z)
    cx, cy = out * a * around * np.sin(lon), out * b * np.sin(lat)
    fx = np.maximum(np.cos(lon) / np.cos(np.arctan2(u, z)), 0.02)
    fy = np.cos(lat) / np.cos(np.arcsin(np.clip(v, -0.99, 0.99)))
    found = head.window(cx - rx * fx, cy - ry * fy, cx + rx * fx, cy + ry * fy)
    self.visible = found is not None
    if not self.visible:
      return
    self.where, x_T, y_T, unit = found
    cx, cy, fx, fy, seen = still(cx, cy, fx, fy, 1.0 * (np.cos(lon) > 0.1))
    self.x, self.y = (x_T - cx) / fx, (y_T - cy) / fy
    # Coverage ramps over one pixel of the shorter axis.
    self.unit = unit * np.sqrt(fx * fy)
    self.seen = seen

  def layer(self, distance, colour) -> Layer:
    return Layer(self.where, cover(distance, self.unit) * self.seen, np.asarray(colour, np.float32))


def outline(face: str, x, y, grow: float = 1.0, lift: float = 0.0):
  """Points (u, v) relative to a face's ellipse, grown and lifted, and signed distance to it."""
  wide, tall = grow * half_width(face, y), grow * SHAPES[face][1]
  u, v = x / wide, (y + lift) / tall
  size = np.sqrt(u * u + v * v)
  return u, v, size * (size - 1) / np.sqrt((u / wide) ** 2 + (v / tall) ** 2 + 1e-6)


def surface(head: Heads, face: str, grow: float, lift: float):
  """Points of the head's ellipsoid, grown by `grow` and lifted.

  Returns the window, its coordinates x and y and its unit, the distance to the outline, and the
  points (x, y, z) of the unit sphere as they are when the head faces the camera; None if invisible.
  """
  a, b, _ = SHAPES[face]
  reach = grow * a * 1.45
  found = head.window(-reach, -lift - grow * b, reach, grow * b)
  if found is None:
    return None
  where, x, y, unit = found
  u, v, edge = outline(face, x, y, grow, lift)
  z = np.sqrt(np.maximum(1 - u * u - v * v, 0))
  sin_p, cos_p, sin_y, cos_y = still(
    *(f(angle) for angle in (head.pitch, head.yaw) for f in (np.sin, np.cos))
  )
  yh, z = v * cos_p - z * sin_p, v * sin_p + z * cos_p
  return (where, x, y, unit), edge, (u * cos_y - z * sin_y, yh, u * sin_y + z * cos_y)


def skull(head: Heads, who: Identity) -> Layer | None:
  """The bare face, from crown to chin."""
  a, b, _ = SHAPES[who.face]
  found = head.window(-1.45 * a, -b, 1.45 * a, b)
  if found is None:
    return None
  where, x, y, unit = found
  return Layer(where, cover(outline(who.face, x, y)[2], unit), colour(SKINS[who.skin]))


def colour(rgb, factor: float = 1.0) -> np.ndarray:
  return np.asarray(rgb, np.float32) * np.float32(factor)


def planes(rgb) -> np.ndarray:
  """A colour as (3, 1, 1, 1), to be blended by coverages (T, h, w)."""
  return np.asarray(rgb, np.float32)[:, None, None, None]


def ears(head: Heads, who: Identity) -> list[Layer]:
  """The ears, behind the face; the far one disappears as the head turns."""
  out = []
  a, _, _ = SHAPES[who.face]
  for side in (-1, 1):
    x = side * a * np.cos(head.yaw) * 1.02
    found = head.window(x - 0.2, -0.2, x + 0.2, 0.35)
    if found is None:
      continue
    where, x_T, y_T, unit = found
    (x,) = still(x)
    (y,) = still(0.6 * head.pitch + 0.08)
    distance = ellipse(x_T - x, y_T - y, 0.15, 0.22)
    out.append(Layer(where, cover(distance, unit), colour(SKINS[who.skin], 0.9)))
  return out


def body(head: Heads, who: Identity, shirt) -> list[Layer]:
  """Neck, shoulders in a shirt, and its neckline."""
  neck = head.window(-0.42, 0.55, 0.42, 1.6)
  shoulders = head.window(-2.0, 1.1, 2.0, 4.0)
  out = []
  if shoulders is not None:
    where, x, y, unit = shoulders
    out.append(Layer(where, cover(ellipse(x, y - 2.62, 1.72, 1.5), unit), colour(shirt)))
  if neck is not None:
    where, x, y, unit = neck
    skin = colour(SKINS[who.skin], 0.86)
    column = box(x, y - 0.9, 0.34, 0.5, 0.1)
    out.append(Layer(where, cover(np.minimum(column, ellipse(x, y - 1.2, 0.4, 0.26)), unit), skin))
  return out


def eyes(head: Heads, who: Identity, curves: Curves) -> list[Layer]:
  """White, iris, pupil, highlight and upper lid of both eyes, as one layer of colours each."""
  out = []
  gaze_x, gaze_y, size = still(curves.gaze_x, curves.gaze_y, curves.eye)
  white, dark, iris_colour = (planes(c) for c in (WHITE, INK, EYES[who.eyes]))
  for side in (-1, 1):
    part = Feature(head, who.face, side * EYE_X, EYE_Y, 0.31, 0.34)
    if not part.visible:
      continue
    x, y, unit = part.x / size, part.y / size, part.unit * size
    ix, iy = x - 0.085 * gaze_x, y - 0.09 * gaze_y
    ball = np.maximum(ellipse(x, y, EYE_RX, EYE_RY), -0.19 - y)
    far = np.sqrt(ix * ix + iy * iy)
    lid = cover(np.maximum(np.abs(ball + 0.01) - 0.04, y + 0.1), unit)
    tint = white + cover(far - IRIS, unit) * (iris_colour - white)
    tint = tint + cover(far - PUPIL, unit) * (dark - tint)
    tint = tint + cover(np.hypot(ix - 0.06, iy + 0.07) - 0.035, unit) * (white - tint)
    out.append(Layer(part.where, cover(ball, unit) * part.seen, tint))
    out.append(Layer(part.where, lid * part.seen, colour(INK)))
  return out


def brows(head: Heads, who: Identity, curves: Curves) -> list[Layer]:
  """Two strokes; `frown` lowers their inner ends."""
  out = []
  half = BROWS[who.brows]
  raised, frown = still(curves.raised, curves.frown)
  for side in (-1, 1):
    part = Feature(head, who.face, side * 0.39, -0.41, 0.3, 0.34)
    if not part.visible:
      continue
    outward = side * part.x / 0.22
    y = part.y + raised + frown * outward + 0.03 * outward * outward
    distance = np.maximum(np.abs(y) - half, np.abs(part.x) - 0.23)
    out.append(part.layer(distance, colour(HAIRS[who.hair], 0.5)))
  return out


def nose(head: Heads, who: Identity) -> list[Layer]:
  part = Feature(head, who.face, 0.0, 0.27, 0.16, 0.16, out=1.16)
  if not part.visible:
    return []
  return [part.layer(ellipse(part.x, part.y, 0.1, 0.085), colour(SKINS[who.skin], 0.8))]


def mouth(head: Heads, who: Identity, curves: Curves) -> list[Layer]:
  """Lips as a stroke that curves and opens, and the teeth in it."""
  part = Feature(head, who.face, 0.0, 0.56, 0.45, 0.34)
  if not part.visible:
    return []
  width, curve, opening, teeth = still(curves.width, curves.curve, curves.open, curves.teeth)
  x = part.x / width
  bow = np.maximum(1 - x * x, 0)
  # A smile opens downwards from its upper lip, other mouths to both sides.
  middle = curve * (bow - 0.5) + opening * bow * np.minimum(np.maximum(curve, 0) * 2.5, 0.5)
  half = 0.05 + opening / 2 * np.sqrt(bow)
  y = part.y - middle
  shape = np.maximum(np.abs(y) - half, np.abs(part.x) - width - 0.03)
  out = [part.layer(shape, MOUTH)]
  if np.any(curves.teeth > 0):
    inner = np.maximum(np.abs(y) - (half - 0.055), np.abs(part.x) - width + 0.05)
    band = y + half - 0.055 - teeth * (2 * half - 0.11)
    row = part.layer(np.maximum(inner, band), WHITE)
    row.cover = row.cover * np.minimum(1, 8 * teeth)
    out.append(row)
  return out


def glasses(head: Heads, who: Identity) -> list[Layer]:
  """Thin dark rings or thick crimson rectangles, joined over the nose."""
  if who.glasses == "none":
    return []
  out = []
  ring = who.glasses == "round"
  tint = INK if ring else CRIMSON
  for side in (-1, 1):
    part = Feature(head, who.face, side * EYE_X, EYE_Y + 0.02, 0.42, 0.42, out=1.03)
    if not part.visible:
      continue
    x, y = part.x, part.y
    if ring:
      frame = np.abs(np.hypot(x, y) - 0.325) - 0.036
    else:
      frame = np.abs(box(x, y, 0.33, 0.29, 0.06)) - 0.045
    out.append(part.layer(frame, tint))
  part = Feature(head, who.face, 0.0, -0.06, 0.12, 0.1, out=1.06)
  if part.visible:
    out.append(part.layer(box(part.x, part.y, 0.08, 0.04), tint))
  return out
