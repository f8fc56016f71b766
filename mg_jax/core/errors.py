"""Errors that are not bugs: a user's mistake, and what a disk or a store refuses."""

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
  """What a disk or a store refuses.

  Attributes:
    code: an errno.
    file: what could not be written or read, "" where the error does not say.
    reason: why, as half a sentence.
    remedy: what to do about it, as an order.
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
  errno.EIO: ("the disk fails", "check the disk"),
}


def refusal(error: BaseException) -> Refusal | None:
  """What a disk or store refused, if that is why an error was raised; None for any other reason.

  Libraries written in C++ and Rust give it as text, so that of the errors it was raised from counts
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
  """The first line of an error's text, or what kind it is where it has none."""
  return next(iter(str(error).splitlines()), type(error).__name__)[:most]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  seen = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    yield error
    error = error.__cause__ or error.__context__
