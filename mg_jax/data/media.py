"""Opening media files through PyAV (FFmpeg), and what can be wrong with them.

Whatever it is becomes a `MediaError` with a reason a program can count by.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Literal

from mg_jax.core.errors import UserError

MAX_PIXELS = 40_000_000

Reason = Literal[
  "missing",
  "empty",
  "unreadable",
  "no_video",
  "no_audio",
  "too_large",
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
  "too_short": "ask for fewer frames, a higher frame rate or an earlier start",
  "truncated": "copy or download it again",
  "damaged": "copy or download it again",
  "not_finite": "write it again without such values",
  "unwritable": "choose a folder that can be written",
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
  """Yields the container of PyAV; turns every error of FFmpeg into a `MediaError`.

  Raises:
    MediaError: missing, empty or unreadable.
  """
  import av

  # Before release 19 of PyAV, tags that are not UTF-8 were errors unless this was said.
  lenient = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
  try:
    if os.path.isfile(path) and os.path.getsize(path) == 0:
      raise MediaError("empty", path, "the file holds no bytes")
    with av.open(os.fspath(path), **lenient) as container:
      yield container
  except FileNotFoundError as error:
    raise MediaError("missing", path, "there is no such file") from error
  except (av.FFmpegError, OSError, EOFError) as error:
    raise MediaError("unreadable", path, f"it cannot be decoded ({error})") from error
