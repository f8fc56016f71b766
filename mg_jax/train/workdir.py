"""The folder of a run: found, checked for writing, and locked before anything is compiled."""

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator

import jax
from etils import epath

from mg_jax.core.errors import UserError

_log = logging.getLogger(__name__)
LOCK = ".lock"


def resolve(workdir: str | os.PathLike) -> epath.Path:
  """The workdir as an absolute path, local or remote (`gs://...`)."""
  text = os.fspath(workdir)
  if not text:
    raise UserError("no workdir given; name the folder this run may write to")
  return epath.Path(text if "://" in text else os.path.abspath(os.path.expanduser(text)))


def prepare(workdir: str | os.PathLike) -> epath.Path:
  """Makes the folder if its parent exists, and proves that it can be written.

  Raises:
    UserError: when the parent is missing or the folder refuses a file.
  """
  path = resolve(workdir)
  if jax.process_index() == 0:
    if not is_remote(path) and not path.parent.is_dir():
      raise UserError(f"workdir {path} cannot be made: {path.parent} is no folder; create it first")
    probe = path / f".probe_{os.getpid()}"
    try:
      path.mkdir(parents=True, exist_ok=True)
      probe.write_text("probe")
      probe.unlink()
    except OSError as e:
      raise UserError(f"workdir {path} cannot be written ({e.strerror}); choose another") from e
  return path


def is_remote(path: epath.Path) -> bool:
  """Whether a path lives in an object store, which has neither locks nor appending."""
  return "://" in os.fspath(path)


@contextlib.contextmanager
def locked(path: epath.Path) -> Iterator[None]:
  """Holds the workdir against a second job while inside; a dead process holds nothing.

  The kernel drops the lock with its process, however that ends, so a file that was left behind is
  simply taken over; the host and pid in it only serve the message. Object stores are not locked.

  Raises:
    UserError: when another live process holds it.
  """
  if is_remote(path) or jax.process_index() != 0:
    yield
    return
  with open(path / LOCK, "a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      file.seek(0)
      raise UserError(
        f"workdir {path} is in use by {file.read().strip() or 'another process'}; stop that job or "
        "choose another workdir"
      ) from e
    except OSError as e:
      _log.warning("%s offers no locks (%s): nothing keeps a second job out", path, e.strerror)
    file.truncate(0)
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%F %T")}
    file.write(json.dumps(owner))
    file.flush()
    try:
      yield
    finally:
      file.truncate(0)
