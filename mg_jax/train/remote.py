"""Paths in object stores, which fail now and then: every operation is tried again a few times.

This is the one place where that happens. Importing it makes `epath.Path("gs://...")` such a path,
for us and for the checkpoint library, which writes and commits through them; arrays themselves go
through TensorStore, whose drivers for stores have retries of their own. Order is kept, since an
operation has ended, well or with an error, before the next begins.
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
FIRST_WAIT = 0.5  # seconds at most, doubled with every attempt: 15.5 s at most in all
_LASTING = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
_LASTING += (PermissionError,)
_PASSING = {408, 429, 500, 502, 503, 504}  # of HTTP


def retry(call: Callable[[], _T], what: str) -> _T:
  """The result of a call, which is repeated after errors that may pass.

  Waits are random, so that many hosts do not come back at the same moment.

  Args:
    call: safe to repeat.
    what: for messages.

  Raises:
    UserError: when all attempts failed. Errors that do not pass are raised at once.
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
    # By `stat`, as `exists` of fsspec takes every error for a no.
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
    """By listing level after level: fsspec's own takes an error for an empty folder."""
    found = [self]
    for part in pattern.split("/"):
      if set(part) & set("*?["):
        children = (child for path in found for child in path._children())
        found = [child for child in children if fnmatch.fnmatchcase(child.name, part)]
      else:
        found = [child for path in found if (child := path / part).exists()]
    return iter(found)

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
    """As `_retry`, for what finds itself `done` after an attempt that only seemed to fail."""
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
          raise ConnectionError(f"the store finds {self} and does not") from e
        raise

    retry(call, f"{name} of {self}")
