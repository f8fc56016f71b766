"""Text as a condition of a generator, see `data.conditions`."""

import dataclasses

import numpy as np

from mg_jax.data.conditions import Grid, View
from mg_jax.data.schema import Batch, Record
from mg_jax.data.text.readers import Reader, blank


@dataclasses.dataclass(frozen=True)
class Text:
  """A stream of text; see `data.text.readers`.

  Attributes:
    length: S.
    features: E of the frozen encoder behind it, 0 for ids of one that is trained.
    cached: whether the features are in the records.
    reader: of captions; None where only shapes are asked for.
  """

  length: int
  features: int = 0
  cached: bool = False
  reader: Reader | None = None

  def row(self, name: str, record: Record, view: View) -> Batch:
    if self.cached:
      return padded(record[cached_name(name, view.wording)], self.length)
    return self.reader(view.caption, **view.tags)

  def null(self, grid: Grid) -> Batch:
    if not self.features:
      return blank(self.length)
    return {
      "features": np.zeros((self.length, self.features), np.float32),
      "mask": np.zeros(self.length, bool),
    }


def cached_name(stream: str, wording: int) -> str:
  """Where a record keeps a stream's features (n, E) of one of its captions, real tokens only."""
  return f"text/{stream}/{wording}"


def padded(features_NE: np.ndarray, length: int) -> Batch:
  """Features of real tokens as a stream of so many, {"features" (S, E), "mask" (S,)}."""
  count = min(len(features_NE), length)
  padded = np.zeros((length, features_NE.shape[1]), features_NE.dtype)
  padded[:count] = features_NE[:count]
  return {"features": padded, "mask": np.arange(length) < count}
