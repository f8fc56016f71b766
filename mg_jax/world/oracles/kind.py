"""Kind and orientation oracle: masks of parts against rotated templates of every kind.

Each part is resampled on a grid in units of the square root of its area, so templates are computed
once per process. Templates come in several rotations (within the symmetry of the kind), sizes (the
measured area is approximate) and blurs (of small objects or of blurry clips); the match is the
cosine between mask and template.
"""

import functools

import numpy as np

from mg_jax.world.oracles.mask import RIM
from mg_jax.world.scene.shapes import SHAPES, Shape

GRID = 20
REACH = 1.08  # half width of the grid in square roots of area
SCALES = (0.9, 1.0, 1.12)
BLURS = (0.06, 0.18, 0.32, 0.46)  # Gaussian sigma in radii
ROTATIONS = 12
MAX_PARTS = 64


@functools.cache
def _templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Unit-norm templates float32 (M, GRID**2), their kind index (M,) and angle in radians (M,)."""
  fine = 2 * GRID
  axis = ((np.arange(fine) + 0.5) / fine * 2 - 1) * REACH
  y, x = np.meshgrid(axis, axis, indexing="ij")
  pool = np.kron(np.eye(GRID), np.full((1, 2), 0.5))
  masks, kinds, angles = [], [], []
  for index, shape in enumerate(SHAPES.values()):
    turns = ROTATIONS if shape.symmetry else 1
    for blur in BLURS:
      area = _apparent_area(shape, blur)
      for scale in SCALES:
        radius = scale / np.sqrt(area)
        smooth = pool @ _blur_matrix(axis, blur * radius)
        for angle in np.arange(turns) * 2 * np.pi / max(shape.symmetry, 1) / turns:
          u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
          mask = _cover(shape, u / radius, v / radius, 2 * REACH / fine / radius)
          mask = smooth @ mask @ smooth.T
          masks.append(mask.reshape(-1) / np.linalg.norm(mask))
          kinds.append(index)
          angles.append(angle)
  return np.array(masks, np.float32), np.array(kinds), np.array(angles)


def _cover(shape: Shape, x: np.ndarray, y: np.ndarray, pixel: float) -> np.ndarray:
  return np.clip(0.5 - shape.distance(x, y) / pixel, 0, 1)


def _blur_matrix(axis: np.ndarray, sigma: float) -> np.ndarray:
  """Gaussian blur along one axis as a matrix, zero outside the grid."""
  weight = np.exp(-0.5 * ((axis[:, None] - axis[None]) / sigma) ** 2)
  whole = np.exp(-0.5 * ((axis[1] - axis[0]) * np.arange(-40, 41) / sigma) ** 2).sum()
  return weight / whole


def _apparent_area(shape: Shape, blur: float) -> float:
  """Area, in squared radii, that `oracles_mask` measures for a blurred shape: coverage relative to
  the brightest core, without the faint rim that it cuts off."""
  axis = (np.arange(96) + 0.5) / 24 - 2
  y, x = np.meshgrid(axis, axis, indexing="ij")
  smooth = _blur_matrix(axis, blur)
  mask = smooth @ _cover(shape, x, y, axis[1] - axis[0]) @ smooth.T
  mask /= np.median(mask[mask > 0.75 * mask.max()])
  return float(mask[mask > RIM].sum()) * (axis[1] - axis[0]) ** 2


def match(
  alpha_THW: np.ndarray, labels_THW: np.ndarray, table_NF: np.ndarray
) -> tuple[str, float, np.ndarray]:
  """Kind of the parts, margin to the runner-up, and the angle of each part (N,), radians.

  Takes the output of `oracles_mask.parts`. Angles are modulo the symmetry of the kind; all zero
  for kinds without orientation.
  """
  patches_NP = _resample(alpha_THW, labels_THW, table_NF)
  patches_NP /= np.linalg.norm(patches_NP, axis=1, keepdims=True) + 1e-9
  templates, kinds, angles = _templates()
  # Large parts get more weight: a shape of a few pixels carries little information.
  weight_N = np.sqrt(table_NF[:, 1])
  loudest = np.argsort(-weight_N, kind="stable")[:MAX_PARTS]
  names = list(SHAPES)
  cosine_NM = patches_NP @ templates.T
  best_NK = np.stack([cosine_NM[:, kinds == k].max(axis=1) for k in range(len(names))], axis=1)
  score_K = weight_N[loudest] @ best_NK[loudest] / weight_N[loudest].sum()
  order = np.argsort(-score_K)
  mine = np.flatnonzero(kinds == order[0])
  angle_N = angles[mine[cosine_NM[:, mine].argmax(axis=1)]]
  return names[order[0]], float(score_K[order[0]] - score_K[order[1]]), angle_N


def _resample(alpha_THW: np.ndarray, labels_THW: np.ndarray, table_NF: np.ndarray) -> np.ndarray:
  """Each part by itself on the common grid, bilinear: float32 (N, GRID**2)."""
  _, height, width = alpha_THW.shape
  frame_N, area_N, x_N, y_N = table_NF.T
  axis = (np.arange(GRID) + 0.5) / GRID * 2 * REACH - REACH
  unit_N = np.sqrt(area_N)[:, None]
  own_N = np.arange(1, len(table_NF) + 1)[:, None, None]
  t = frame_N.astype(int)[:, None, None]
  y_NG, x_NG = y_N[:, None] + axis * unit_N, x_N[:, None] + axis * unit_N
  top_NG, left_NG = np.floor(y_NG).astype(int), np.floor(x_NG).astype(int)
  out = np.zeros((len(table_NF), GRID, GRID), np.float32)
  for down in (0, 1):
    for across in (0, 1):
      row, col = (top_NG + down)[:, :, None], (left_NG + across)[:, None, :]
      fy = 1 - np.abs(y_NG - top_NG - down)[:, :, None]
      fx = 1 - np.abs(x_NG - left_NG - across)[:, None, :]
      inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
      where = (t, np.clip(row, 0, height - 1), np.clip(col, 0, width - 1))
      mine = inside & (labels_THW[where] == own_N)
      out += np.where(mine, fy * fx * alpha_THW[where], 0)
  return np.minimum(out, 1).reshape(len(table_NF), -1)
