"""Opening and creating media files through PyAV (FFmpeg), and their errors.

Every fault of a file raises a `MediaError` with a machine-readable reason. Running out of memory or
of file descriptors is not the file's fault: it raises a plain `UserError`, which is never
quarantined as a bad record.

A path always names a regular file. FFmpeg would interpret some names as protocols ("12:30.mp4",
"pipe:") or as image patterns ("a%d.png"); here every legal file name means that file. Folders,
pipes and devices are rejected before they are opened, since opening a pipe may block forever.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Any, Literal

from mg_jax.core.errors import UserError
from mg_jax.data import atomic

MAX_PIXELS = 40_000_000

Reason = Literal[
  "missing",
  "empty",
  "unreadable",
  "no_video",
  "no_audio",
  "too_large",
  "hdr",
  "colours",
  "too_short",
  "truncated",
  "damaged",
  "not_finite",
  "unwritable",
]
_ADVICE: dict[str, str] = {
  "missing": "check the path",
  "empty": "copy or download it again",
  "unreadable": "re-encode it or leave it out",
  "no_video": "give a file with a picture track",
  "no_audio": "give a file with a sound track",
  "too_large": f"scale it below {MAX_PIXELS // 1_000_000} megapixels first",
  "hdr": "tone-map it to standard dynamic range (BT.709) first",
  "colours": "convert it to BT.709 first",
  "too_short": "ask for fewer frames, a higher frame rate or an earlier start",
  "truncated": "copy or download it again",
  "damaged": "copy or download it again",
  "not_finite": "write it again without such values",
  "unwritable": "choose a writable folder",
}


class MediaError(UserError):
  """A media file that cannot be used; `reason` is one of `Reason`, `path` the file."""

  def __init__(self, reason: Reason, path: str | os.PathLike[str], detail: str):
    super().__init__(f"{os.fspath(path)}: {detail}; {_ADVICE[reason]}.")
    self.reason = reason
    self.path = os.fspath(path)
    self.detail = detail

  def __reduce__(self):
    return MediaError, (self.reason, self.path, self.detail)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
  """Yields the PyAV container; every FFmpeg error becomes a `MediaError`.

  Raises:
    MediaError: missing, empty or unreadable.
    UserError: if the process is out of memory or of file descriptors.
  """
  import av

  try:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
      raise MediaError("unreadable", path, "it is not a regular file")
    if not status.st_size:
      raise MediaError("empty", path, "the file is empty")
    # Before version 19, PyAV fails on tags that are not UTF-8 unless this is set.
    lenient = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    with av.open(_url(path), **lenient) as container:
      yield container
  except FileNotFoundError as error:
    raise MediaError("missing", path, "there is no such file") from error
  except (av.FFmpegError, OSError, EOFError, MemoryError) as error:
    if is_starved(error):
      raise _starved(path, error) from error
    raise MediaError("unreadable", path, f"it cannot be decoded ({error})") from error


@contextlib.contextmanager
def created(path: str | os.PathLike[str]) -> Iterator[Any]:
  """Yields the container of a new mp4 (faststart); written atomically.

  Raises:
    MediaError: if the file cannot be written.
    UserError: as `opened`.
  """
  import av

  try:
    with (
      atomic.replacing(path) as partial,
      av.open(_url(partial), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
      yield container
  except (av.FFmpegError, OSError, MemoryError) as error:
    if is_starved(error):
      raise _starved(path, error) from error
    raise MediaError("unwritable", path, f"the video could not be written ({error})") from error


def picture(container: Any) -> Any | None:
  """The first video stream of a container that is not an attached picture (cover art)."""
  import av

  still = av.stream.Disposition.attached_pic
  return next((s for s in container.streams.video if not s.disposition & still), None)


def is_starved(error: BaseException) -> bool:
  """Whether an error means that the process is out of memory or of file descriptors."""
  lacking = errno.ENOMEM, errno.EMFILE, errno.ENFILE
  return isinstance(error, MemoryError) or getattr(error, "errno", None) in lacking


def _starved(path: str | os.PathLike[str], error: BaseException) -> UserError:
  if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
    return UserError(
      f"{os.fspath(path)}: there is not enough memory to continue; run fewer readers, or raise the "
      "memory limit of the process"
    )
  return UserError(
    f"{os.fspath(path)}: the process has too many files open; raise its limit (ulimit -n)"
  )


def _url(path: str | os.PathLike[str]) -> str:
  return f"file:{os.fspath(path)}"
