"""Files of videos and of still images in a folder: which there are, and what their headers say.

A folder is read without its subfolders. Files of the other kind or with other endings are passed
over and counted in the log; what has the ending but is no file (a link that leads nowhere, a
folder, a pipe) is never opened.
"""

import collections
import concurrent.futures
import logging
import os
import stat
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

from mg_jax.core.errors import UserError
from mg_jax.data.media import stills, video
from mg_jax.data.media.containers import MediaError
from mg_jax.data.text import captions

_log = logging.getLogger(__name__)
Kind = Literal["video", "image"]
# Containers that FFmpeg reads, with a picture that can be cut into clips.
VIDEO_SUFFIXES = (
  ".mp4", ".webm", ".mov", ".mkv", ".m4v", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".ts", ".m2ts",
  ".3gp", ".ogv",
)  # fmt: skip
SUFFIXES: dict[Kind, tuple[str, ...]] = {"video": VIDEO_SUFFIXES, "image": stills.SUFFIXES}
REPORT = "rejected.jsonl"  # a run may have written it into the folder
_PROBES = 4


class Info(NamedTuple):
  """What buckets ask of a file: seconds, upright pixels, seconds of a frame; an image lasts 0 s."""

  duration_s: float
  height: int
  width: int
  frame_s: float


def is_still(name: str) -> bool:
  """Whether the ending is that of an image."""
  return name.lower().endswith(stills.SUFFIXES)


def list_files(folder: str | os.PathLike[str], kind: Kind, *, log: bool = False) -> list[str]:
  """Names of the files of a kind, in order; with `log`, what else there is goes into the log.

  Raises:
    UserError: the folder is missing, unreadable or without such files.
  """
  try:
    with os.scandir(folder) as entries:
      listed = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
  except FileNotFoundError as error:
    raise UserError(f"{folder}: there is no such folder; give a folder of {kind}s.") from error
  except OSError as error:
    raise UserError(
      f"{folder} cannot be read ({error.strerror}); give a readable folder."
    ) from error
  names = sorted(name for name in listed if name.lower().endswith(SUFFIXES[kind]))
  passed = _passed_over(listed, set(names))
  if not names:
    there = f"; there are {passed}, which are not read" if passed else ""
    raise UserError(
      f"{folder} holds no {kind}; put files ending in {', '.join(SUFFIXES[kind])} there{there}."
    )
  if passed and log:
    _log.warning("%s: passed over are %s", folder, passed)
  return names


def _passed_over(listed: dict[str, bool], read: set[str]) -> str:
  """What a folder holds beside the files that are read and all captions, counted by ending."""
  stems = {os.path.splitext(name)[0] for name in listed if not name.endswith(".txt")}
  counts: collections.Counter[str] = collections.Counter()
  for name, is_folder in listed.items():
    stem, ending = os.path.splitext(name)
    caption = name in (captions.FILE, REPORT) or (ending == ".txt" and stem in stems)
    if name not in read and not caption:
      counts["subfolders" if is_folder else ending.lower() or "files without ending"] += 1
  return ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))


def sizes(folder: str | os.PathLike[str], names: Sequence[str]) -> dict[str, int | MediaError]:
  """Bytes of each file, or why it is none: to open a pipe would wait for somebody to write."""
  return {name: _size(os.path.join(folder, name)) for name in names}


def _size(path: str) -> int | MediaError:
  try:
    found = os.stat(path)
  except OSError as error:
    link = "it is a link that leads nowhere" if os.path.islink(path) else "it cannot be found"
    return MediaError("missing", path, f"{link} ({error.strerror})")
  if not stat.S_ISREG(found.st_mode):
    return MediaError("unreadable", path, "it is a folder or a device and no file")
  return found.st_size


def probe_all(
  folder: str | os.PathLike[str], names: Sequence[str]
) -> dict[str, Info | MediaError]:
  """What the headers of files say, or why they cannot be used; several are read at once."""
  from PIL import Image

  # Images beyond our own limit are rejected by name. Filters are the whole process's: they are set
  # here, where no thread runs yet.
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with concurrent.futures.ThreadPoolExecutor(_PROBES) as pool:
      found = pool.map(lambda name: _probe(os.path.join(folder, name)), names)
      return dict(zip(names, found, strict=True))


def _probe(path: str) -> Info | MediaError:
  try:
    if is_still(path):
      return Info(0.0, *stills.probe(path), 0.0)
    info = video.probe(path)
    return Info(info.duration_s, info.height, info.width, 1 / info.fps)
  except MediaError as error:
    return error
