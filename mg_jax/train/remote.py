"""Paths in object stores, with retries of every operation against transient errors.

This is the only place that retries. Importing it makes `epath.Path("gs://...")` such a path, for
us and for the checkpoint library, which writes and commits through them; arrays themselves go
through TensorStore, whose drivers for stores have their own retries. Order is kept, since an
operation has succeeded or failed before the next starts.
"""

import fnmatch
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from etils import epath
from etils.epath import gpath

from mg_jax.core.errors import UserError, first_line, refusal

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
SCHEMES = ("gs://", "s3://", "az://")
ATTEMPTS = 6
FIRST_WAIT = 0.5  # maximal seconds, doubled with every attempt: at most 15.5 s in all
_LASTING = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
_LASTING += (PermissionError,)
_PASSING = {408, 429, 500, 502, 503, 504}  # transient HTTP errors


def retry(call: Callable[[], _T], what: str) -> _T:
  """The result of a call, retried after transient errors.

  Waits are random, so that many hosts do not retry at the same moment.

  Args:
    call: safe to repeat.
    what: name of the operation, for messages.

  Raises:
    UserError: if all attempts failed. Other errors are raised at once.
  """
  for attempt in range(1, ATTEMPTS + 1):
    try:
      return call()
    except Exception as e:
      if not _may_pass(e):
        raise
      if attempt == ATTEMPTS:
        raise UserError(
          f"{what} failed {ATTEMPTS} times, the last time with {first_line(e)!r}; check the "
          "connection to the store and run the same command again"
        ) from e
      _log.debug("%s failed (%s), attempt %d of %d", what, first_line(e), attempt, ATTEMPTS)
      time.sleep(random.uniform(0.5, 1.0) * FIRST_WAIT * 2 ** (attempt - 1))
  raise AssertionError


def _may_pass(error: Exception) -> bool:
  status = getattr(error, "code", None) or getattr(error, "status", None)
  if status is not None:
    return str(status).isdigit() and int(status) in _PASSING
  return isinstance(error, OSError) and not isinstance(error, _LASTING) and not refusal(error)


@epath.register_path_cls(SCHEMES)
class RemotePath(gpath.PosixGPath):
  """A path of a store; see `etils.epath.Path` for its methods."""

  def _retry(self, name: str, *args: Any, **kwargs: Any) -> Any:
    method = getattr(super(), name)
    return retry(lambda: method(*args, **kwargs), f"{name} of {self}")

  def exists(self) -> bool:
    # By `stat`, as fsspec's `exists` takes every error for False.
    try:
      self.stat()
    except FileNotFoundError:
      return False
    return True

  def is_dir(self) -> bool:
    try:
      return self.stat().is_directory
    except FileNotFoundError:
      return False

  def stat(self) -> Any:
    return self._retry("stat")

  def iterdir(self) -> Iterator["RemotePath"]:
    listed = super().iterdir
    return iter(retry(lambda: list(listed()), f"listing {self}"))

  def glob(self, pattern: str) -> Iterator["RemotePath"]:
    """Lists level after level: fsspec's own glob takes an error for an empty folder."""
    paths = [self]
    for part in pattern.split("/"):
      if set(part) & set("*?["):
        children = (child for path in paths for child in path._children())
        paths = [child for child in children if fnmatch.fnmatchcase(child.name, part)]
      else:
        paths = [child for path in paths if (child := path / part).exists()]
    return iter(paths)

  def _children(self) -> list["RemotePath"]:
    try:
      return list(self.iterdir())
    except (FileNotFoundError, NotADirectoryError):
      return []

  def read_text(self, *args: Any, **kwargs: Any) -> str:
    return self._retry("read_text", *args, **kwargs)

  def read_bytes(self) -> bytes:
    return self._retry("read_bytes")

  def write_text(self, *args: Any, **kwargs: Any) -> int:
    return self._retry("write_text", *args, **kwargs)

  def write_bytes(self, data: bytes) -> int:
    return self._retry("write_bytes", data)

  def open(self, *args: Any, **kwargs: Any) -> Any:
    return self._retry("open", *args, **kwargs)

  def mkdir(self, *args: Any, **kwargs: Any) -> None:
    self._once("mkdir", FileExistsError, self.exists, *args, **kwargs)

  def rmtree(self, *args: Any, **kwargs: Any) -> None:
    self._once("rmtree", FileNotFoundError, lambda: not self.exists(), *args, **kwargs)

  def unlink(self, *args: Any, **kwargs: Any) -> None:
    self._once("unlink", FileNotFoundError, lambda: not self.exists(), *args, **kwargs)

  def rename(self, target: os.PathLike | str) -> "RemotePath":
    return self._move("rename", target)

  def replace(self, target: os.PathLike | str) -> "RemotePath":
    return self._move("replace", target)

  def _move(self, name: str, target: os.PathLike | str) -> "RemotePath":
    target = self._new(target)
    done = lambda: target.exists() and not self.exists()  # noqa: E731
    self._once(name, (FileNotFoundError, FileExistsError), done, target)
    return target

  def copy(self, *args: Any, **kwargs: Any) -> "RemotePath":
    return self._retry("copy", *args, **kwargs)

  def _once(
    self,
    name: str,
    error: type[Exception] | tuple[type[Exception], ...],
    done: Callable[[], bool],
    *args: Any,
    **kwargs: Any,
  ) -> None:
    """As `_retry`, but counts as success if `done` holds after an attempt that seemed to fail."""
    method, attempts = getattr(super(), name), 0

    def call() -> None:
      nonlocal attempts
      attempts += 1
      try:
        method(*args, **kwargs)
      except error as e:
        if attempts > 1 and done():
          return
        if isinstance(e, FileNotFoundError) and self.exists():
          raise ConnectionError(f"the store reports {self} both as present and as missing") from e
        raise

    retry(call, f"{name} of {self}")
