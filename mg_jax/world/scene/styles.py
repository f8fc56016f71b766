"""Styles of a whole picture: a registry from name to a function video -> video, applied last.

A style takes and returns float32 (T, H, W, 3) in 0..255 and treats every frame by itself. Widths
are fractions of the shorter side: lines and blocks are as wide at every resolution.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

_LUMA = np.float32((0.299, 0.587, 0.114))
_PAPER, _PENCIL = np.float32((240, 234, 218)), np.float32((44, 42, 54))
_INK, _WHITE = np.float32((16, 12, 22)), np.float32((250, 248, 240))
_PLAN, _CHALK = np.float32((34, 66, 132)), np.float32((226, 236, 246))
BLOCK = 3 / 64  # side of a block of pixel art
DITHER = 6.0  # grey levels
LINE = 1 / 64  # sigma of a line's blur


@dataclasses.dataclass(frozen=True)
class Style:
  """apply: the style. hides: the facts (keys of `facts.facts`) that it makes invisible. unread:
  those that people see and the object oracles, which go by colour, do not measure."""

  apply: Callable[[np.ndarray], np.ndarray]
  hides: tuple[str, ...] = ()
  unread: tuple[str, ...] = ()


def _side(v_THWC: np.ndarray) -> int:
  return min(v_THWC.shape[1:3])


def _inset(v_THWC: np.ndarray) -> np.ndarray:
  """Distance (H, W) of each pixel from the edge of the frame, in shorter sides."""
  _, height, width, _ = v_THWC.shape
  x = np.minimum(np.arange(width), np.arange(width)[::-1]) + np.float32(0.5)
  y = np.minimum(np.arange(height), np.arange(height)[::-1]) + np.float32(0.5)
  return np.minimum(x, y[:, None]) / _side(v_THWC)


def _blur(v: np.ndarray, sigma: float) -> np.ndarray:
  """Gaussian blur of axes 1 and 2; sigma in pixels."""
  reach = max(1, int(np.ceil(2 * sigma)))
  taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
  taps /= taps.sum()
  for _ in range(2):  # rows, then columns
    size = v.shape[1]
    # Each row of the matrix is the kernel around its pixel, clamped to the frame.
    band = np.zeros((size, size), np.float32)
    for offset, tap in zip(range(-reach, reach + 1), taps, strict=True):
      np.add.at(band, (np.arange(size), np.clip(np.arange(size) + offset, 0, size - 1)), tap)
    shape = v.shape
    v = np.matmul(band, v.reshape(*shape[:2], -1)).reshape(shape).swapaxes(1, 2)
  return v


def _edges(v_THWC: np.ndarray) -> np.ndarray:
  """Strength of the edges between colours, (T, H, W, 3) by channel, in grey levels per line."""
  smooth = _blur(v_THWC, 0.7 * LINE * _side(v_THWC))
  step = max(1, round(LINE * _side(v_THWC)))
  dy, dx = np.zeros_like(smooth), np.zeros_like(smooth)
  np.subtract(smooth[:, step:], smooth[:, :-step], out=dy[:, :-step])
  np.subtract(smooth[:, :, step:], smooth[:, :, :-step], out=dx[:, :, :-step])
  return np.sqrt(dx * dx + dy * dy)


def _lift(v_THWC: np.ndarray) -> np.ndarray:
  """The frames with the contrast of dark colours raised, so that lines show at night too."""
  return 24 * np.sqrt(v_THWC)


def _lines(v_THWC: np.ndarray) -> np.ndarray:
  """Coverage (T, H, W, 1) of drawn lines along the edges."""
  strength = _edges(_lift(v_THWC)).max(axis=-1, keepdims=True)
  return np.clip((strength - 13) / 20, 0, 1)


def _grey(v_THWC: np.ndarray) -> np.ndarray:
  """Luminance (T, H, W, 1), darker along edges between colours of the same luminance."""
  grey = (v_THWC @ _LUMA)[..., None]
  lost = _edges(v_THWC).max(axis=-1, keepdims=True) - 1.5 * _edges(grey)
  return np.maximum(grey - 1.6 * np.clip(lost - 12, 0, 40), 0)


def _natural(v_THWC: np.ndarray) -> np.ndarray:
  return v_THWC


def _greyscale(v_THWC: np.ndarray) -> np.ndarray:
  return np.broadcast_to(_grey(v_THWC), v_THWC.shape)


def _sepia(v_THWC: np.ndarray) -> np.ndarray:
  grey = _grey(v_THWC) / 255
  return np.float32((42, 24, 12)) + grey**np.float32(0.95) * np.float32((210, 204, 178))


def _outline(v_THWC: np.ndarray) -> np.ndarray:
  return _PAPER + _lines(v_THWC) * (_PENCIL - _PAPER)


def _blueprint(v_THWC: np.ndarray) -> np.ndarray:
  return _PLAN + _lines(v_THWC) * (_CHALK - _PLAN)


def _neon(v_THWC: np.ndarray) -> np.ndarray:
  edges = _edges(_lift(v_THWC))
  strength = edges.max(axis=-1, keepdims=True)
  # The light of a tube has the hue of the brighter side, saturated.
  hue = _blur(v_THWC, 1.5 * LINE * _side(v_THWC))
  low = hue.min(axis=-1, keepdims=True)
  hue = (hue - 0.85 * low) / (hue.max(axis=-1, keepdims=True) - 0.85 * low + 1e-3)
  tube = np.clip((strength - 9) / 26, 0, 1)
  glow = _blur(tube * hue, 2.5 * LINE * _side(v_THWC))
  return np.minimum(np.float32((14, 8, 30)) + 235 * tube * hue + 120 * glow, 255)


def _pixels(v_THWC: np.ndarray) -> np.ndarray:
  frames, height, width, _ = v_THWC.shape
  block = max(2.0, BLOCK * _side(v_THWC))
  out, checks = v_THWC, 0
  for axis, size in ((1, height), (2, width)):
    cell = np.floor((np.arange(size) + 0.5 - size / 2) / block).astype(int)
    first = np.flatnonzero(np.diff(cell, prepend=cell[0] - 1))
    count = np.diff(first, append=size)
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    mean = np.add.reduceat(out, first, axis=axis) / count.reshape(shape).astype(np.float32)
    out = np.repeat(mean, count, axis=axis)
    checks = checks + cell.reshape((-1, 1) if axis == 1 else (1, -1))
  # Few levels of brightness in the hue of the block, and a chequered dither.
  grey = (out @ _LUMA)[..., None]
  dither = np.float32(DITHER) * (2 * (checks % 2) - 1)[..., None]
  return np.clip(np.round(grey / 28) * 28 + 1.25 * (out - grey) + dither, 0, 255)


def _cartoon(v_THWC: np.ndarray) -> np.ndarray:
  flat = _blur(v_THWC, 0.6 * LINE * _side(v_THWC))
  flat = v_THWC + 0.5 * (flat - v_THWC)
  grey = (flat @ _LUMA)[..., None]
  bold = np.clip(grey + 1.25 * (flat - grey), 0, 255)
  ink = np.clip((_edges(_lift(v_THWC)).max(axis=-1, keepdims=True) - 18) / 22, 0, 1)
  drawn = bold + ink * (_INK - bold)
  # A panel of a comic: a gutter of paper, then a line.
  inset_HW1 = _inset(v_THWC)[..., None] / LINE
  drawn += np.clip(4.5 - inset_HW1, 0, 1) * (_INK - drawn)
  return drawn + np.clip(2.5 - inset_HW1, 0, 1) * (_WHITE - drawn)


def _watercolour(v_THWC: np.ndarray) -> np.ndarray:
  _, height, width, _ = v_THWC.shape
  side = _side(v_THWC)
  wet = _blur(v_THWC, 1.1 * LINE * side)
  pale = 255 - 0.8 * (255 - wet)
  # Pigment gathers at the edges of a wash, and the paper shows at the edge of the picture.
  pale -= 0.8 * np.minimum(_edges(wet).max(axis=-1, keepdims=True), 40)
  x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / side
  y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2)[:, None] / side
  ragged_x = 0.014 * np.sin(8 * y + 1) + 0.008 * np.sin(29 * y + np.sign(x))
  ragged_y = 0.014 * np.sin(7 * x + 2) + 0.008 * np.sin(31 * x + np.sign(y))
  inset = np.minimum(
    width / side / 2 - np.abs(x) - ragged_x, height / side / 2 - np.abs(y) - ragged_y
  )
  painted = np.clip((inset - 0.035) / 0.03, 0, 1)[..., None].astype(np.float32)
  wash = 1 - 0.05 * (np.sin(17 * x + 9 * y) * np.sin(13 * y - 6 * x))[..., None]
  return _PAPER + painted * (np.clip(pale * wash, 0, 250) - _PAPER)


# Of drawings in lines; some of their grounds have hardly any.
_LINES = ("colour", "background", "weather", "time")
_UNREAD = ("kind", "count", "motion", "word")
STYLES: dict[str, Style] = {
  "natural": Style(_natural),
  "greyscale": Style(_greyscale, ("colour", "time"), _UNREAD),
  "sepia": Style(_sepia, ("colour", "time"), _UNREAD),
  "outline": Style(_outline, _LINES, _UNREAD),
  "blueprint": Style(_blueprint, _LINES, _UNREAD),
  "neon": Style(_neon, _LINES, _UNREAD),
  "pixel art": Style(_pixels),
  "cartoon": Style(_cartoon, unread=("colour", *_UNREAD)),
  "watercolour": Style(_watercolour),
}
