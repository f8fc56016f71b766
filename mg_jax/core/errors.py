"""Errors that are not bugs: a user's mistake, and refusals of a disk or a store."""

import dataclasses
import errno
import os
from collections.abc import Iterator


class UserError(Exception):
  """A user's mistake, in one sentence: what is wrong, where, and what to do about it.

  Entry points print the sentence and exit with a non-zero code; they show no traceback for it.
  """


@dataclasses.dataclass(frozen=True)
class Refusal:
  """A request that a disk or a store refused.

  Attributes:
    code: an errno.
    file: the file that could not be written or read, "" if unknown.
    reason: why, as half a sentence.
    remedy: what to do about it, in the imperative.
  """

  code: int
  file: str
  reason: str
  remedy: str

  def __str__(self) -> str:
    return (
      f"{self.file or 'a file'} cannot be written, {self.reason}; {self.remedy} and run the same "
      "command again"
    )


_REFUSALS = {
  errno.ENOSPC: ("the disk is full", "free some space"),
  errno.EDQUOT: ("the disk quota is used up", "free some space"),
  errno.EFBIG: ("the file is larger than allowed here", "raise the limit (ulimit -f)"),
  errno.EROFS: ("the file system is read-only", "mount it for writing"),
  errno.EIO: ("the disk reports an error", "check the disk"),
}


def refusal(error: BaseException) -> Refusal | None:
  """The refusal of a disk or store that caused an error; None for any other cause.

  Libraries written in C++ and Rust give it only as text, so the text of chained errors is searched
  too.
  """
  for link in _chain(error):
    if isinstance(link, OSError) and link.errno in _REFUSALS:
      named = "" if link.filename is None else os.fsdecode(link.filename)
      return Refusal(link.errno, named, *_REFUSALS[link.errno])
  for link in _chain(error):
    for code, (reason, remedy) in _REFUSALS.items():
      if os.strerror(code).lower() in str(link).lower():
        return Refusal(code, "", reason, remedy)
  return None


def first_line(error: BaseException, *, most: int = 200) -> str:
  """The first line of an error's text, or its type if it has none."""
  return next(iter(str(error).splitlines()), type(error).__name__)[:most]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  visited = set()
  while error is not None and id(error) not in visited:
    visited.add(id(error))
    yield error
    error = error.__cause__ or error.__context__
