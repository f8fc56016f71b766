"""Frechet distance between two sets of features, modelled as Gaussians (Heusel et al. 2017).

Features come from files: float (N, D) as `.npy`, optionally with a `.json` of the same name next to
it with {"network": ...}, the network that computed them; `evaluation.features` writes both. The
distance is called FID, FVD or FAD only if both files name the published network of that measure;
distances of other networks are not comparable with published ones.
"""

import dataclasses
import json
import logging
import os
import pathlib
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError

_log = logging.getLogger(__name__)
# Network -> the measure that its features define.
PUBLISHED = {
  "inception-v3-2015-12-05": "FID", "i3d-kinetics-400": "FVD", "vggish-audioset": "FAD",
}  # fmt: skip
PLAIN = "Frechet distance"
_ROWS = 4096  # rows read at a time


class Moments:
  """Streaming mean and covariance of rows of D features, in float64; `merge` combines two."""

  def __init__(self, size: int):
    self.count = 0
    self.mean = np.zeros(size)
    self._scatter = np.zeros((size, size))

  def add(self, features_ND: np.ndarray) -> None:
    """Adds rows.

    Raises:
      UserError: if a row has another size or a value is not finite.
    """
    x = np.asarray(features_ND, np.float64)
    if x.ndim != 2 or x.shape[1] != len(self.mean):
      raise UserError(f"features of shape {x.shape} are not rows of {len(self.mean)} numbers")
    if not np.isfinite(x).all():
      raise UserError("the features hold non-finite values; compute them again")
    if not len(x):
      return
    part = Moments(len(self.mean))
    part.count, part.mean = len(x), x.mean(0)
    part._scatter = (x - part.mean).T @ (x - part.mean)
    self.merge(part)

  def merge(self, other: "Moments") -> None:
    """Adds the rows of another accumulator."""
    total = self.count + other.count
    if not other.count:
      return
    step = other.mean - self.mean
    self._scatter = (
      self._scatter + other._scatter + np.outer(step, step) * (self.count * other.count / total)
    )
    self.mean = self.mean + step * (other.count / total)
    self.count = total

  @property
  def covariance(self) -> np.ndarray:
    """Sample covariance (D, D), divided by count - 1 as in published distances."""
    if self.count < 2:
      raise UserError(f"{self.count} rows of features have no covariance; give at least 2")
    return self._scatter / (self.count - 1)


def distance(a: Moments, b: Moments) -> float:
  """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), at least 0, of covariances A and B.

  The trace of (A B)^(1/2) is that of (A^(1/2) B A^(1/2))^(1/2), which is symmetric: no imaginary
  residue for singular covariances, as those of fewer rows than features are.
  """
  if len(a.mean) != len(b.mean):
    raise UserError(f"features of {len(a.mean)} and of {len(b.mean)} numbers cannot be compared")
  first, second = a.covariance, b.covariance
  values, vectors = np.linalg.eigh(first)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
  square = np.square(a.mean - b.mean).sum()
  return max(0.0, float(square + np.trace(first) + np.trace(second) - 2 * cross))


@dataclasses.dataclass(frozen=True)
class Result:
  """A distance under the name that its features allow.

  Attributes:
    name: "FID", "FVD" or "FAD" of a published network's features, else "Frechet distance".
    value: at least 0.
    counts: rows of the two files.
    size: D, dimensions of a row.
  """

  name: str
  value: float
  counts: tuple[int, int]
  size: int


def frechet(features_a: str | os.PathLike[str], features_b: str | os.PathLike[str]) -> Result:
  """The distance between the features of two files, read in chunks.

  Logs a warning when a file has too few rows for a covariance of full rank.

  Raises:
    UserError: if a file is missing or holds no features, or their networks differ.
  """
  networks = [_network(path) for path in (features_a, features_b)]
  if None not in networks and networks[0] != networks[1]:
    raise UserError(
      f"{features_a} has features of {networks[0]} and {features_b} of {networks[1]}; compute both "
      "with one network"
    )
  a, b = (_moments(path) for path in (features_a, features_b))
  name = PUBLISHED.get(networks[0], PLAIN) if networks[0] == networks[1] else PLAIN
  value = distance(a, b)
  for path, moments in ((features_a, a), (features_b, b)):
    if moments.count <= len(moments.mean):
      _log.warning(
        "%s has %d rows of %d dimensions, so its covariance is singular and the distance depends "
        "on the number of rows; compare only distances of equal counts, or give more rows",
        os.fspath(path), moments.count, len(moments.mean),
      )  # fmt: skip
  return Result(name, value, (a.count, b.count), len(a.mean))


def _moments(path: str | os.PathLike[str]) -> Moments:
  try:
    features = np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise UserError(f"{os.fspath(path)} is not a valid .npy ({error}); rewrite it") from error
  if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind not in "fiu":
    raise UserError(f"{os.fspath(path)} holds no features; give numbers of shape (N, D)")
  moments = Moments(features.shape[1])
  for start in range(0, len(features), _ROWS):
    moments.add(features[start : start + _ROWS])
  return moments


def _network(path: str | os.PathLike[str]) -> Any:
  """The network that computed the features of a file; None if unknown."""
  record = pathlib.Path(path).with_suffix(".json")
  if not record.exists():
    return None
  try:
    return str(json.loads(record.read_text(encoding="utf-8"))["network"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{record} does not name a network ({error!r}); repair or remove it") from error
