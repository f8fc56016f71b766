"""Letter oracle: reads the word on a sign from pixels alone.

A board is a filled rectangle that stands out from the background; letters stand out from the board.
Its height sets the size of the letters, so every place where a letter may be is compared with
templates of the alphabet (in several sizes and blurs, slightly shifted), and the number of letters
is the one that explains all the ink. Part of `oracles.measure`; measures the purpose of ByT5 in
[MG 3.1.4].
"""

import dataclasses
import functools

import numpy as np

from mg_jax.world.oracles import textured
from mg_jax.world.oracles.mask import MIN_CONTRAST, background
from mg_jax.world.scene import letters
from mg_jax.world.scene.letters import ALPHABET, GAP, MAX_LETTERS, PAD, PITCH, WIDTH

MAX_FRAMES = 6  # frames read per clip, evenly spaced
MIN_BOARD = 0.02  # least fraction of a clip's pixels that stand out if there is a board
MIN_FILL = 0.85  # fraction of a board's rim; a circle or a star fills far less of its rectangle
MAX_BESIDE = 0.04  # fraction of the standing-out pixels that may be outside the board
STRONGEST = 0.08  # fraction of a board's pixels that sets the colour of its ink
MIN_CONFIDENCE = 0.7  # drawn signs reach 0.9, even degraded; shapes hardly exceed 0.7
ROWS, COLS = 16, 12  # grid of a letter
MARGIN = 0.06  # around a letter, in letter heights like the shifts
SHIFTS = ((-0.12, -0.06, 0.0, 0.06, 0.12), (-0.08, 0.0, 0.08))  # x, y
SCALES = (0.92, 1.0, 1.08)
BLURS = (0.03, 0.08)  # Gaussian sigma in letter heights
_FAINT = 1.5  # norm of a patch below which there is no letter
_VARIANTS = len(SCALES) * len(BLURS)
_Y = ((np.arange(ROWS) + 0.5) / ROWS - 0.5) * (1 + 2 * MARGIN)
_X = ((np.arange(COLS) + 0.5) / COLS - 0.5) * (WIDTH + 2 * MARGIN)


@dataclasses.dataclass(frozen=True)
class Reading:
  """word: None without a legible sign. confidence: [0, 1], correlation of letters and templates.
  board, ground: colours (3,) of the board and of the background, None without a board."""

  word: str | None
  confidence: float
  board: np.ndarray | None = None
  ground: np.ndarray | None = None


def letter_accuracy(read: str | None, wanted: str) -> float:
  """Fraction of correct letters, in [0, 1]: 1 - edit distance / length of the longer word."""
  read = read or ""
  row = list(range(len(wanted) + 1))
  for i, have in enumerate(read, 1):
    last, row[0] = row[0], i
    for j, want in enumerate(wanted, 1):
      last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (have != want))
  return 1 - row[-1] / max(len(read), len(wanted), 1)


def read(video: np.ndarray) -> Reading:
  """Reads the sign of a clip (T, H, W, 3) in 0..255; unsteady letters lower the confidence."""
  frames = np.linspace(0, len(video) - 1, min(len(video), MAX_FRAMES)).round().astype(int)
  v_THWC = video[frames].astype(np.float32)
  if textured.tint(v_THWC) > textured.MIN_TINT:
    alpha_THW, _, ground = textured.foreground(v_THWC)
    shown_T = (alpha_THW > 0.5).any(axis=(1, 2))
    v_THWC, cover_THW = v_THWC[shown_T], np.minimum(alpha_THW[shown_T], 1)
    strong_THW = cover_THW > 0.5
  else:
    ground_THWC = background(v_THWC, edge=True)  # a board may fill most of the frame
    ground = np.median(ground_THWC, axis=(0, 1, 2))
    away_THW = np.linalg.norm(v_THWC - ground_THWC, axis=-1)
    # Ink on a light background has up to twice the contrast of its board.
    strong_THW = away_THW > max(MIN_CONTRAST, 0.4 * float(np.quantile(away_THW, 1 - MIN_BOARD)))
    if strong_THW.any():
      cover_THW = np.minimum(away_THW / np.median(away_THW[strong_THW]), 1)
  if not len(v_THWC) or strong_THW.mean() < MIN_BOARD / 2:
    return Reading(None, 0.0)
  box_T4 = np.stack([*_extent(cover_THW.sum(1)), *_extent(cover_THW.sum(2))], axis=1)
  filled_T = cover_THW[_rim(box_T4, v_THWC.shape)].mean(axis=1)
  solid_THW = cover_THW > 0.5
  beside_T = (solid_THW & ~_inside(box_T4, v_THWC.shape, inset_T=-1)).mean(axis=(1, 2))
  framed_T = (filled_T >= MIN_FILL) & (beside_T <= MAX_BESIDE * solid_THW.mean(axis=(1, 2)))
  if framed_T.mean() < 0.5:
    return Reading(None, 0.0)
  v_THWC, box_T4 = v_THWC[framed_T], box_T4[framed_T]
  board = np.median(v_THWC[_rim(box_T4, v_THWC.shape)], axis=(0, 1))
  ink_THW = _ink(v_THWC, box_T4, board)
  if ink_THW is None:
    return Reading(None, 0.0, board, ground)
  word, confidence = _spell(ink_THW, box_T4)
  return Reading(word if confidence >= MIN_CONFIDENCE else None, confidence, board, ground)


def _extent(profile_TK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Both ends (T,) of the standing-out pixels along an axis, with subpixel fractions. The margins
  of a board are fully covered, whatever is written between them."""
  share_TK = np.pad(profile_TK / profile_TK.max(axis=1, keepdims=True), ((0, 0), (1, 1)))
  t = np.arange(len(share_TK))
  inside_TK = share_TK > 0.5
  first_T = inside_TK.argmax(axis=1)
  last_T = share_TK.shape[1] - 1 - inside_TK[:, ::-1].argmax(axis=1)
  start_T = first_T + 1 - share_TK[t, first_T] - share_TK[t, first_T - 1]
  stop_T = last_T + share_TK[t, last_T] + share_TK[t, last_T + 1]
  return start_T - 1, stop_T - 1


def _unit(box_T4: np.ndarray) -> np.ndarray:
  """Height (T,) of a letter on boards (left, right, top, bottom), in pixels."""
  return (box_T4[:, 3] - box_T4[:, 2]) / letters.board(1)[1]


def _rim(box_T4: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Pixels (T, N) along the middle of the free margin of each board: indices t, y, x."""
  inset = PAD / 2 * _unit(box_T4)[:, None]
  left, right, top, bottom = (side[:, None] for side in box_T4.T)
  way = np.linspace(0, 1, 24)
  x_TK = left + inset + way * (right - left - 2 * inset)
  y_TK = top + inset + way * (bottom - top - 2 * inset)
  ones = np.ones_like(way)
  x_TN = np.concatenate([x_TK, x_TK, (left + inset) * ones, (right - inset) * ones], axis=1)
  y_TN = np.concatenate([(top + inset) * ones, (bottom - inset) * ones, y_TK, y_TK], axis=1)
  y_TN = np.clip(np.floor(y_TN).astype(int), 0, shape[1] - 1)
  x_TN = np.clip(np.floor(x_TN).astype(int), 0, shape[2] - 1)
  return np.arange(len(box_T4))[:, None], y_TN, x_TN


def _inside(box_T4: np.ndarray, shape: tuple[int, ...], *, inset_T: np.ndarray | int) -> np.ndarray:
  """Mask (T, H, W) of pixels whose centre is inside each board, `inset_T` from its edge."""
  inner_4T = box_T4.T + np.array([[1], [-1], [1], [-1]]) * inset_T
  left, right, top, bottom = (side[:, None] for side in inner_4T)
  y, x = np.arange(shape[1]) + 0.5, np.arange(shape[2]) + 0.5
  return ((y > top) & (y < bottom))[:, :, None] & ((x > left) & (x < right))[:, None]


def _ink(v_THWC: np.ndarray, box_T4: np.ndarray, board: np.ndarray) -> np.ndarray | None:
  """Fraction (T, H, W) of ink per pixel, 0 outside the letters' area; None on an empty board."""
  room_THW = _inside(box_T4, v_THWC.shape, inset_T=PAD / 2 * _unit(box_T4))
  away_NC = v_THWC[room_THW] - board
  size_N = np.linalg.norm(away_NC, axis=1)
  strongest = int(np.ceil(STRONGEST * len(size_N)))
  if not strongest:
    return None
  direction = np.median(away_NC[np.argpartition(size_N, -strongest)[-strongest:]], axis=0)
  if np.linalg.norm(direction) < MIN_CONTRAST:
    return None
  ink_THW = np.zeros(room_THW.shape, np.float32)
  ink_THW[room_THW] = np.clip(away_NC @ direction / (direction @ direction), 0, 1.2)
  return ink_THW


@functools.cache
def _templates() -> np.ndarray:
  """Letters on the grid, zero mean and unit norm: float32 (ROWS * COLS, 26 * sizes * blurs)."""
  fine = 4
  y = ((np.arange(fine * ROWS) + 0.5) / (fine * ROWS) - 0.5) * (1 + 2 * MARGIN)
  x = ((np.arange(fine * COLS) + 0.5) / (fine * COLS) - 0.5) * (WIDTH + 2 * MARGIN)
  out = []
  for letter in ALPHABET:
    for scale in SCALES:
      mask = letters.distance(letter, *np.meshgrid(x / scale, y / scale)) < 0
      for blur in BLURS:
        down, across = (
          np.exp(-0.5 * ((coarse[:, None] - axis) / blur) ** 2) * blur**-1
          for coarse, axis in ((_Y, y), (_X, x))
        )
        soft = (down @ mask @ across.T).reshape(-1)
        soft -= soft.mean()
        out.append(soft / np.linalg.norm(soft))
  return np.array(out, np.float32).T


def _spell(ink_THW: np.ndarray, box_T4: np.ndarray) -> tuple[str, float]:
  """The word that explains the ink best, and its confidence."""
  best_PA, unit_T = _match(ink_THW, box_T4), _unit(box_T4)
  middle_T = (box_T4[:, 0] + box_T4[:, 1]) / 2
  column_W = np.arange(ink_THW.shape[2]) + 0.5
  from_middle_TW = np.abs(column_W - middle_T[:, None]) / unit_T[:, None]
  mass_TW = ink_THW.sum(axis=1)
  candidates = []
  for length in range(1, MAX_LETTERS + 1):
    score_NA = best_PA[MAX_LETTERS - length : MAX_LETTERS + length - 1 : 2]
    inside_TW = from_middle_TW < (length * PITCH - GAP) / 2 + MARGIN
    explained = mass_TW[inside_TW].sum() / mass_TW.sum()
    word = "".join(ALPHABET[i] for i in score_NA.argmax(axis=1))
    candidates.append((float(score_NA.max(axis=1).mean() * explained), word))
  confidence, word = max(candidates)
  return word, min(1.0, max(0.0, confidence))


def _match(ink_THW: np.ndarray, box_T4: np.ndarray) -> np.ndarray:
  """Correlation (P, 26) of the places of letters, half a pitch apart around the board's centre,
  with each letter: best over shifts and templates, mean over frames."""
  places = (np.arange(2 * MAX_LETTERS - 1) - MAX_LETTERS + 1) * PITCH / 2
  unit = _unit(box_T4)[:, None, None, None]
  middle_x, middle_y = box_T4[:, :2].mean(axis=1), box_T4[:, 2:].mean(axis=1)
  x = places[:, None, None] + np.array(SHIFTS[0])[:, None] + _X  # (P, shifts, COLS)
  y = (np.array(SHIFTS[1])[:, None] + _Y)[None]  # (1, shifts, ROWS)
  x_TPSX = middle_x[:, None, None, None] + unit * x - 0.5
  y_T1SY = middle_y[:, None, None, None] + unit * y - 0.5
  # Bilinear sampling is separable: a matrix for the rows and one for the columns.
  rows = np.arange(ink_THW.shape[1], dtype=np.float32)
  cols = np.arange(ink_THW.shape[2], dtype=np.float32)
  down = np.maximum(0, 1 - np.abs(y_T1SY[:, 0, :, :, None] - rows)).astype(np.float32)
  across = np.maximum(0, 1 - np.abs(x_TPSX[..., None] - cols)).astype(np.float32)
  half = np.einsum("tsyh,thw->tsyw", down, ink_THW, optimize=True)
  patch = np.einsum("tsyw,tprxw->tpsryx", half, across, optimize=True)
  frames, positions = patch.shape[:2]
  flat = patch.reshape(-1, ROWS * COLS)
  flat = flat - flat.mean(axis=1, keepdims=True)
  flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), _FAINT)
  cosine = (flat @ _templates()).reshape(frames, positions, -1, len(ALPHABET), _VARIANTS)
  return cosine.max(axis=(2, 4)).mean(axis=0)
