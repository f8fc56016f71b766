"""Atomic writes of files.

A file is written next to its target under a temporary name, synced, then renamed.
"""

import contextlib
import json
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

from mg_jax.core.errors import UserError, refusal

PREFIX = ".partial-"
_KEPT = 200  # bytes of a target's name in the temporary one, which may have 255


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a temporary path in the folder of `path`; on success it is synced and renamed to `path`.

  If the body raises, the temporary file is removed and `path` is unchanged. The parent folder is
  created.

  Raises:
    OSError: naming `path`, if the disk refuses, however the writing library reports that.
  """
  target = pathlib.Path(path)
  partial = _partial(target)
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    yield partial
    with open(partial, "rb+") as file:
      os.fsync(file.fileno())
    os.replace(partial, target)
    _sync_folder(target.parent)
  except Exception as error:
    refused = None if isinstance(error, UserError) else refusal(error)
    if refused is None or refused.file not in ("", os.fspath(partial)):
      raise
    raise OSError(refused.code, os.strerror(refused.code), os.fspath(target)) from error
  finally:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
  """Checks that a file can be written at `path`, its folders included; leaves nothing behind.

  Meant to be called before hours are spent on computing the content.

  Raises:
    UserError: if it cannot.
  """
  target = tried = pathlib.Path(path)
  try:
    if target.is_dir():
      raise UserError(f"{target} is a folder; choose another place to write to")
    base = target.parent
    while not base.exists() and base != base.parent:
      base = base.parent
    tried = base
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=base) as folder:
      tried = target
      with replacing(pathlib.Path(folder) / target.relative_to(base)) as partial:
        partial.touch()
  except OSError as error:
    raise UserError(
      f"{tried} cannot be written ({error.strerror}); choose another place to write to"
    ) from error


def _partial(target: pathlib.Path) -> pathlib.Path:
  tail = os.fsdecode(os.fsencode(target.name)[-_KEPT:])
  return target.with_name(f"{PREFIX}{uuid.uuid4().hex[:12]}-{tail}")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes `value` as indented JSON with sorted keys, atomically."""
  with replacing(path) as partial:
    partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_jsonl(path: str | os.PathLike[str], rows: list[dict[str, Any]]) -> None:
  """Writes one JSON object per line, atomically."""
  with replacing(path) as partial:
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _sync_folder(folder: pathlib.Path) -> None:
  # Without it a power cut may undo the rename of a file whose bytes are already on disk.
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
