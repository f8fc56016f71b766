"""Clips of a folder of videos, and still images as clips of one frame [MG 3.2.1].

`scan` cuts videos into windows that fit a bucket and gives each image the bucket of its aspect
ratio; `read` decodes one of these pieces. `data.sources.folder` does the rest.
"""

import functools
import os
from collections.abc import Sequence
from typing import NamedTuple

from mg_jax.data import buckets
from mg_jax.data.buckets import Bucket
from mg_jax.data.media import stills, video
from mg_jax.data.media.files import Kind, is_still
from mg_jax.data.schema import Sample, Split
from mg_jax.data.sources import folder
from mg_jax.data.sources.folder import Holdout, Index, Piece, Rejected

# An image that would be enlarged by more than this is rejected: it has too little detail for the
# bucket.
MAX_UPSCALE = 2.0


class Info(NamedTuple):
  """Properties of a file that determine its bucket: upright size in pixels; an image lasts 0 s."""

  duration_s: float
  height: int
  width: int
  frame_s: float


def scan(
  path: str | os.PathLike[str],
  choices: Sequence[Bucket],
  *,
  kind: Kind = "video",
  windows: int = 1,
  caption_required: bool = True,
  holdout: Holdout = "file",
) -> Index:
  """Probes the files of one kind in a folder (not in its subfolders) and cuts them into windows.

  A video is assigned by its duration and aspect ratio; it may lack half a frame of a bucket's
  length. A bucket with a fixed clip length takes up to `windows` clips per video, evenly spaced and
  not overlapping; a single clip is centred. A video that fits no bucket is rejected with the reason
  "no_bucket". An image is assigned by its aspect ratio; one that would be enlarged more than
  twofold is rejected with the reason "too_small".

  Args:
    path: the folder.
    choices: buckets in order of preference; those of images have one frame.
    kind: which files are read.
    windows: maximum number of clips per video, >= 1.
    caption_required: whether a file without a caption is an error; otherwise its caption is empty.
    holdout: "file" holds out a fifth of the files by a hash of their names; "tail" the last fifth
      of each video's duration (at least one clip), for folders of few files; a video too short for
      two clips is then used for training only. An image has no tail: "tail" holds out image files
      by name. "none" holds out nothing.

  Raises:
    UserError: as `folder.scan`.
  """
  if windows < 1 or not choices:
    raise ValueError(f"need at least one window and one bucket, got {windows} and {choices}")
  cut = functools.partial(_cut, kind=kind, choices=choices, most=windows, holdout=holdout)
  captions = "required" if caption_required else "optional"
  return folder.scan(path, kind, probe=_probe, cut=cut, captions=captions)


def read(piece: Piece) -> Sample:
  """Decodes the frames of a piece at the shape of its bucket."""
  bucket, size = piece.bucket, (piece.bucket.height, piece.bucket.width)
  fps = bucket.duration.fps(piece.seconds)
  if piece.kind == "image":
    frames = stills.read(piece.path, size=size)[None]
  else:
    frames = video.read_clip(
      piece.path, start_s=piece.start_s, fps=fps, frames=bucket.frames, size=size
    )
  caption = piece.caption
  return Sample(
    frames, len(frames), fps, caption.text, piece.key, camera=caption.camera, given=caption.given,
    root=os.path.dirname(piece.path),
  )  # fmt: skip


def _probe(path: str) -> Info:
  if is_still(path):
    return Info(0.0, *stills.probe(path), 0.0)
  info = video.probe(path)
  return Info(info.duration_s, info.height, info.width, 1 / info.fps)


def _cut(
  name: str, info: Info, *, kind: Kind, choices: Sequence[Bucket], most: int, holdout: Holdout
) -> list[Piece] | Rejected:
  bucket = buckets.find(info.duration_s, info.height, info.width, choices, frame_s=info.frame_s)
  if bucket is None:
    least = min(choice.duration.min_s for choice in choices)
    detail = f"{info.duration_s:.2f} s fits no bucket; the shortest needs {least:.3f} s"
    return Rejected(name, "no_bucket", detail)
  scale = max(bucket.height / info.height, bucket.width / info.width)
  if kind == "image" and scale > MAX_UPSCALE:
    detail = (
      f"{info.width}x{info.height} pixels would be enlarged {scale:.1f} times for "
      f"{bucket.width}x{bucket.height}"
    )
    return Rejected(name, "too_small", detail)
  if kind == "image":
    starts = [(0.0, folder.split_of(name, "file" if holdout == "tail" else holdout))]
  else:
    starts = _windows(name, info, bucket, most=most, holdout=holdout)
  seconds = bucket.duration.clip_seconds(info.duration_s)
  return [Piece(name, split, start_s, seconds, kind, bucket) for start_s, split in starts]


def _windows(
  name: str, info: Info, bucket: Bucket, *, most: int, holdout: Holdout
) -> list[tuple[float, Split]]:
  """Start times and splits of a video's windows.

  The half frame that clips may lack is at the end of the video, never in the other split.
  """
  duration_s, slack_s = info.duration_s, bucket.duration.slack_s(info.frame_s)
  clip_s = bucket.duration.clip_seconds(duration_s) if bucket.frames > 1 else 0.0

  def fits(seconds: float) -> bool:
    return clip_s <= seconds + slack_s

  border = duration_s * (1 - folder.HELD_OUT)
  if holdout == "tail" and not fits(duration_s * folder.HELD_OUT) and fits(duration_s / 2):
    # A fifth is too short for one clip: the last clip's length is held out instead.
    border = duration_s - clip_s
  if holdout == "tail" and fits(border):
    train = _starts(0.0, border, clip_s, most, slack_s)
    low = max(border, train[-1] + clip_s)
    high = max(duration_s, low + clip_s) if fits(duration_s - border) else duration_s
    held = _starts(low, high, clip_s, max(1, round(most * folder.HELD_OUT)), slack_s)
    return [(s, "train") for s in train] + [(s, "validation") for s in held]
  split = folder.split_of(name, holdout)
  return [(start, split) for start in _starts(0.0, duration_s, clip_s, most, slack_s)]


def _starts(low: float, high: float, clip_s: float, most: int, slack_s: float) -> list[float]:
  """Starts of at most `most` clips, each centred in its equal share of [low, high)."""
  count = most if clip_s == 0 else min(most, int((high - low + slack_s) / clip_s))
  share = max((high - low) / max(count, 1), clip_s)
  return [low + share * k + (share - clip_s) / 2 for k in range(count)]
