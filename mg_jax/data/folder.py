"""A folder of video files with captions as a random-access source of clips [MG 3.2.1].

Captions stand in `name.txt` beside `name.mp4`, or for many files in one `captions.jsonl` with a
line {"file": ..., "caption": ...} each, and "camera" or "sound_caption" where known. `scan` probes
every file once and cuts it into windows that fit a bucket, reports what it had to reject and why,
and splits off a held-out part; `FolderSource` decodes the windows of one bucket on demand. File
names are taken from the folder's listing only: nothing in a caption file becomes a path.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from mg_jax.core.errors import UserError
from mg_jax.data import atomic, buckets, text, video
from mg_jax.data.buckets import Bucket
from mg_jax.data.quarantine import Quarantine
from mg_jax.data.schema import Clip

SUFFIXES = (".mp4", ".webm", ".mov", ".mkv")
CAPTIONS = "captions.jsonl"
HELD_OUT = 0.2
_PROBES = 4

Split = Literal["train", "validation"]


class Caption(NamedTuple):
  """What is told of a file; camera and sound are empty where they are not."""

  text: str = ""
  camera: str = ""
  sound: str = ""


@dataclasses.dataclass(frozen=True)
class Window:
  """One clip to be cut from a file: from `start_s`, at `fps`, in the shape of `bucket`."""

  file: str
  start_s: float
  fps: float
  bucket: Bucket
  caption: str
  camera: str
  split: Split

  @property
  def key(self) -> str:
    return f"{self.file}@{self.start_s:.3f}"


@dataclasses.dataclass(frozen=True)
class Rejected:
  """A file that gives no clip; `reason` is a `media.Reason`, or "no_bucket" or "no_caption"."""

  file: str
  reason: str
  detail: str


@dataclasses.dataclass(frozen=True)
class FolderIndex:
  """What a scan found, in the order of the file names."""

  folder: str
  windows: tuple[Window, ...]
  rejected: tuple[Rejected, ...]

  def buckets(self, split: Split = "train") -> dict[Bucket, int]:
    """Counts the windows of a split per bucket, largest first."""
    counts: dict[Bucket, int] = {}
    for window in self.windows:
      if window.split == split:
        counts[window.bucket] = counts.get(window.bucket, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0].name)))

  def write_report(self, path: str | os.PathLike[str]) -> None:
    """Writes the rejected files as JSON lines, atomically."""
    atomic.write_jsonl(path, [dataclasses.asdict(item) for item in self.rejected])


def scan(
  folder: str | os.PathLike[str],
  choices: Sequence[Bucket],
  *,
  windows: int = 1,
  caption_required: bool = True,
  holdout: Literal["file", "tail", "none"] = "file",
) -> FolderIndex:
  """Probes the video files of a folder (not of its subfolders) and cuts them into windows.

  A file is assigned by its duration and aspect ratio. A bucket with a fixed clip length takes up to
  `windows` clips of it, evenly spaced and not overlapping; one clip is the middle one. A file that
  fits no bucket is rejected with the reason "no_bucket".

  Args:
    folder: the folder.
    choices: buckets in order of preference.
    windows: most clips per file, >= 1.
    caption_required: whether a file without a caption is an error; otherwise its caption is empty.
    holdout: "file" holds out a fifth of the files by a hash of their names; "tail" the last fifth
      of each file's duration (at least one clip), for folders of few files; a file too short for
      two clips then trains only. "none" holds out nothing.

  Raises:
    UserError: the folder is missing, unreadable or without videos, a caption is missing, or no file
      is usable.
  """
  if windows < 1 or not choices:
    raise ValueError(f"need at least one window and one bucket, got {windows} and {choices}")
  names = _video_files(folder)
  captions = read_captions(folder, names, required=caption_required)
  found: list[Window] = []
  rejected: list[Rejected] = []
  with concurrent.futures.ThreadPoolExecutor(_PROBES) as pool:
    infos = list(pool.map(lambda name: _probe(os.path.join(folder, name)), names))
  for name, info in zip(names, infos, strict=True):
    if isinstance(info, video.MediaError):
      rejected.append(Rejected(name, info.reason, info.detail))
      continue
    bucket = buckets.find(info.duration_s, info.height, info.width, choices)
    if bucket is None:
      rejected.append(Rejected(name, "no_bucket", f"{info.duration_s:.2f} s fit no bucket"))
      continue
    for start_s, split in _cuts(info.duration_s, bucket, name=name, most=windows, holdout=holdout):
      fps = bucket.duration.fps(info.duration_s)
      told = captions[name]
      found.append(Window(name, start_s, fps, bucket, told.text, told.camera, split))
  if not found:
    first = rejected[0]
    raise UserError(
      f"{folder}: none of {len(names)} videos is usable, the first being {first.file} "
      f"({first.detail}); "
      "add longer or readable videos, or choose a smaller bucket."
    )
  if all(window.split == "validation" for window in found):
    # The hash held out every one of a handful of files: there would be nothing to train on.
    found = [dataclasses.replace(window, split="train") for window in found]
  return FolderIndex(os.fspath(folder), tuple(found), tuple(rejected))


class FolderSource:
  """Random access to the clips of one bucket; a file that fails to decode is replaced and counted.

  Args:
    index: from `scan`.
    bucket: one of `index.buckets(split)`.
    split: "train" or "validation".
    limit: share of the clips that may fail, see `Quarantine`.
  """

  def __init__(
    self, index: FolderIndex, bucket: Bucket, split: Split = "train", *, limit: float = 0.05
  ):
    self.bucket = bucket
    self._folder = index.folder
    self.windows = tuple(w for w in index.windows if w.bucket == bucket and w.split == split)
    if not self.windows:
      held = {b.name: count for b, count in index.buckets(split).items()}
      raise UserError(
        f"{index.folder}: no clip of the {split} split is in bucket {bucket.name}, "
        f"there are {held}; "
        "choose one of these, or add videos."
      )
    self.quarantine = Quarantine(
      self._read, len(self.windows), errors=(video.MediaError,), name=self._key, limit=limit
    )

  def __len__(self) -> int:
    return len(self.windows)

  def __getitem__(self, index: int) -> Clip:
    if not 0 <= index < len(self.windows):
      raise IndexError(f"clip {index} of {len(self.windows)}")
    return self.quarantine.read(index)

  def _key(self, index: int) -> str:
    return self.windows[index].key

  def _read(self, index: int) -> Clip:
    window = self.windows[index]
    pixels = video.read_clip(
      os.path.join(self._folder, window.file),
      start_s=window.start_s,
      fps=window.fps,
      frames=self.bucket.frames,
      size=(self.bucket.height, self.bucket.width),
    )
    return Clip(
      pixels, len(pixels), window.fps, window.caption, window.key, camera=window.camera
    )


def _probe(path: str) -> video.VideoInfo | video.MediaError:
  try:
    return video.probe(path)
  except video.MediaError as error:
    return error


def _cuts(
  duration_s: float, bucket: Bucket, *, name: str, most: int, holdout: str
) -> list[tuple[float, Split]]:
  """Start times and splits of a file's windows."""
  clip_s = bucket.duration.clip_seconds(duration_s) if bucket.frames > 1 else 0.0
  if holdout == "tail" and duration_s * HELD_OUT < clip_s <= duration_s / 2:
    # A fifth is too short for one clip: the last clip's length is held out instead.
    border = duration_s - clip_s
  else:
    border = duration_s * (1 - HELD_OUT)
  if holdout == "tail" and clip_s <= border:
    train = _starts(0.0, border, clip_s, most)
    validation = _starts(border, duration_s, clip_s, max(1, round(most * HELD_OUT)))
    return [(s, "train") for s in train] + [(s, "validation") for s in validation]
  split: Split = "validation" if holdout == "file" and held_out(name) else "train"
  return [(start, split) for start in _starts(0.0, duration_s, clip_s, most)]


def _starts(low: float, high: float, clip_s: float, most: int) -> list[float]:
  """Starts of at most `most` clips, each in the middle of its equal share of [low, high)."""
  count = most if clip_s == 0 else min(most, int((high - low) / clip_s + 1e-6))
  share = (high - low) / max(count, 1)
  return [low + share * k + max(0.0, share - clip_s) / 2 for k in range(count)]


def held_out(name: str) -> bool:
  digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
  return int.from_bytes(digest, "big") < HELD_OUT * 2**64


def content(folder: str | os.PathLike[str]) -> str:
  """A digest of the names, sizes and captions of a folder's videos, without opening them."""
  names = _video_files(folder)
  captions = read_captions(folder, names, required=False)
  rows = [[name, pathlib.Path(folder, name).stat().st_size, *captions[name][:2]] for name in names]
  return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _video_files(folder: str | os.PathLike[str]) -> list[str]:
  try:
    names = sorted(os.listdir(folder))
  except FileNotFoundError as error:
    raise UserError(f"{folder}: there is no such folder; give a folder of videos.") from error
  except OSError as error:
    raise UserError(
      f"{folder} cannot be read ({error.strerror}); give a readable folder."
    ) from error
  videos = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
  if not videos:
    raise UserError(f"{folder} holds no video; put files ending in {', '.join(SUFFIXES)} there.")
  return videos


def read_captions(
  folder: str | os.PathLike[str], names: Sequence[str], *, required: bool
) -> dict[str, Caption]:
  """What the files of captions tell of every named file.

  Raises:
    UserError: a caption is missing though `required`, or `captions.jsonl` cannot be understood.
  """
  table = _caption_table(pathlib.Path(folder) / CAPTIONS)
  captions = {}
  for name in names:
    beside = pathlib.Path(folder, name).with_suffix(".txt")
    if name in table:
      captions[name] = table[name]
    elif beside.is_file():
      captions[name] = Caption(beside.read_bytes().decode("utf-8", errors="replace").strip())
    elif required:
      raise UserError(
        f"{folder}: {name} has no caption; write it to {beside.name} or to {CAPTIONS} as "
        f'{{"file": "{name}", "caption": "..."}}.'
      )
    else:
      captions[name] = Caption()
  return captions


def _caption_table(path: pathlib.Path) -> dict[str, Caption]:
  if not path.is_file():
    return {}
  table = {}
  lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    row = _caption_row(line)
    if row is None:
      raise UserError(
        f'{path} line {number} is not {{"file": "...", "caption": "..."}}; correct or remove it.'
      )
    file, told = row
    if told.camera and told.camera not in text.CAMERAS:
      raise UserError(
        f"{path} line {number} has camera {told.camera!r}; known are {', '.join(text.CAMERAS)}."
      )
    table[file] = told
  return table


def _caption_row(line: str) -> tuple[str, Caption] | None:
  try:
    row: Any = json.loads(line)
  except ValueError:
    return None
  if not isinstance(row, dict):
    return None
  values = row.get("file"), row.get("caption"), row.get("camera", ""), row.get("sound_caption", "")
  return (values[0], Caption(*values[1:])) if all(isinstance(v, str) for v in values) else None
