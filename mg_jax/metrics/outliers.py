"""Latent dots: positions whose latent lies far from the mean of its frame [MG 3.1.1].

Distances are measured as the outlier penalty does, in norms of the frame's standard deviation:
|X_ij - Mean(X)| / |Std(X)|, with Mean and Std per channel over the positions of a frame. Numpy.
"""

from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.losses.reconstruction import OUTLIER_RADIUS

EDGES = np.linspace(0.0, 10.0, 41)  # of the histogram; a last bin takes what lies beyond
_FLOOR = 1e-12  # as in the penalty: a constant frame has no outliers


class LatentOutliers:
  """Streaming share of outliers and histogram of distances; joined by `merge`."""

  def __init__(self, *, radius: float = OUTLIER_RADIUS):
    self._radius = radius
    self._counts = np.zeros(len(EDGES), np.int64)
    self._outliers, self._largest = 0, 0.0

  def add(self, latent: np.ndarray) -> None:
    """Counts latents (..., H, W, C); each of the leading positions is a frame.

    Raises:
      UserError: on values that are not finite.
    """
    x = np.asarray(latent, np.float64)
    if not np.isfinite(x).all():
      raise UserError("the latents hold values that are not finite; try another checkpoint")
    square = np.square(x - x.mean((-3, -2), keepdims=True))
    spread = np.sqrt((square.mean((-3, -2)) + _FLOOR).sum(-1))[..., None, None]
    distance = np.sqrt(square.sum(-1) + _FLOOR) / spread
    self._counts += np.histogram(distance, np.append(EDGES, np.inf))[0]
    self._outliers += int((distance > self._radius).sum())
    self._largest = max(self._largest, float(distance.max(initial=0.0)))

  def merge(self, other: "LatentOutliers") -> None:
    """Adds the positions of another accumulator.

    Raises:
      ValueError: when it counts with another radius.
    """
    if self._radius != other._radius:
      raise ValueError(f"outliers beyond {self._radius} and {other._radius} do not add up")
    self._counts += other._counts
    self._outliers += other._outliers
    self._largest = max(self._largest, other._largest)

  def compute(self) -> dict[str, Any]:
    """The share of outliers, the largest distance and the histogram, ready for JSON."""
    positions = int(self._counts.sum())
    return {
      "radius": self._radius,
      "rate": self._outliers / positions if positions else float("nan"),
      "outliers": self._outliers,
      "positions": positions,
      "largest": self._largest,
      "histogram": {"edges": EDGES.tolist(), "counts": self._counts.tolist()},
    }
