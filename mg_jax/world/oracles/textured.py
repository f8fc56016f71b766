"""Foreground of clips on painted grounds: what is far more colourful, or whiter, than its ground.

The plain backgrounds are grey and close to a plane, see `mask`. Painted grounds are neither, but
muted: chroma (largest less smallest channel) separates the palette from all of them, and the
smallest channel separates white. The colour of the ground is measured around the objects.
"""

import numpy as np

MIN_TINT = 11.0  # chroma of the frame's edge; plain backgrounds have at most 10
STRONGEST = 0.006  # fraction of pixels that sets the object's colour
COLOURFUL, MIN_CHROMA = 1.25, 70.0  # least chroma of objects, relative to the ground's; in 0..255
WHITER, MIN_WHITE = 1.06, 200.0  # the same for the smallest channel of white ones
AROUND = 5  # pixels, half side of the window in which the ground is averaged
SEGMENTS = 24  # of the frame's edge, to measure its tint
PAPER, MARGIN = 228, 0.0775  # least brightness of a margin of paper; its width in shorter sides
SAME = 75.0  # largest distance from the colour of the objects, in 0..255


def unframed(video: np.ndarray) -> np.ndarray:
  """A clip (T, H, W, 3) whose margin of paper, if it has one, continues what is inside of it."""
  rim = np.concatenate([video[:, [0, -1]].reshape(-1, 3), video[:, :, [0, -1]].reshape(-1, 3)])
  side = min(video.shape[1:3])
  margin = int(np.ceil(MARGIN * side))
  if np.median(rim.min(axis=1)) < PAPER or side <= 4 * margin:
    return video
  inside = video[:, margin:-margin, margin:-margin]
  return np.pad(inside, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")


def tint(v_THWC: np.ndarray) -> float:
  """Median chroma of segments of the frame's edge, whatever covers a minority of them."""
  mean_HWC = v_THWC.mean(axis=0)
  # One pixel deep: a wide board comes near to the edge.
  edge = np.concatenate([mean_HWC[0], mean_HWC[:, -1], mean_HWC[-1], mean_HWC[:, 0]])
  parts = np.array([part.mean(axis=0) for part in np.array_split(edge, SEGMENTS)])
  return float(np.median(np.ptp(parts, axis=1)))


def foreground(v_THWC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Like `mask.foreground`: alpha (T, H, W) in [0, 1.2], colour of the objects (3,) and of the
  ground around them (3,)."""
  # Channel by channel, as reductions over an axis of three are slow.
  first, second, third = np.moveaxis(v_THWC, -1, 0)
  high_THW = np.maximum(np.maximum(first, second), third)
  low_THW = np.minimum(np.minimum(first, second), third)
  core_THW = _strong(high_THW - low_THW, ratio=COLOURFUL, least=MIN_CHROMA)
  if core_THW is None:
    core_THW = _strong(low_THW, ratio=WHITER, least=MIN_WHITE)
  nothing = np.median(v_THWC, axis=(0, 1, 2))
  if core_THW is None:
    return np.zeros_like(low_THW), nothing, nothing
  colour = np.median(v_THWC[core_THW], axis=0)
  for channel in range(3):
    core_THW &= np.abs(v_THWC[..., channel] - colour[channel]) < SAME
  near_THW = _grow(_grow(core_THW))
  ground_THWC = _around(v_THWC, ~near_THW)
  away_THWC = colour - ground_THWC
  alpha_THW = np.einsum("thwc,thwc->thw", v_THWC - ground_THWC, away_THWC)
  alpha_THW /= np.maximum(np.einsum("thwc,thwc->thw", away_THWC, away_THWC), 1.0)
  alpha_THW = np.where(near_THW, np.clip(alpha_THW, 0, 1.2), 0)
  return alpha_THW, colour, np.median(ground_THWC[core_THW], axis=0)


def _strong(value_THW: np.ndarray, *, ratio: float, least: float) -> np.ndarray | None:
  """Where a value is nearer to its highest than to that of the frame's edge; None if there is no
  such difference."""
  rim = [0, 1, -2, -1]
  edge = np.concatenate([value_THW[:, rim].ravel(), value_THW[:, :, rim].ravel()])
  ground, top = np.quantile(edge, 0.95), np.quantile(value_THW, 1 - STRONGEST)
  if top < max(ratio * ground + 8, least):
    return None
  return value_THW > 0.5 * (ground + top)


def _grow(mask_THW: np.ndarray) -> np.ndarray:
  """The mask with a ring of one pixel (8 neighbours) around it."""
  rows = mask_THW.copy()
  rows[:, 1:] |= mask_THW[:, :-1]
  rows[:, :-1] |= mask_THW[:, 1:]
  out = rows.copy()
  out[:, :, 1:] |= rows[:, :, :-1]
  out[:, :, :-1] |= rows[:, :, 1:]
  return out


def _around(v_THWC: np.ndarray, free_THW: np.ndarray) -> np.ndarray:
  """Mean colour of the free pixels around each pixel; where there are none, that of its frame."""
  weight = free_THW[..., None].astype(np.float32)
  sums = np.concatenate([v_THWC * weight, weight], axis=-1)
  whole = sums.mean(axis=(1, 2), keepdims=True)
  for axis in (1, 2):
    size = sums.shape[axis]
    total = np.cumsum(sums, axis=axis)
    zero = np.zeros_like(np.take(total, [0], axis=axis))
    total = np.concatenate([zero, total], axis=axis)
    k = np.arange(size)
    sums = np.take(total, np.minimum(k + AROUND + 1, size), axis=axis)
    sums -= np.take(total, np.maximum(k - AROUND, 0), axis=axis)
  sums += 0.05 * whole
  return sums[..., :3] / sums[..., 3:]
