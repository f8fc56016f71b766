"""Turns an iterator of numpy batches into sharded device arrays, one batch ahead of the step.

A thread reads and places the next batch while the current step runs. The reported position is that
of the batch about to be consumed, so prefetched batches are read again after a resume. Only `next`,
`get_state` and `set_state` of the iterator are used.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import batch_axes, batch_share, use_mesh
from mg_jax.core.sharding import batch_sharding
from mg_jax.core.typing import PyTree


class BatchIterator(Protocol):
  """An iterator whose position can be saved and restored as plain JSON."""

  def __next__(self) -> Mapping[str, Any]:
    """The next batch of this process."""

  def get_state(self) -> Any:
    """Position of the batch that `next` would return."""

  def set_state(self, state: Any) -> None:
    """Seeks to a position."""


def place_batch(batch: Mapping[str, Any], mesh: Mesh, *, whole: bool = False) -> PyTree:
  """Places rows of a batch on the mesh.

  Args:
    batch: nested dicts of numpy arrays, leading dimension the rows that this process has read, its
      shard of the batch by `core.mesh.batch_share`. Text and object arrays are dropped, as devices
      cannot hold them.
    mesh: the leading dimension is split over its data and fsdp axes.
    whole: whether every process has read all rows instead.

  Raises:
    UserError: if the rows do not divide over the devices.
  """
  sharding = batch_sharding(mesh)
  ways, pieces = batch_axes(mesh), 1 if whole else batch_share(mesh)[1]

  def put(array: np.ndarray) -> jax.Array:
    shape = (array.shape[0] * pieces, *array.shape[1:])
    if shape[0] % ways:
      raise UserError(
        f"a batch of {shape[0]} does not divide over {ways} devices of mesh {dict(mesh.shape)}"
      )
    if whole:
      return jax.make_array_from_callback(shape, sharding, lambda index: array[index])
    return jax.make_array_from_process_local_data(sharding, array, shape)

  return jax.tree.map(put, _numeric(batch))


def _numeric(batch: Mapping[str, Any]) -> dict[str, Any]:
  kept = {}
  for key, value in batch.items():
    if isinstance(value, Mapping):
      kept[key] = _numeric(value)
    elif np.asarray(value).dtype.kind in "biuf" or np.asarray(value).dtype.name == "bfloat16":
      kept[key] = np.asarray(value)
  return kept


class Feed:
  """Iterates over device batches.

  Attributes:
    host: the numpy batch consumed last, with its text and sample ids, or None.
    wait: total seconds that the consumer has waited for data.
  """

  def __init__(
    self,
    iterator: BatchIterator,
    mesh: Mesh,
    preprocess: Callable[[PyTree], PyTree] | None = None,
  ):
    """Reads from an iterator; `preprocess`, if any, is applied to every batch on its devices."""
    self.host: Mapping[str, Any] | None = None
    self.wait = 0.0
    self._iterator = iterator
    self._mesh = mesh
    self._preprocess = preprocess
    self._thread: threading.Thread | None = None
    self._position = iterator.get_state()
    self._head: tuple | None = None

  def __iter__(self) -> "Feed":
    return self

  def __next__(self) -> PyTree:
    """The next batch. An error of the reading thread is raised here, and again on every call."""
    placed, self.host, self._position = self._look()
    self._head = None
    return placed

  def peek(self) -> PyTree:
    """The batch that `next` will return, not consumed. Raises UserError if there is none."""
    try:
      return self._look()[0]
    except StopIteration as e:
      raise UserError(f"the data end at position {self._position}; repeat the data") from e

  def get_state(self) -> Any:
    """Position of the batch that `next` will return."""
    return self._position

  def set_state(self, state: Any) -> None:
    """Seeks to a position and drops prefetched batches."""
    self.close()
    self._iterator.set_state(state)
    self._position = state

  def close(self) -> None:
    """Stops prefetching and drops batches not consumed."""
    if self._thread is not None:
      self._stop.set()
      self._thread.join()
      self._thread, self._head = None, None

  def _look(self) -> tuple:
    if self._head is None:
      if self._thread is None:
        self._start()
      begin = time.perf_counter()
      self._head = self._queue.get()
      self.wait += time.perf_counter() - begin
      if self._preprocess and not isinstance(self._head, BaseException):
        # Here and not in the thread: all processes must run device programs in the same order.
        placed, *rest = self._head
        with use_mesh(self._mesh):
          self._head = (self._preprocess(placed), *rest)
    if isinstance(self._head, BaseException):
      raise self._head
    return self._head

  def _start(self) -> None:
    # One batch waits here and one in the thread; more would only take memory.
    self._queue: queue.Queue = queue.Queue(maxsize=1)
    self._stop = threading.Event()
    args = (self._queue, self._stop)
    self._thread = threading.Thread(target=self._draw, args=args, daemon=True, name="feed")
    self._thread.start()

  def _draw(self, out: queue.Queue, stop: threading.Event) -> None:
    while not stop.is_set():
      position = self._iterator.get_state()
      try:
        batch = next(self._iterator)
        item = (place_batch(batch, self._mesh), batch, self._iterator.get_state())
      except BaseException as e:
        e.add_note(f"while reading the batch at data position {position}")
        item = e
      while not stop.is_set():
        try:
          out.put(item, timeout=0.05)
          break
        except queue.Full:
          continue
      if isinstance(item, BaseException):
        return
