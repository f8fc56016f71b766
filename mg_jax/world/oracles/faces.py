"""Face finder: where the head of a person is in each frame, and which way it faces.

A pair of eyes is white and dark on skin of any lightness, so a patch of the darkest channel is
compared with the plane that templates of eyes span: every turn, nod, gaze and pair of glasses. A
coarse search over the frame is refined around its best places. First half of the oracles of people.
"""

import dataclasses
import functools

import numpy as np

from mg_jax.world.people import drawing
from mg_jax.world.people.drawing import DIM, EYE_Y, Heads
from mg_jax.world.people.facts import GLASSES, SHAPES, SHOTS, SKINS, Identity, Person
from mg_jax.world.people.motion import MAX_YAW, curves

SIDE = 64  # shorter side of the frames that are measured
PITCHES = (0.0, 0.15, 0.3, 0.45)
YAWS = tuple(np.linspace(-MAX_YAW, MAX_YAW, 17))
TILTS = (0.0, 0.2)
COARSE = (1.6, 0.85)  # half width and height of a coarse template in head units
SIDES = (-1, 0, 1)
GUESSES, FEW_FRAMES = 6, 6  # looked at more closely before one is chosen
FEW_YAWS = tuple(np.linspace(-MAX_YAW, MAX_YAW, 7))
ROWS = (0.22, 0.6)  # where eyes may be, in fractions of the height
BLOB = (15, 13)  # rows and columns of an area of skin, in pixels of half the size
# Logarithm of how much likelier a pixel looks like skin, like the grey of eyes, or like neither, if
# a face shows this there. Hair, a beard and the mouth may cover skin; any ground may be around it.
GAINS = {
  "skin": (1.0, -1.8, -1.3),
  "eye": (-1.8, 1.6, 0.1),
  "frame": (-1.6, 1.2, 0.5),
  "covered": (0.6, -0.5, 0.0),
  "outside": (-1.1, 0.0, 0.0),
}
RARE = 0.1  # the same logarithm for heads that are turned as far as they can
MIN_SCORE = 0.0
FACE = "square"  # the shape of the templates' head: the one in the middle


TRACKS = ("x", "y", "yaw", "pitch", "score")


@dataclasses.dataclass(frozen=True)
class Faces:
  """Faces of a clip, (T,): centre of the eyes in pixels, yaw and pitch in radians, score in 0..1.

  tone (of the skin), shot, glasses: of all frames. shapes: the same, for other shapes of a face.
  """

  x: np.ndarray
  y: np.ndarray
  yaw: np.ndarray
  pitch: np.ndarray
  score: np.ndarray
  tone: str
  shot: str
  glasses: str
  shapes: dict[str, "Faces"] = dataclasses.field(default_factory=dict)

  @property
  def seen(self) -> np.ndarray:
    """Frames (T,) whose face is visible; all of them if none is clearly so."""
    seen_T = self.score > MIN_SCORE
    return seen_T if seen_T.any() else np.ones_like(seen_T)

  def at(self, which: np.ndarray) -> "Faces":
    """The faces of some frames."""
    values = {name: getattr(self, name)[which] for name in TRACKS}
    shapes = {face: other.at(which) for face, other in self.shapes.items()}
    return dataclasses.replace(self, **values, shapes=shapes)

  def heads(self, face: str, size: tuple[int, int]) -> Heads:
    """The heads of these eyes for one shape of face, in frames of a size."""
    if face in self.shapes:
      return self.shapes[face].heads(face, size)
    a, b, _ = SHAPES[face]
    unit = np.full(len(self.x), SHOTS[self.shot][0] * SIDE)
    around = np.sqrt(1 - (EYE_Y / b) ** 2)
    x = self.x - unit * a * around * np.sin(self.yaw)
    y = self.y - unit * b * np.sin(np.arcsin(EYE_Y / b) + self.pitch)
    return Heads(x, y, unit, self.yaw, self.pitch, size)


def resize(video: np.ndarray) -> np.ndarray:
  """A clip (T, H, W, 3) as float32 whose shorter side is SIDE: averaged or interpolated."""
  v = video.astype(np.float32)
  scale = SIDE / min(v.shape[1:3])
  if scale == 1:
    return v
  for axis in (1, 2):
    old = v.shape[axis]
    new = max(SIDE, round(old * scale))
    place = (np.arange(new)[:, None] + 0.5) * old / new - 0.5
    weight = np.maximum(0, 1 - np.abs(np.arange(old) - place) / max(1.0, old / new))
    weight = (weight / weight.sum(1, keepdims=True)).astype(np.float32)
    v = np.moveaxis(np.tensordot(weight, v, (1, axis)), 0, axis)
  return v


def restore_contrast(v_THWC: np.ndarray) -> np.ndarray:
  """Undoes a loss of contrast about mid-grey: every person has something almost black."""
  low = float(np.percentile(v_THWC, 0.1))
  gain = np.clip((128 - low) / (128 - 30), 0.4, 1.0) if low > 58 else 1.0
  return 128 + (v_THWC - 128) / np.float32(gain)


def is_dim(v_THWC: np.ndarray) -> bool:
  """Whether even the white of the eyes is dark."""
  return float(np.percentile(v_THWC[:, ::2, ::2].min(axis=-1), 99.5)) < 138


def brighten(v_THWC: np.ndarray) -> np.ndarray:
  """A dim clip as it would be in even light."""
  return v_THWC / np.asarray(DIM, np.float32)


def _patches(m_TCHW: np.ndarray, row_TP: np.ndarray, col_TP: np.ndarray, size) -> np.ndarray:
  """Patches (T, P, C * h * w) centred at rows and columns, empty beyond the edges."""
  (h, w), channels = size, m_TCHW.shape[1]
  pad = max(h, w)
  m = np.pad(m_TCHW, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
  windows = np.lib.stride_tricks.sliding_window_view(m, size, axis=(2, 3))
  t = np.arange(len(m))[:, None]
  top = np.clip(row_TP - h // 2 + pad, 0, windows.shape[2] - 1)
  left = np.clip(col_TP - w // 2 + pad, 0, windows.shape[3] - 1)
  return windows[t, :, top, left].reshape(len(m), row_TP.shape[1], channels * h * w)


@functools.cache
def _templates(shot: str, worn: str, yaws: tuple, pitches: tuple, scale: float, reach: tuple,
               face: str = FACE):  # fmt: skip
  """What faces look like around the middle of their eyes, for every turn and nod, in the two maps
  of `maps`: weights (templates, 2 * h * w) and constants (templates,) such that weights @ patch +
  constant is the logarithm of how much likelier the maps are with the face; and the shape (h, w).

  scale: size of the maps relative to frames of SIDE pixels; reach: half the width and height of a
  template in head units; face: its shape.
  """
  unit = SHOTS[shot][0] * SIDE * scale
  half_w, half_h = (int(np.ceil(r * unit)) for r in reach)
  size = (2 * half_h + 1, 2 * half_w + 1)
  yaw, pitch = (a.reshape(-1) for a in np.meshgrid(yaws, pitches, indexing="ij"))
  a, b, _ = SHAPES[face]
  x = half_w + 0.5 - unit * a * np.sin(yaw)
  y = half_h + 0.5 - unit * b * np.sin(pitch)
  head = Heads(x, y, np.full(len(yaw), unit), yaw, pitch, size)
  who = Identity("pale", face, "short", "black", "thin", "blue", worn)
  moves = curves(Person(who, "white"), np.zeros(len(yaw)))

  def page(layers) -> np.ndarray:
    out = np.zeros((len(yaw), *size), np.float32)
    for layer in layers:
      out[layer.where] += layer.cover * (1 - out[layer.where])
    return out

  skull = page([drawing.skull(head, who)])
  frame = page(drawing.glasses(head, who))
  eyes = page(drawing.eyes(head, who, moves)) * (1 - frame)
  (where, *_), _, (_, y, z) = drawing.surface(head, face, 1.0, 0.0)
  sure = np.zeros_like(skull)
  sure[where] = (z > 0.35) & (y > -0.33) & (y < 0.38)
  rows = (np.arange(size[0]) + 0.5 - head.y[:, None]) / unit
  above = np.broadcast_to((rows < 0.85)[:, :, None], skull.shape)
  shares = {
    "frame": frame,
    "eye": eyes,
    "skin": skull * (1 - eyes - frame) * sure,
    "covered": skull * (1 - eyes - frame) * (1 - sure),
    "outside": (1 - skull) * (1 - eyes - frame) * above,
  }
  skin, grey, other = (
    sum(share * GAINS[name][i] for name, share in shares.items()) / (16 * scale) ** 2
    for i in range(3)
  )
  flat = np.stack([skin - other, grey - other], axis=1).reshape(len(yaw), -1)
  constant = other.sum(axis=(1, 2)) - RARE * (yaw / MAX_YAW) ** 2
  return flat.astype(np.float32), constant, size


def maps(v_THWC: np.ndarray, tone: str) -> np.ndarray:
  """How much pixels look like skin, and like the black and white of eyes: (T, 2, H, W) in 0..1."""
  high, low = v_THWC.max(axis=-1), v_THWC.min(axis=-1)
  grey = np.clip(0.5 + (0.12 - (high - low) / (np.maximum(high, 0) + 60)) / 0.04, 0, 1)
  wanted = np.asarray(SKINS[tone], np.float32)
  light = v_THWC @ (wanted / (wanted @ wanted))
  away = np.abs(v_THWC - light[..., None] * wanted).max(axis=-1)
  skin = np.clip(2 - away / 7, 0, 1) * np.clip((light - 0.5) / 0.06, 0, 1)
  skin *= np.clip((1.22 - light) / 0.06, 0, 1)
  # Eyes are black and white, a grey ground is neither.
  both = np.clip((_extreme(high, np.maximum) + _extreme(-low, np.maximum) - 60) / 40, 0, 1)
  return np.stack([skin, grey * both * (1 - skin)], axis=1)


def _extreme(m_THW: np.ndarray, which, steps: int = 2) -> np.ndarray:
  """Largest (or smallest) values of (2 * steps + 1) squared pixels."""
  for axis in (1, 2):
    for _ in range(steps):
      first, last = [slice(None)] * 3, [slice(None)] * 3
      first[axis], last[axis] = slice(1, None), slice(0, -1)
      out = m_THW.copy()
      which(out[tuple(last)], m_THW[tuple(first)], out=out[tuple(last)])
      which(out[tuple(first)], m_THW[tuple(last)], out=out[tuple(first)])
      m_THW = out
  return m_THW


def _box(m_THW: np.ndarray, rows: int, cols: int) -> np.ndarray:
  """Sums over boxes of odd size around each pixel."""
  for axis, n in ((1, rows), (2, cols)):
    pad = [(0, 0)] * 3
    pad[axis] = (n // 2 + 1, n // 2)
    total = np.cumsum(np.pad(m_THW, pad), axis=axis)
    low, high = [slice(None)] * 3, [slice(None)] * 3
    low[axis], high[axis] = slice(0, -n), slice(n, None)
    m_THW = total[tuple(high)] - total[tuple(low)]
  return m_THW


def find(v_THWC: np.ndarray) -> Faces:
  """Finds the face in each frame of a clip of SIDE pixels, float (T, H, W, 3) in 0..255."""
  few = np.unique(np.linspace(0, len(v_THWC) - 1, FEW_FRAMES).round().astype(int))
  guesses = []
  for tone in SKINS:
    m_TCHW = maps(v_THWC[few], tone)
    small_TCHW, *places = _places(m_TCHW)
    for shot in SHOTS:
      patch_TPN = None
      for worn in GLASSES:
        weight, constant, size = _templates(shot, worn, FEW_YAWS, TILTS, 0.5, COARSE)
        if patch_TPN is None:
          patch_TPN = _patches(small_TCHW, *places, size)
        top_T = (patch_TPN @ weight.T + constant).max(axis=(1, 2))
        guesses.append((_typical(top_T), tone, shot, worn, m_TCHW))
  guesses = sorted(guesses, key=lambda g: -g[0])[:GUESSES]
  _, tone, shot, worn, _ = max(guesses, key=lambda g: _typical(_follow(g[4], *g[1:4]).score))
  m_TCHW = maps(v_THWC, tone)
  found = _follow(m_TCHW, tone, shot, worn)
  x_T, y_T = (np.round(a - 0.5).astype(int) for a in (found.x, found.y))
  shapes = {
    face: _refine(m_TCHW, tone, shot, worn, x_T, y_T, found.yaw, face=face)
    for face in SHAPES
    if face != FACE
  }
  return dataclasses.replace(found, shapes=shapes)


def _typical(score_T: np.ndarray) -> float:
  """Mean over the better half of the frames: somebody may come in late."""
  return float(np.sort(score_T)[len(score_T) // 2 :].mean())


def _places(m_TCHW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Maps of half the size, and rows and columns (T, P) around the largest area of skin."""
  frames, _, height, width = m_TCHW.shape
  rows, cols = height // 2, width // 2
  small = m_TCHW[:, :, : 2 * rows, : 2 * cols].reshape(frames, 2, rows, 2, cols, 2).mean((3, 5))
  around = _box(small[:, 0], *BLOB)
  row_T, col_T = np.divmod(around.reshape(frames, -1).argmax(axis=1), cols)
  row_TP, col_TP = _near(row_T, col_T, range(-9, 4), range(-9, 10), every=2)
  return small, np.clip(row_TP, int(ROWS[0] * rows), int(ROWS[1] * rows)), col_TP


def _follow(m_TCHW: np.ndarray, tone: str, shot: str, worn: str) -> Faces:
  """The face in all frames of maps, given what stays the same: for each side that the head may be
  turned to, the best coarse match is refined, and the best of these is taken."""
  small_TCHW, row_TP, col_TP = _places(m_TCHW)
  weight, constant, size = _templates(shot, worn, FEW_YAWS, TILTS, 0.5, COARSE)
  score = _patches(small_TCHW, row_TP, col_TP, size) @ weight.T + constant
  t, ends = np.arange(len(score)), []
  yaws = np.repeat(FEW_YAWS, len(TILTS))
  for side in SIDES:
    which = np.flatnonzero(np.where(np.abs(yaws) > 0.3, np.sign(yaws), 0) == side)
    place_T, which_T = np.divmod(
      score[:, :, which].reshape(len(t), -1).argmax(axis=1), len(which)
    )
    x_T, y_T = 2 * col_TP[t, place_T], 2 * row_TP[t, place_T]
    ends.append(_refine(m_TCHW, tone, shot, worn, x_T, y_T, yaws[which[which_T]]))
  first = np.argmax([end.score for end in ends], axis=0)
  best = {name: np.choose(first, [getattr(end, name) for end in ends]) for name in TRACKS}
  return Faces(**best, tone=tone, shot=shot, glasses=worn)


def _near(row_T, col_T, down, across, *, every: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """Rows and columns (T, P) around given ones; of a grid's diagonals, one in `every`."""
  dy, dx = np.meshgrid(down, across, indexing="ij")
  dy, dx = (a[(dy + dx) % every == 0] for a in (dy, dx))
  return row_T[:, None] + dy, col_T[:, None] + dx


def _refine(m_TCHW, tone, shot, worn, x_T, y_T, yaw_T, *, face: str = FACE) -> Faces:
  """Position, turn and nod near a coarse guess, between pixels and templates."""
  t = np.arange(len(m_TCHW))
  yaws, pitches = np.asarray(YAWS), np.asarray(PITCHES)
  weight, constant, size = _templates(shot, worn, YAWS, PITCHES, 1.0, (1.5, 0.6), face)
  shape = (len(yaws), len(pitches))
  coarse = np.arange(len(constant)).reshape(shape)[::2, ::2].reshape(-1)
  row_TP, col_TP = _near(y_T, x_T, range(-3, 5), range(-3, 5), every=2)
  score = _patches(m_TCHW, row_TP, col_TP, size) @ weight[coarse].T + constant[coarse]
  score = score.reshape(len(t), -1, (shape[0] + 1) // 2, shape[1] // 2)
  score = score - (np.abs(yaws[::2] - yaw_T[:, None]) > 0.5)[:, None, :, None]
  at = np.unravel_index(score.reshape(len(t), -1).argmax(1), score.shape[1:])
  y_T, x_T, yaw_T = row_TP[t, at[0]], col_TP[t, at[0]], yaws[::2][at[1]]
  row_TP, col_TP = _near(y_T, x_T, (-1, 0, 1), (-1, 0, 1))
  score = (_patches(m_TCHW, row_TP, col_TP, size) @ weight.T + constant).reshape(len(t), 9, *shape)
  score = score - (np.abs(yaws - yaw_T[:, None]) > 0.45)[:, None, :, None]
  flat = score.reshape(len(t), -1)
  place_T, i_T, j_T = np.unravel_index(flat.argmax(1), score.shape[1:])
  yaw_T = yaws[i_T] + (yaws[1] - yaws[0]) * _peak(score[t, place_T, :, j_T], i_T)
  pitch_T = pitches[j_T] + (pitches[1] - pitches[0]) * _peak(score[t, place_T, i_T], j_T)
  grid = score[t, :, i_T, j_T].reshape(-1, 3, 3)
  r_T, c_T = np.divmod(place_T, 3)
  x = col_TP[t, place_T] + 0.5 + _peak(grid[t, r_T], c_T)
  y = row_TP[t, place_T] + 0.5 + _peak(grid[t, :, c_T], r_T)
  return Faces(x, y, yaw_T, pitch_T, flat.max(1), tone, shot, worn)


def _peak(value_TK: np.ndarray, at_T: np.ndarray) -> np.ndarray:
  """Shift in -0.5..0.5 of the top of a parabola through the values around `at`."""
  t, last = np.arange(len(value_TK)), value_TK.shape[1] - 1
  low, mid, high = (value_TK[t, np.clip(at_T + d, 0, last)] for d in (-1, 0, 1))
  bend = 2 * mid - low - high
  inner = (at_T > 0) & (at_T < last) & (bend > 1e-6) & (low > -0.5) & (high > -0.5)
  return np.where(inner, np.clip(0.5 * (high - low) / np.where(inner, bend, 1), -0.5, 0.5), 0.0)
