"""First half of the oracles: from pixels to a soft foreground mask, its colour and its parts.

The background of the toy world is dim, grey and close to a plane in (x, y); objects are not. A
plane is fitted to the background robustly; the strongest deviations from it give one direction in
colour space; projecting every pixel on that direction gives coverage alpha (T, H, W) with sub-pixel
accuracy, insensitive to noise across the direction and to loss of contrast along it.
"""

import numpy as np

from mg_jax.world.oracles import textured
from mg_jax.world.scene.facts import PALETTE

MIN_CONTRAST = 36.0  # of 255 * sqrt(3); below it a clip counts as empty
STRONGEST = 0.008  # fraction of pixels that sets the object's colour: about one small star
RIM = 0.12  # least coverage that counts as part of an object
FIT_SIZE = 20  # pixels along the shorter side used to fit the background
MIN_PART = 0.2  # smallest part, as a fraction of the largest one in the frame


def foreground(v_THWC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Splits a float video into alpha (T, H, W) in [0, 1.2], object colour (3,), background (3,).

  Alpha is all zero if nothing stands out. Both colours are local to the object.
  """
  if textured.tint(v_THWC) > textured.MIN_TINT:
    return textured.foreground(v_THWC)
  ground_THWC = background(v_THWC)
  away_THWC = v_THWC - ground_THWC
  size_THW = np.sqrt(np.einsum("thwc,thwc->thw", away_THWC, away_THWC))
  flat = size_THW.reshape(-1)
  strongest = max(8, int(STRONGEST * flat.size))
  top = np.argpartition(flat, -strongest)[-strongest:]
  # Median by channel: robust to a few stray pixels of another colour.
  direction = np.median(away_THWC.reshape(-1, 3)[top], axis=0)
  contrast = float(np.linalg.norm(direction))
  ground = np.median(ground_THWC.reshape(-1, 3)[top], axis=0)
  if contrast < MIN_CONTRAST:
    return np.zeros_like(size_THW), ground, ground
  # Refine on all pixels that agree: the noise of the strongest ones is biased outwards.
  alpha_THW = away_THWC @ (direction / contrast**2)
  core = away_THWC[alpha_THW > 0.75]
  if len(core) >= 8:
    direction = np.median(core, axis=0)
  alpha_THW = np.clip(away_THWC @ (direction / (direction @ direction)), 0, 1.2)
  return alpha_THW, ground + direction, ground


def background(v_THWC: np.ndarray, *, edge: bool = False) -> np.ndarray:
  """Plane in (x, y) per channel, plus an offset per frame; robust to objects on a minority of the
  fitted pixels: a subset of all, or those at the edge of the frame."""
  _, height, width, _ = v_THWC.shape
  y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
  basis_HWK = np.stack([np.ones_like(x), x, y], -1).astype(np.float32)
  # Every few pixels suffice for a plane; borders are where objects are not.
  step = max(1, min(height, width) // FIT_SIZE)
  fitted_HW = np.zeros((height, width), bool)
  if edge:
    fitted_HW[[0, -1]] = fitted_HW[:, [0, -1]] = True
  else:
    fitted_HW[::step, ::step] = True
  few_TPC, basis_PK = v_THWC[:, fitted_HW], basis_HWK[fitted_HW]
  border = np.concatenate([v_THWC[:, [0, -1]].reshape(-1, 3), v_THWC[:, :, [0, -1]].reshape(-1, 3)])
  plane_KC = np.zeros((3, 3), np.float32)
  plane_KC[0] = np.median(border, axis=0)
  for limit in (60.0, 40.0, 30.0):
    near_TPC = np.abs(few_TPC - basis_PK @ plane_KC) < limit
    keep_TP = near_TPC[..., 0] & near_TPC[..., 1] & near_TPC[..., 2]
    weight_P = keep_TP.sum(0).astype(np.float32)  # how often a pixel is background
    sum_PC = np.einsum("tp,tpc->pc", keep_TP.astype(np.float32), few_TPC)
    left = basis_PK.T @ (basis_PK * weight_P[:, None]) + 1e-3 * np.eye(3, dtype=np.float32)
    plane_KC = np.linalg.solve(left, basis_PK.T @ sum_PC)
  drift_TC = np.median(few_TPC - basis_PK @ plane_KC, axis=1)
  return basis_HWK @ plane_KC + drift_TC[:, None, None]


def name_colour(colour: np.ndarray, ground: np.ndarray) -> tuple[str, float]:
  """Palette entry whose deviation from the background has the same direction, and the margin in
  cosine to the runner-up. Directions, unlike colours, survive blur and loss of contrast."""
  away = colour - ground
  names = list(PALETTE)
  palette = np.array([PALETTE[n] for n in names], np.float64) - ground
  cosine = palette @ away / (np.linalg.norm(palette, axis=1) * np.linalg.norm(away) + 1e-9)
  order = np.argsort(-cosine)
  return names[order[0]], float(cosine[order[0]] - cosine[order[1]])


def parts(alpha_THW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Connected parts of each frame: labels int (T, H, W), 0 outside, numbered 1.. over the clip,
  soft edges included; and a table (N, 4) of frame, area, x, y in pixels.

  Parts much smaller than the largest of their frame are dropped.
  """
  pixels, root = _connect(alpha_THW > 0.5)
  first, part, area_N = np.unique(root, return_inverse=True, return_counts=True)
  frame_N = pixels[first] // alpha_THW[0].size
  largest_T = np.zeros(len(alpha_THW))
  np.maximum.at(largest_T, frame_N, area_N)
  keep_N = area_N >= np.maximum(3, MIN_PART * largest_T[frame_N])
  labels = np.zeros(alpha_THW.shape, int)
  labels.reshape(-1)[pixels] = np.where(keep_N, np.cumsum(keep_N), 0)[part]
  for _ in range(2):  # soft edge: two rings of partly covered pixels
    labels = np.where((labels == 0) & (alpha_THW > RIM), _neighbour_max(labels), labels)
  t, y, x = np.nonzero(labels)
  own, weight = labels[t, y, x] - 1, alpha_THW[t, y, x]
  frame_N = frame_N[keep_N]
  mass, mass_x, mass_y = (
    np.bincount(own, weights=w, minlength=len(frame_N)) for w in (weight, weight * x, weight * y)
  )
  return labels, np.stack([frame_N, mass, mass_x / mass, mass_y / mass], axis=1)


def _neighbour_max(a_THW: np.ndarray) -> np.ndarray:
  """Maximum over each pixel's 3 x 3 neighbourhood."""
  out = a_THW.copy()
  np.maximum(out[:, 1:], a_THW[:, :-1], out=out[:, 1:])
  np.maximum(out[:, :-1], a_THW[:, 1:], out=out[:, :-1])
  rows = out.copy()
  np.maximum(out[:, :, 1:], rows[:, :, :-1], out=out[:, :, 1:])
  np.maximum(out[:, :, :-1], rows[:, :, 1:], out=out[:, :, :-1])
  return out


def _connect(mask_THW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Flat indices (P,) of the pixels of a mask and, per pixel, the number of the last pixel it is
  connected to (8 neighbours, within its frame). All frames are joined at once."""
  pixels = np.flatnonzero(mask_THW)
  _, height, width = mask_THW.shape
  number = np.full((len(mask_THW), height + 2, width + 2), -1)
  t, y, x = np.nonzero(mask_THW)
  number[t, y + 1, x + 1] = np.arange(len(pixels))
  near = np.stack([number[t, y + dy, x + dx] for dy in range(3) for dx in range(3)])
  near = np.where(near < 0, np.arange(len(pixels)), near)
  root = np.arange(len(pixels))
  while True:
    spread = root[near].max(axis=0)
    spread = spread[spread]  # pointer jumping
    if np.array_equal(spread, root):
      return pixels, root
    root = spread
