"""A folder of videos or of still images with captions as a random-access source [MG 3.2.1].

`scan` probes every file of one kind once, cuts videos into windows that fit a bucket and gives each
image the bucket of its aspect ratio, reports what it had to reject and why, and splits off a
held-out part; `FolderSource` decodes the windows of one bucket on demand. Captions are those of
`data.text.captions`, files those of `data.media.files`.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Literal

from mg_jax.core.errors import UserError
from mg_jax.data import atomic, buckets
from mg_jax.data.buckets import Bucket
from mg_jax.data.media import files as mediafiles
from mg_jax.data.media import stills, video
from mg_jax.data.media.containers import MediaError
from mg_jax.data.media.files import Info, Kind
from mg_jax.data.quarantine import Quarantine
from mg_jax.data.schema import Clip
from mg_jax.data.text.captions import read_captions

SUFFIXES = mediafiles.VIDEO_SUFFIXES
REPORT = mediafiles.REPORT
HELD_OUT = 0.2
# An image that would have to grow by more than this is refused: it holds too little of what the
# bucket is to show.
MAX_UPSCALE = 2.0

Split = Literal["train", "validation"]
_ADVICE: dict[Kind, str] = {
  "video": "add longer or readable videos", "image": "add larger or readable images",
}  # fmt: skip


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
    return self.file if mediafiles.is_still(self.file) else f"{self.file}@{self.start_s:.3f}"


@dataclasses.dataclass(frozen=True)
class Rejected:
  """A file that gives no clip; `reason` is a `media.Reason`, "no_bucket" or "too_small"."""

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


def write_report(path: str | os.PathLike[str], indices: Sequence[FolderIndex]) -> None:
  """Writes the rejected files of all folders as JSON lines, atomically.

  Where nothing is rejected no file is made, but one of an earlier scan is emptied.
  """
  rows = [
    {"folder": index.folder, **dataclasses.asdict(item)}
    for index in indices
    for item in index.rejected
  ]
  if rows or os.path.exists(path):
    atomic.write_jsonl(path, rows)


def scan(
  folder: str | os.PathLike[str],
  choices: Sequence[Bucket],
  *,
  kind: Kind = "video",
  windows: int = 1,
  caption_required: bool = True,
  holdout: Literal["file", "tail", "none"] = "file",
) -> FolderIndex:
  """Probes the files of one kind in a folder (not in its subfolders) and cuts them into windows.

  A video is assigned by its duration and aspect ratio; it may lack half a frame of a bucket's
  length. A bucket with a fixed clip length takes up to `windows` clips of it, evenly spaced and not
  overlapping; one clip is the middle one. A video that fits no bucket is rejected with the reason
  "no_bucket". An image is assigned by its aspect ratio; one that would have to be enlarged more
  than twofold is rejected with the reason "too_small".

  Args:
    folder: the folder.
    choices: buckets in order of preference; those of images have one frame.
    kind: which files are read.
    windows: most clips per video, >= 1.
    caption_required: whether a file without a caption is an error; otherwise its caption is empty.
    holdout: "file" holds out a fifth of the files by a hash of their names; "tail" the last fifth
      of each video's duration (at least one clip), for folders of few files; a video too short for
      two clips then trains only. An image has no tail: "tail" holds out files of it. "none" holds
      out nothing.

  Raises:
    UserError: the folder is missing, unreadable or without such files, a caption is missing, or no
      file is usable.
  """
  if windows < 1 or not choices:
    raise ValueError(f"need at least one window and one bucket, got {windows} and {choices}")
  names = mediafiles.list_files(folder, kind, log=True)
  sizes = mediafiles.sizes(folder, names)
  files = [name for name in names if not isinstance(sizes[name], MediaError)]
  told = read_captions(folder, files, required=caption_required, sound=False)
  infos = mediafiles.probe_all(folder, files)
  found: list[Window] = []
  rejected: list[Rejected] = []
  for name in names:
    info = infos.get(name, sizes[name])
    if isinstance(info, MediaError):
      rejected.append(Rejected(name, info.reason, info.detail))
      continue
    bucket = buckets.find(info.duration_s, info.height, info.width, choices, frame_s=info.frame_s)
    if unfit := _unfit(name, info, bucket, choices):
      rejected.append(unfit)
      continue
    if kind == "image":
      cuts = [(0.0, _split(name, holdout))]
    else:
      cuts = _cuts(info, bucket, name=name, most=windows, holdout=holdout)
    fps, caption = bucket.duration.fps(info.duration_s), told[name]
    found += [
      Window(name, start_s, fps, bucket, caption.text, caption.camera, split)
      for start_s, split in cuts
    ]
  if not found:
    first = rejected[0]
    raise UserError(
      f"{folder}: none of {len(names)} {kind}s is usable, the first being {first.file} "
      f"({first.detail}); {_ADVICE[kind]}, or choose a smaller bucket."
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
        "choose one of these, or add files."
      )
    self.quarantine = Quarantine(
      self._read, len(self.windows), errors=(MediaError,), name=self._key, limit=limit,
      setting="data.bad_limit",
    )  # fmt: skip

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
    path, size = os.path.join(self._folder, window.file), (self.bucket.height, self.bucket.width)
    if mediafiles.is_still(window.file):
      pixels = stills.read(path, size=size)[None]
    else:
      pixels = video.read_clip(
        path, start_s=window.start_s, fps=window.fps, frames=self.bucket.frames, size=size
      )
    return Clip(
      pixels, len(pixels), window.fps, window.caption, window.key, camera=window.camera
    )


def _unfit(
  name: str, info: Info, bucket: Bucket | None, choices: Sequence[Bucket]
) -> Rejected | None:
  """Why a file does not fit the bucket that is nearest to it; None where it does."""
  if bucket is None:
    least = min(choice.duration.min_s for choice in choices)
    detail = f"{info.duration_s:.2f} s fit no bucket, the shortest of which needs {least:.3f} s"
    return Rejected(name, "no_bucket", detail)
  scale = max(bucket.height / info.height, bucket.width / info.width)
  if mediafiles.is_still(name) and scale > MAX_UPSCALE:
    detail = (
      f"{info.width}x{info.height} pixels would be enlarged {scale:.1f} times for "
      f"{bucket.width}x{bucket.height}"
    )
    return Rejected(name, "too_small", detail)
  return None


def _split(name: str, holdout: str) -> Split:
  return "validation" if holdout != "none" and held_out(name) else "train"


def _cuts(
  info: Info, bucket: Bucket, *, name: str, most: int, holdout: str
) -> list[tuple[float, Split]]:
  """Start times and splits of a video's windows.

  The half frame that clips may lack is taken at the end of the video, never from the other split.
  """
  duration_s, slack_s = info.duration_s, bucket.duration.slack_s(info.frame_s)
  clip_s = bucket.duration.clip_seconds(duration_s) if bucket.frames > 1 else 0.0

  def fits(seconds: float) -> bool:
    return clip_s <= seconds + slack_s

  border = duration_s * (1 - HELD_OUT)
  if holdout == "tail" and not fits(duration_s * HELD_OUT) and fits(duration_s / 2):
    # A fifth is too short for one clip: the last clip's length is held out instead.
    border = duration_s - clip_s
  if holdout == "tail" and fits(border):
    train = _starts(0.0, border, clip_s, most, slack_s)
    low = max(border, train[-1] + clip_s)
    high = max(duration_s, low + clip_s) if fits(duration_s - border) else duration_s
    validation = _starts(low, high, clip_s, max(1, round(most * HELD_OUT)), slack_s)
    return [(s, "train") for s in train] + [(s, "validation") for s in validation]
  split = _split(name, holdout) if holdout == "file" else "train"
  return [(start, split) for start in _starts(0.0, duration_s, clip_s, most, slack_s)]


def _starts(low: float, high: float, clip_s: float, most: int, slack_s: float) -> list[float]:
  """Starts of at most `most` clips, each in the middle of its equal share of [low, high)."""
  count = most if clip_s == 0 else min(most, int((high - low + slack_s) / clip_s))
  share = max((high - low) / max(count, 1), clip_s)
  return [low + share * k + (share - clip_s) / 2 for k in range(count)]


def held_out(name: str) -> bool:
  digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
  return int.from_bytes(digest, "big") < HELD_OUT * 2**64


def content(folder: str | os.PathLike[str], *, kind: Kind = "video") -> str:
  """A digest of the names, sizes and captions of a folder's files of a kind, not opening them.

  What is no file, or is gone by now, does not count, as it gives no clip.
  """
  found = mediafiles.sizes(folder, mediafiles.list_files(folder, kind))
  sizes = {name: size for name, size in found.items() if not isinstance(size, MediaError)}
  told = read_captions(folder, list(sizes), required=False)
  rows = [[name, size, *told[name][:2]] for name, size in sizes.items()]
  return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
