"""Motion oracle: names the motion from the tracks of position, size and orientation.

Translation is tested first (straight, then circling, then bouncing and knocking), then change of
size, then turning. The thresholds lie between the smallest motion that `sampling` draws and the
largest apparent motion that a camera move adds.
"""

import numpy as np

MIN_EXTENT = 0.2  # of the shorter side; a panning camera moves still things by 0.12
MIN_RATIO = 1.36  # ratio of sizes; a zooming camera changes sizes by 1.16
MAX_COHERENCE = 0.7  # of orientation; 1 if it is fixed
STRAIGHT = 0.8  # explained variance of the line through a straight path


def classify(
  position_T2: np.ndarray, area_T: np.ndarray, phase_T: np.ndarray
) -> tuple[str | None, float]:
  """Names the motion; returns (name, confidence in [0, 1]), name None if no motion fits.

  position_T2: in shorter sides, NaN where nothing was detected; area_T: in squared shorter sides;
  phase_T: complex, mean over objects of exp(i * symmetry * angle), 0 for round kinds.
  """
  valid = np.isfinite(position_T2).all(axis=1)
  if valid.sum() < 2:
    return ("still", 0.0) if valid.any() else (None, 0.0)
  time_T = np.arange(len(valid))[valid]
  path_T2 = position_T2[valid]
  extent_2 = path_T2.max(axis=0) - path_T2.min(axis=0)
  if extent_2.max() > MIN_EXTENT:
    return _translation(time_T, path_T2, extent_2)
  half = _slope(time_T, 0.5 * np.log(area_T[valid])) * np.ptp(time_T)
  if abs(half) > np.log(MIN_RATIO):
    return ("grow" if half > 0 else "shrink"), min(1.0, abs(half) / np.log(2))
  weight = np.abs(phase_T[valid]).sum()
  coherence = np.abs(phase_T[valid].sum()) / weight if weight > 0 else 1.0
  if coherence < MAX_COHERENCE:
    return "spin", float(1 - coherence)
  return "still", float(coherence)


def _slope(time_T: np.ndarray, value_T: np.ndarray) -> float:
  centred = time_T - time_T.mean()
  return float(centred @ (value_T - value_T.mean()) / (centred @ centred))


def _translation(
  time_T: np.ndarray, path_T2: np.ndarray, extent_2: np.ndarray
) -> tuple[str, float]:
  axis = int(extent_2.argmax())
  main_T = path_T2[:, axis] - path_T2[:, axis].mean()
  slope = _slope(time_T, main_T)
  line_T = slope * (time_T - time_T.mean())
  explained = 1 - np.mean((main_T - line_T) ** 2) / np.mean(main_T**2)
  if explained > STRAIGHT:
    return (("left", "right"), ("up", "down"))[axis][slope > 0], float(explained)
  if extent_2.min() > 0.5 * extent_2.max():
    return "orbit", float(extent_2.min() / extent_2.max())
  return ("knock", "bounce")[axis], float(1 - explained)
