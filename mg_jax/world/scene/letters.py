"""Letters of the toy world: a stroke font of A to Z and how a word fills its board.

A letter is a set of line segments (curves are cut into short ones); its distance function is that
of a pen moved along them. Units are letter heights, x right, y down. The renderer turns distance
into coverage and `oracles_letters` into templates. All letters have the same width, so a board
fits any word of its length. The toy counterpart of visual text, the quoted words of [MG 3.1.4].
"""

import functools

import numpy as np

from mg_jax.core.errors import UserError

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_LETTERS = 6
# In letter heights. Wide gaps and margins keep words legible at ten pixels per letter.
WIDTH = 0.72
GAP = 0.22
PAD = 0.24  # between the letters and the edge of the board
STROKE = 0.17
PITCH = WIDTH + GAP
_ARC_STEP = 20.0  # degrees of a curve per segment

Points = tuple[tuple[float, float], ...]


def _arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> Points:
  """Points of an ellipse; 0 degrees is right, 90 is down."""
  steps = max(2, round(abs(end - start) / _ARC_STEP))
  turn = np.radians(np.linspace(start, end, steps + 1))
  return tuple((float(x + rx * np.cos(a)), float(y + ry * np.sin(a))) for a in turn)


_SPINE: Points = ((0, 0), (0, 1))
_TOP: Points = ((0, 0), (1, 0))
_BOTTOM: Points = ((0, 1), (1, 1))
_RING = _arc(0.5, 0.5, 0.5, 0.5, 0, 360)
_HEAD: Points = ((0, 0), (0.6, 0), *_arc(0.6, 0.27, 0.4, 0.27, -90, 90), (0, 0.54))

# Pen paths in a unit square: its corners are the corners of the letter.
_PATHS: dict[str, tuple[Points, ...]] = {
  "A": (((0, 1), (0.5, 0), (1, 1)), ((0.19, 0.62), (0.81, 0.62))),
  "B": (
    _SPINE,
    ((0, 0), (0.62, 0), *_arc(0.62, 0.235, 0.3, 0.235, -90, 90), (0, 0.47)),
    ((0.6, 0.47), *_arc(0.62, 0.735, 0.38, 0.265, -90, 90), (0, 1)),
  ),
  "C": (_arc(0.5, 0.5, 0.5, 0.5, -45, -315),),
  "D": (_SPINE, ((0, 0), (0.4, 0), *_arc(0.4, 0.5, 0.6, 0.5, -90, 90), (0, 1))),
  "E": (_SPINE, _TOP, ((0, 0.5), (0.8, 0.5)), _BOTTOM),
  "F": (_SPINE, _TOP, ((0, 0.5), (0.8, 0.5))),
  "G": (_arc(0.5, 0.5, 0.5, 0.5, -45, -325), ((0.91, 0.85), (0.95, 0.55), (0.55, 0.55))),
  "H": (_SPINE, ((1, 0), (1, 1)), ((0, 0.5), (1, 0.5))),
  "I": (((0.5, 0), (0.5, 1)),),
  "J": (((0.85, 0), (0.85, 0.7), *_arc(0.45, 0.7, 0.4, 0.3, 0, 180)),),
  "K": (_SPINE, ((1, 0), (0, 0.55)), ((0.36, 0.352), (1, 1))),
  "L": (_SPINE, _BOTTOM),
  "M": (((0, 1), (0, 0), (0.5, 0.6), (1, 0), (1, 1)),),
  "N": (((0, 1), (0, 0), (1, 1), (1, 0)),),
  "O": (_RING,),
  "P": (_SPINE, _HEAD),
  "Q": (_RING, ((0.52, 0.62), (1, 1.05))),
  "R": (_SPINE, _HEAD, ((0.45, 0.54), (1, 1))),
  "S": (
    (*_arc(0.5, 0.25, 0.5, 0.25, -25, -270), *_arc(0.5, 0.75, 0.5, 0.25, -90, 155)),
  ),
  "T": (_TOP, ((0.5, 0), (0.5, 1))),
  "U": (((0, 0), *_arc(0.5, 0.62, 0.5, 0.38, 180, 0), (1, 0)),),
  "V": (((0, 0), (0.5, 1), (1, 0)),),
  "W": (((0, 0), (0.25, 1), (0.5, 0.35), (0.75, 1), (1, 0)),),
  "X": (((0, 0), (1, 1)), ((1, 0), (0, 1))),
  "Y": (((0, 0), (0.5, 0.48), (1, 0)), ((0.5, 0.48), (0.5, 1))),
  "Z": (((0, 0), (1, 0), (0, 1), (1, 1)),),
}


def check(word: str) -> str:
  """Returns the word if a sign can bear it, else raises UserError."""
  if not 1 <= len(word) <= MAX_LETTERS or not set(word) <= set(ALPHABET):
    raise UserError(f"a sign cannot say {word!r}; use 1 to {MAX_LETTERS} letters from A to Z")
  return word


def board(letters: int) -> tuple[float, float]:
  """Width and height of the board of a word, in letter heights."""
  return letters * PITCH - GAP + 2 * PAD, 1 + 2 * PAD


@functools.cache
def _segments(letter: str) -> np.ndarray:
  """Starts and ends of the pen's segments, float32 (2, N, 2), relative to the letter's centre."""
  size = np.array([WIDTH, 1.0]) - STROKE
  pairs = [pair for path in _PATHS[letter] for pair in zip(path, path[1:], strict=False)]
  return ((np.array(pairs) - 0.5) * size).astype(np.float32).transpose(1, 0, 2)


def distance(letter: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Signed distance to the outline of a letter, negative inside, of points (...) relative to its
  centre."""
  start_N2, end_N2 = _segments(letter)
  along_N2 = end_N2 - start_N2
  dx, dy = x[..., None] - start_N2[:, 0], y[..., None] - start_N2[:, 1]
  length_N = (along_N2**2).sum(1)
  way = np.clip((dx * along_N2[:, 0] + dy * along_N2[:, 1]) / np.maximum(length_N, 1e-9), 0, 1)
  squared = (dx - way * along_N2[:, 0]) ** 2 + (dy - way * along_N2[:, 1]) ** 2
  return np.sqrt(squared.min(axis=-1)) - STROKE / 2


def ink(word: str, x_W: np.ndarray, y_H: np.ndarray, *, pixel: float) -> np.ndarray:
  """Coverage (H, W) in [0, 1] of a word, for columns x and rows y of pixel centres relative to the
  centre of the word; `pixel` is the side of a pixel, in letter heights."""
  out_HW = np.zeros((len(y_H), len(x_W)), np.float32)
  rows = np.flatnonzero(np.abs(y_H) < 0.5 + pixel)
  for place, letter in enumerate(check(word)):
    x_own_W = x_W - (place - (len(word) - 1) / 2) * PITCH
    cols = np.flatnonzero(np.abs(x_own_W) < PITCH / 2 + pixel)
    x, y = np.meshgrid(x_own_W[cols].astype(np.float32), y_H[rows].astype(np.float32))
    cover = np.clip(0.5 - distance(letter, x, y) / pixel, 0, 1)
    where = np.ix_(rows, cols)
    out_HW[where] = np.maximum(out_HW[where], cover)
  return out_HW
