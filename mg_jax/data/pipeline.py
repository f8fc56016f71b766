"""The Grain pipeline: weighted sources in, endless batches out [MG 3.2.1, 3.2.2].

A `Feed` lists entries, each a source of one bucket with its row transform and an integer weight
(such as images to videos at 1 to 10). Every consecutive block of `global_batch` elements comes from
one entry, and every window of sum(weights) blocks contains each entry exactly as often as its
weight, in an order drawn from the seed. An entry iterates over its source in a new permutation each
epoch. All of it is index arithmetic over random access, so element n of the stream is the same on
any number of processes, workers and threads, and the position is one number: the state is
{"global_next_index": n, "global_batch": b}. An element is a row or, in an entry with larger batches
than the others, a group of rows. Batches are dictionaries of numpy arrays with leading dimension
global_batch / processes, times the rows of a group.
"""

import dataclasses
import functools
import logging
import math
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import grain
import numpy as np

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.data.schema import Batch, Source
from mg_jax.data.transforms import Transform

_log = logging.getLogger(__name__)
_STATE, _BATCH = "global_next_index", "global_batch"
_GROUP = "group"


@dataclasses.dataclass(frozen=True)
class Entry:
  """One bucketed source of a feed; its rows have one shape.

  Attributes:
    name: of the entry.
    source: random access to records.
    transform: from a record to a row.
    weight: blocks per window.
    rows: rows per element: batches of the entry have `global_batch` times as many.
  """

  name: str
  source: Source
  transform: Transform
  weight: int = 1
  rows: int = 1


@dataclasses.dataclass(frozen=True)
class Feed:
  """The recipe of a training stream.

  Attributes:
    entries: sources with their weights.
    global_batch: elements of a batch over all processes.
    seed: of every order and every random draw, 0 <= seed < 2**32.
  """

  entries: tuple[Entry, ...]
  global_batch: int
  seed: int = 0

  def __post_init__(self) -> None:
    names = [entry.name for entry in self.entries]
    if not names or len(set(names)) != len(names):
      raise UserError(f"a feed needs entries with distinct names, got {names}; name each one once.")
    for entry in self.entries:
      if entry.weight < 1 or entry.rows < 1 or not len(entry.source):
        raise UserError(
          f"feed entry {entry.name!r} has weight {entry.weight}, {len(entry.source)} records and "
          f"{entry.rows} rows per element; leave it out or give it at least one of each."
        )
    if self.global_batch < 1:
      raise UserError(f"global_batch is {self.global_batch}; give at least 1.")

  def dataset(self, *, readers: int = 1) -> grain.MapDataset:
    """Returns the endless random-access dataset of single elements.

    With several readers, each of which takes every `readers`-th element, elements are ordered so
    that each reader yields a contiguous shard of the batch.
    """
    parents = []
    for entry in self.entries:
      # Grain permutes epoch e by seed + e; seeds depend on names so that no entry replays another's
      # next epoch.
      seed = zlib.crc32(f"{self.seed}/{entry.name}".encode())
      rows = grain.MapDataset.source(_Numbered(entry.name, entry.source)).seed(seed).shuffle()
      rows = rows.repeat().random_map(_Rows(entry.name, entry.transform))
      parents.append(rows if entry.rows == 1 else _Groups(rows, size=entry.rows))
    weights = tuple(entry.weight for entry in self.entries)
    return _Blocks(
      parents, weights=weights, block=self.global_batch, seed=self.seed, readers=readers
    )

  def stream(
    self, *, process_index: int = 0, process_count: int = 1, workers: int = 0, threads: int = 2
  ) -> "Stream":
    """Opens the stream of one process.

    Args:
      process_index: which shard of every batch this process reads.
      process_count: number of shards, a divisor of `global_batch`. Processes whose devices hold the
        same rows read the same shard, see `core.mesh.batch_share`.
      workers: worker processes (each imports the program again); 0 reads in this process.
      threads: reading threads per process, 0 to read on demand; at most twice as many batches are
        prefetched.
    """
    if self.global_batch % process_count:
      raise UserError(
        f"a global batch of {self.global_batch} is not divisible by {process_count} processes; "
        "make it a multiple."
      )
    if workers:
      config.settle_flags()  # Grain's worker processes read some.
    elastic = grain.experimental.ElasticIterator(
      self.dataset(readers=process_count),
      self.global_batch,
      grain.sharding.ShardOptions(process_index, process_count),
      read_options=grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads),
      multiprocessing_options=grain.MultiprocessingOptions(num_workers=workers)
      if workers
      else None,
    )
    return Stream(elastic, self.global_batch)


class Stream:
  """An endless iterator of batches with a state that fits any number of processes.

  After an error it stays failed, since continuing would silently skip batches; `set_state` reopens
  it.
  """

  def __init__(self, elastic: grain.experimental.ElasticIterator, global_batch: int):
    self._iterator = iter(elastic)
    self._global_batch = global_batch
    self._failure: Exception | None = None

  def __iter__(self) -> "Stream":
    return self

  def __next__(self) -> Batch:
    if self._failure is not None:
      raise RuntimeError("the stream has failed; set its state to continue") from self._failure
    try:
      batch = next(self._iterator)
      return _merge(batch[_GROUP]) if _GROUP in batch else batch
    except StopIteration as error:
      self._failure = RuntimeError("the endless stream ended: a data worker was lost")
      raise self._failure from error
    except Exception as error:
      self._failure = error
      raise

  def get_state(self) -> dict[str, int]:
    """Returns {"global_next_index": n, "global_batch": b}: elements consumed over all processes,
    and elements per batch.
    """
    return {_STATE: int(self._iterator.get_state()[_STATE]), _BATCH: self._global_batch}

  def set_state(self, state: Mapping[str, int]) -> None:
    """Moves to a state of `get_state`, taken with any process count.

    A state with another global batch, or without one, as in older runs, continues at the next whole
    block of this one: every entry then has about the same position, counted in elements. The number
    of skipped elements is logged.

    Raises:
      UserError: if the state is invalid.
    """
    position, batch = state.get(_STATE), state.get(_BATCH, None)
    known = batch is None or (type(batch) is int and batch > 0)
    if type(position) is not int or position < 0 or not known or (batch and position % batch):
      raise UserError(
        f"the data state {dict(state)} is not a position of a stream with a global batch of "
        f"{batch or self._global_batch}; resume from another checkpoint."
      )
    skipped = -position % self._global_batch
    if skipped or batch not in (None, self._global_batch):
      _log.warning(
        "the global batch was %s and is %d: the data continue at element %d, %d are skipped",
        batch or "another", self._global_batch, position + skipped, skipped,
      )  # fmt: skip
    self._failure = None
    self._iterator.set_state({_STATE: position + skipped})

  def close(self) -> None:
    """Stops the reading threads and workers."""
    self._iterator.close()


def weights(groups: Sequence[tuple[Fraction, Sequence[int]]]) -> list[list[int]]:
  """Weights of sources of several groups, in the least whole numbers.

  Each group gets its share of the batches, whatever its number of sources, and its sources share
  that in proportion to their sizes, to a hundredth of it, the least being one [MG 3.2.2].

  Args:
    groups: (share, sizes of the sources) of each.
  """
  parts = []
  for share, sizes in groups:
    if not sizes or min(sizes) < 1 or share <= 0:
      raise ValueError(f"sources and shares must not be empty, got {share} and sizes {sizes}")
    found = _hundredths(sizes)
    parts.append([share * Fraction(part, sum(found)) for part in found])
  flat = iter(least_whole([part for group in parts for part in group]))
  return [[next(flat) for _ in group] for group in parts]


def least_whole(parts: Sequence[Fraction]) -> list[int]:
  """The least whole numbers that are in proportion to positive fractions."""
  unit = math.lcm(*(part.denominator for part in parts))
  whole = [int(part * unit) for part in parts]
  return [part // math.gcd(*whole) for part in whole]


def _hundredths(sizes: Sequence[int]) -> list[int]:
  """Proportional to the sizes, each at least 1, 100 in sum where there are no more sources."""
  shares = [max(1, 100 * size // sum(sizes)) for size in sizes]
  # What rounding left over goes to those that lost most by it; what it added, the largest lose.
  lost = sorted(range(len(sizes)), key=lambda i: shares[i] - 100 * sizes[i] / sum(sizes))
  for place in range(max(0, 100 - sum(shares))):
    shares[lost[place % len(lost)]] += 1
  while sum(shares) > max(100, len(shares)):
    shares[shares.index(max(shares))] -= 1
  return shares


def evaluation_batches(
  source: Source,
  transform: Transform,
  *,
  batch: int,
  limit: int | None = None,
  seed: int = 0,
) -> Iterator[Batch]:
  """Yields the records of `source` once, in order, dropping none.

  Every process reads whole batches. The last one is padded by repeating the last record; "valid"
  (B,) is False there.

  Args:
    source: records.
    transform: its random draws depend on `seed` and the record's index only.
    batch: rows, at least 1.
    limit: reads at most this many records.
    seed: see `transform`.
  """
  if batch < 1:
    raise UserError(f"an evaluation batch has {batch} rows; it needs at least one")
  count = len(source) if limit is None else min(limit, len(source))
  for first in range(0, count, batch):
    rows = []
    for position in range(first, first + batch):
      index = min(position, count - 1)
      row = transform(index, source[index], np.random.default_rng([seed, index]))
      rows.append({**row, "valid": np.bool_(position < count)})
    yield stack(rows)


def _merge(groups: Batch) -> Batch:
  """(B, g, ...) -> (B * g, ...) of every array."""
  return {
    name: _merge(value) if isinstance(value, dict) else value.reshape(-1, *value.shape[2:])
    for name, value in groups.items()
  }


def stack(rows: Sequence[Batch]) -> Batch:
  """Stacks rows (nested dictionaries of arrays of one shape) along a new leading dimension."""
  return {
    name: stack([row[name] for row in rows])
    if isinstance(value, dict)
    else np.stack([row[name] for row in rows])
    for name, value in rows[0].items()
  }


class _Numbered:
  """A source of (index, record)."""

  def __init__(self, name: str, source: Source):
    self._name, self._source = name, source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> tuple[int, Any]:
    try:
      return index, self._source[index]
    except UserError:
      raise
    except Exception as error:
      raise RuntimeError(f"feed entry {self._name!r}, record {index}: {error}") from error


class _Rows:
  """The row transform of an entry; errors name the record."""

  def __init__(self, name: str, transform: Transform):
    self._name, self._transform = name, transform

  def __call__(self, numbered: tuple[int, Any], rng: np.random.Generator) -> Batch:
    index, record = numbered
    try:
      return self._transform(index, record, rng)
    except UserError:
      raise
    except Exception as error:
      raise RuntimeError(f"feed entry {self._name!r}, record {index}: {error}") from error


class _Groups(grain.MapDataset):
  """Stacks consecutive rows of an endless parent into elements."""

  def __init__(self, parent: grain.MapDataset, *, size: int):
    super().__init__(parent)
    self._size = size

  def __len__(self) -> int:
    return sys.maxsize

  def __str__(self) -> str:
    return f"_Groups(size={self._size})"

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return self.slice(index)
    first = index * self._size
    return {_GROUP: stack([self._parent[k] for k in range(first, first + self._size)])}


class _Blocks(grain.MapDataset):
  """Interleaves endless parents by blocks: all elements of block b come from one parent."""

  def __init__(
    self,
    parents: Sequence[grain.MapDataset],
    *,
    weights: tuple[int, ...],
    block: int,
    seed: int,
    readers: int,
  ):
    super().__init__(parents)
    common = math.gcd(*weights)
    self._weights = tuple(weight // common for weight in weights)
    self._block, self._seed, self._readers = block, seed, readers

  def __len__(self) -> int:
    return sys.maxsize

  def __str__(self) -> str:
    return f"_Blocks(weights={self._weights}, block={self._block})"

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return self.slice(index)
    block, offset = divmod(index, self._block)
    turn, reader = divmod(offset, self._readers)
    offset = reader * (self._block // self._readers) + turn
    window, place = divmod(block, sum(self._weights))
    order, ranks = _deal(self._weights, self._seed, window)
    parent = order[place]
    turn = window * self._weights[parent] + ranks[place]
    return self.parents[parent][turn * self._block + offset]


@functools.lru_cache(maxsize=64)
def _deal(
  weights: tuple[int, ...], seed: int, window: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The parent of every block of a window, and the block's rank among those of that parent."""
  deck = np.repeat(np.arange(len(weights)), weights)
  order = np.random.default_rng([seed, window]).permutation(deck).tolist()
  counts = [0] * len(weights)
  ranks = []
  for parent in order:
    ranks.append(counts[parent])
    counts[parent] += 1
  return tuple(order), tuple(ranks)
