"""The folder of a run: resolved, checked for writing, and locked before anything is compiled."""

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax
from etils import epath

from mg_jax.core import shipped
from mg_jax.core.errors import UserError, first_line, refusal
from mg_jax.data import atomic
from mg_jax.train.remote import SCHEMES

_log = logging.getLogger(__name__)
LOCK = ".lock"
LATENTS = "latents"


def resolve(workdir: str | os.PathLike) -> epath.Path:
  """A workdir, or a name of the cast, as an absolute path, local or remote (`gs://...`)."""
  text = os.fspath(workdir)
  if not text:
    raise UserError("no workdir given; name a folder for this run")
  if "://" not in text:
    text = shipped.locate(text)
    return epath.Path(os.path.abspath(os.path.expanduser(text)))
  try:
    return epath.Path(text)
  except KeyError as e:
    raise UserError(f"{text} names no known store; known are {', '.join(SCHEMES)}") from e


def latents_folder(config: Mapping[str, Any], workdir: str | os.PathLike[str]) -> str:
  """The folder of the latents of a generator's run."""
  return config.get("latents") or os.path.join(workdir, LATENTS)


def beside(workdir: str | os.PathLike[str], named: str | os.PathLike[str]) -> epath.Path:
  """The folder that a run in `workdir` names, or the one that has moved along with it."""
  path = resolve(named)
  moved = resolve(workdir).parent / path.name
  return moved if moved.exists() and not path.exists() else path


def prepare(workdir: str | os.PathLike) -> epath.Path:
  """Creates the folder if its parent exists, and checks that it can be written.

  Raises:
    UserError: if the parent is missing or the folder cannot be written.
  """
  if shipped.is_shipped(workdir):
    raise UserError(f"{workdir} is kept for shipped weights; choose another workdir")
  path = resolve(workdir)
  if jax.process_index() == 0:
    if not is_remote(path) and not path.parent.is_dir():
      raise UserError(
        f"workdir {path} cannot be created: {path.parent} is not a folder; create it first"
      )
    try:
      path.mkdir(parents=True, exist_ok=True)
      probe(path)
    except ImportError as e:
      raise UserError(f"workdir {path} needs another package: {first_line(e)}") from e
    except Exception as e:
      if refused := refusal(e):
        raise UserError(str(dataclasses.replace(refused, file=f"workdir {path}"))) from e
      if isinstance(e, OSError) and not is_remote(path):
        raise UserError(f"workdir {path} cannot be written ({e.strerror}); choose another") from e
      if not is_remote(path):
        raise
      raise UserError(
        f"workdir {path} cannot be reached ({first_line(e)}); check the name of the bucket and "
        "your credentials for it"
      ) from e
  return path


def probe(folder: epath.Path) -> None:
  """Writes a file into a folder and removes it. Raises OSError if that is not allowed."""
  file = folder / f".probe_{os.getpid()}"
  file.write_text("probe")
  file.unlink()


def write_text(path: epath.Path, text: str) -> None:
  """Atomically writes a small file; creates its folder."""
  if is_remote(path):
    path.write_text(text)  # objects appear atomically
  else:
    with atomic.replacing(path) as partial:
      partial.write_text(text, encoding="utf-8")


def is_remote(path: epath.Path) -> bool:
  """Whether a path is in an object store, which has neither locks nor appending."""
  return "://" in os.fspath(path)


@contextlib.contextmanager
def locked(path: epath.Path) -> Iterator[None]:
  """Locks the workdir against a second job while inside; a dead process holds no lock.

  The kernel drops the lock with its process, however that ends, so the file that a killed one has
  left is simply taken over; the host and pid in it are only for the message. Any other end removes
  the file. Object stores are not locked.

  Raises:
    UserError: if another live process holds it.
  """
  if is_remote(path) or jax.process_index() != 0:
    yield
    return
  with _lock(path) as file:
    file.truncate(0)
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%F %T")}
    file.write(json.dumps(owner))
    file.flush()
    try:
      yield
    finally:
      (path / LOCK).unlink(missing_ok=True)


def _lock(path: epath.Path) -> TextIO:
  """The lock's file, locked as far as the file system has locks."""
  while True:
    file = open(path / LOCK, "a+")
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      with file:
        file.seek(0)
        raise UserError(
          f"workdir {path} is in use by {_owner(file.read())}; wait for that job, stop it, or "
          "choose another workdir"
        ) from e
    except OSError as e:
      _log.warning("%s has no file locks (%s): a second job is not prevented", path, e.strerror)
    # A job that ended after the file was opened has removed it: this would lock nobody out.
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(file.fileno()), os.stat(path / LOCK)):
        return file
    file.close()


def _owner(text: str) -> str:
  """The holder of a lock, from the text of its file."""
  try:
    owner = json.loads(text)
    return f"process {owner['pid']} on host {owner['host']}, since {owner['since']}"
  except (ValueError, LookupError, TypeError):
    return "another process"
