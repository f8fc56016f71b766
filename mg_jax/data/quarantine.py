"""Deterministic replacement of records that cannot be read.

A feed may not drop elements (its position must determine what comes next on any number of hosts),
so a bad record is replaced by another one of the same source, chosen by a hash of its index: the
same one in every process and run. Every bad record is recorded once with its reason; too many of
them stop the run.
"""

import dataclasses
import hashlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from mg_jax.core.errors import UserError

_ATTEMPTS = 16


@dataclasses.dataclass(frozen=True)
class Bad:
  """One record that could not be read."""

  index: int
  name: str
  reason: str


class Quarantine:
  """Reads records through `read`, replacing those that raise one of `errors`.

  `len(quarantine)` counts the bad records encountered by this process, `quarantine.records` lists
  them.

  Args:
    read: index -> record.
    length: number of records.
    errors: exceptions that mean a bad record; others propagate.
    name: index -> name of the record in messages.
    limit: fraction of the source that may be bad (one bad record is always allowed if above 0).
    setting: the config field of `limit`, for messages; empty if there is none.
  """

  def __init__(
    self,
    read: Callable[[int], Any],
    length: int,
    *,
    errors: tuple[type[Exception], ...],
    name: Callable[[int], str] = str,
    limit: float = 0.05,
    setting: str = "",
  ):
    self._setting = setting
    self._read, self._length, self._errors, self._name = read, length, errors, name
    self._allowed = max(1, int(limit * length)) if limit > 0 else 0
    self._bad: dict[int, Bad] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self._bad)

  @property
  def records(self) -> list[Bad]:
    """The bad records encountered so far, by index."""
    with self._lock:
      return sorted(self._bad.values(), key=lambda bad: bad.index)

  def read(self, index: int) -> Any:
    """Returns record `index`, or its replacement if it is bad.

    Raises:
      UserError: if more than the allowed fraction of records is bad, or no good replacement is
        found.
    """
    candidate = index
    for attempt in range(_ATTEMPTS):
      if candidate not in self._bad:
        try:
          return self._read(candidate)
        except self._errors as error:
          self._report(candidate, error)
      candidate = _substitute(index, attempt, self._length)
    raise UserError(
      f"{self._name(index)} and {_ATTEMPTS - 1} replacements of it cannot be read; "
      "check the source."
    )

  def _report(self, index: int, error: Exception) -> None:
    bad = Bad(index, self._name(index), str(error))
    with self._lock:
      if index in self._bad:
        return
      self._bad[index] = bad
      count = len(self._bad)
    logging.getLogger(__name__).warning("record %d (%s) is replaced: %s", index, bad.name, error)
    if count > self._allowed:
      raise UserError(
        f"{count} of {self._length} records cannot be read, the last one {bad.name} ({bad.reason});"
        f" repair the source or raise {self._setting or 'its limit of bad records'}."
      ) from error

  def __getstate__(self) -> dict[str, Any]:
    # Locks cannot be pickled; each worker process counts for itself.
    return {key: value for key, value in self.__dict__.items() if key != "_lock"}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._lock = threading.Lock()


def _substitute(index: int, attempt: int, length: int) -> int:
  digest = hashlib.blake2b(f"{index}/{attempt}".encode(), digest_size=8).digest()
  return int.from_bytes(digest, "big") % length
