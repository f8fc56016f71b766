"""Listing and probing the media files of one kind in a folder.

Files with other extensions are skipped and logged; an entry with the extension that is not a
regular file (a dangling link, a folder, a pipe) is never opened.
"""

import collections
import concurrent.futures
import logging
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from mg_jax.core.errors import UserError
from mg_jax.data.media import stills
from mg_jax.data.media.containers import MediaError
from mg_jax.data.text import captions

_log = logging.getLogger(__name__)
Kind = Literal["video", "image", "sound"]
# Containers that FFmpeg reads, with video that can be cut into clips.
VIDEO_SUFFIXES = (
  ".mp4", ".webm", ".mov", ".mkv", ".m4v", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".ts", ".m2ts",
  ".3gp", ".ogv",
)  # fmt: skip
# Containers that FFmpeg reads and that may hold sound, videos included.
SOUND_SUFFIXES = (
  ".wav", ".w64", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".m4a", ".m4b", ".aac",
  ".ac3", ".aif", ".aiff", ".aifc", ".caf", ".wma", ".mka", ".weba", ".amr", ".au", ".wv", ".ape",
  ".tta", ".mts", *VIDEO_SUFFIXES,
)  # fmt: skip
SUFFIXES: dict[Kind, tuple[str, ...]] = {
  "video": VIDEO_SUFFIXES, "image": stills.SUFFIXES, "sound": SOUND_SUFFIXES,
}  # fmt: skip
REPORT = "rejected.jsonl"  # a run may have written it into the folder
_NOTES = (".txt", ".json", ".jsonl")  # captions and the like, not worth a warning among sounds
_NAMED = 8  # skipped files that are named


def is_still(name: str) -> bool:
  """Whether the extension is that of an image."""
  return name.lower().endswith(stills.SUFFIXES)


def list_files(
  folder: str | os.PathLike[str], kind: Kind, *, below: bool = False, log: bool = False
) -> list[str]:
  """Sorted names of the files of a kind that are not hidden.

  Args:
    folder: the folder.
    kind: of files; "sound" includes videos.
    below: whether subfolders are searched too.
    log: whether skipped files are logged.

  Raises:
    UserError: if the folder is missing, unreadable or without such files.
  """
  try:
    listed = _listed(folder, below)
  except FileNotFoundError as error:
    raise UserError(f"{folder}: there is no such folder; give a folder of {kind}s.") from error
  except OSError as error:
    raise UserError(
      f"{folder} cannot be read ({error.strerror}); give a readable folder."
    ) from error
  names = sorted(name for name in listed if name.lower().endswith(SUFFIXES[kind]))
  rest = listed.keys() - names
  skipped = _named(rest, listed) if kind == "sound" else _counted(rest, listed)
  if not names:
    others = f"; it has {skipped}, which are not read" if skipped and kind != "sound" else ""
    raise UserError(
      f"{folder} has no {kind}; put files ending in {', '.join(SUFFIXES[kind])} there{others}."
    )
  if skipped and log:
    _log.warning("%s: skipped %s", folder, skipped)
  return names


def _listed(folder: str | os.PathLike[str], below: bool) -> dict[str, bool]:
  """Entries of a folder -> whether each is a folder; with `below`, files only."""
  if not below:
    with os.scandir(folder) as entries:
      return {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
  os.listdir(folder)  # raises if unreadable, which os.walk ignores
  paths = []
  for parent, folders, files in os.walk(folder):
    folders[:] = [name for name in folders if not name.startswith(".")]
    paths += [os.path.join(parent, name) for name in files if not name.startswith(".")]
  return {os.path.relpath(path, folder): False for path in paths}


def _counted(names: Iterable[str], listed: dict[str, bool]) -> str:
  """Counts by extension of the files of a folder that are neither read nor captions."""
  stems = {os.path.splitext(name)[0] for name in listed if not name.endswith(".txt")}
  counts: collections.Counter[str] = collections.Counter()
  for name in names:
    stem, ending = os.path.splitext(name)
    if not (name in (captions.FILE, REPORT) or (ending == ".txt" and stem in stems)):
      counts["subfolders" if listed[name] else ending.lower() or "files without extension"] += 1
  return ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))


def _named(names: Iterable[str], listed: dict[str, bool]) -> str:
  """Names of the files of a folder that are neither sounds nor text."""
  files = sorted(n for n in names if not (listed[n] or n.lower().endswith(_NOTES)))
  more = ", ..." if len(files) > _NAMED else ""
  words = ", ".join(files[:_NAMED])
  return words and f"unknown extensions ({len(files)}): {words}{more}"


def probe_all(
  folder: str | os.PathLike[str], names: Sequence[str], probe: Callable[[str], Any], *, workers: int
) -> dict[str, Any]:
  """Name -> what `probe` returns, or the MediaError that it raises; files are read in parallel."""
  from PIL import Image

  def one(name: str) -> Any:
    path = os.path.join(folder, name)
    try:
      _check_file(path)
      return probe(path)
    except MediaError as error:
      return error

  # Images beyond our own limit are rejected by name. Filters are global to the process, so they are
  # set before threads start.
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
      return dict(zip(names, pool.map(one, names), strict=True))


def _check_file(path: str) -> None:
  """Raises MediaError if this is not a regular file: opening a pipe would block."""
  try:
    status = os.stat(path)
  except OSError as error:
    link = "it is a dangling link" if os.path.islink(path) else "it cannot be found"
    raise MediaError("missing", path, f"{link} ({error.strerror})") from error
  if not stat.S_ISREG(status.st_mode):
    raise MediaError("unreadable", path, "it is not a regular file")
