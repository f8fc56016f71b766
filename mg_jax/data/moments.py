"""Streaming mean and standard deviation per channel, mergeable [Chan et al. 1979]."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass
class Moments:
  """Accumulator of statistics per channel, float64 (C,); empty at first.

  Attributes:
    count: positions.
    mean: over the positions.
    squares: sum of squared deviations from the mean; raw squares would lose precision.
  """

  count: float = 0
  mean: Any = 0.0
  squares: Any = 0.0

  def __post_init__(self) -> None:
    self.mean = np.asarray(self.mean, np.float64)
    self.squares = np.asarray(self.squares, np.float64)

  def add(self, values: np.ndarray) -> None:
    """Adds values (..., C); all axes but the last are positions."""
    values = np.asarray(values, np.float64).reshape(-1, values.shape[-1])
    if len(values):
      mean = values.mean(0)
      self.merge(Moments(len(values), mean, np.square(values - mean).sum(0)))

  def merge(self, other: "Moments") -> None:
    """Merges another accumulator into this one."""
    if other.count:
      shift, count = other.mean - self.mean, self.count + other.count
      share = other.count / count
      self.squares = self.squares + other.squares + np.square(shift) * self.count * share
      self.mean, self.count = self.mean + shift * share, count

  @property
  def std(self) -> np.ndarray:
    return np.sqrt(self.squares / self.count)

  def to_json(self) -> dict[str, Any]:
    """Fields for JSON; `Moments(**fields)` restores them bit-exactly."""
    return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}
