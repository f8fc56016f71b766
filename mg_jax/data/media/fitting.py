"""Reading a video file as frames of a size that a model accepts, with the least change.

Frames keep the file's size and frame rate unless others are requested; sides that are not multiples
of what the model needs are centre-cropped.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.media.video import probe, read_frames


@dataclasses.dataclass(frozen=True)
class Fit:
  """How a file is read.

  Attributes:
    fps: frames per second.
    scaled: (H, W) that frames are scaled to cover.
    size: (H, W) of the centre crop.
    notice: a sentence on the changes, or empty.
  """

  fps: float
  scaled: tuple[int, int]
  size: tuple[int, int]
  notice: str


def fit(
  path: str | os.PathLike[str],
  *,
  multiple: tuple[int, int],
  size: int | Sequence[int] | None = None,
  fps: float | int | None = None,
) -> Fit:
  """How to read a file for a model whose frames have sides that are multiples of `multiple`.

  Args:
    path: the file.
    multiple: (height, width) that sides must be multiples of.
    size: the shorter side, or (height, width); by default the file's.
    fps: by default the file's.

  Raises:
    MediaError: if the file cannot be read.
    UserError: if a side is shorter than its multiple, or the frame rate is out of range.
  """
  if fps is not None and not 0.5 <= fps <= 1000:
    raise UserError(f"a frame rate of {fps} is invalid; choose one between 0.5 and 1000")
  info = probe(path)
  native = info.height, info.width
  if size is None:
    scaled = native
  elif isinstance(size, int):
    scaled = tuple(max(1, round(side * size / min(native))) for side in native)
  else:
    scaled = tuple(size)
  kept = tuple(side - side % by for side, by in zip(scaled, multiple, strict=True))
  if min(kept) < 1:
    raise UserError(
      f"{os.fspath(path)}: frames of {scaled[0]}x{scaled[1]} are smaller than the "
      f"{multiple[0]}x{multiple[1]} pixels of one latent; request a larger size"
    )
  changes = []
  if scaled != native:
    changes.append(f"scaled from {native[0]}x{native[1]} to cover {scaled[0]}x{scaled[1]}")
  if kept != scaled:
    steps = " and ".join(map(str, dict.fromkeys(multiple)))
    changes.append(
      f"cropped from {scaled[0]}x{scaled[1]} to {kept[0]}x{kept[1]}, as sides must be multiples of "
      f"{steps}"
    )
  notice = f"{os.fspath(path)}: frames are {' and '.join(changes)}" if changes else ""
  return Fit(fps or info.fps, scaled, kept, notice)


def read(
  path: str | os.PathLike[str], how: Fit, *, seconds: float | int | None = None
) -> Iterator[np.ndarray]:
  """Yields the frames of a file one by one, uint8 (H, W, 3) of `how.size`.

  Raises:
    MediaError: as `data.media.video.read_frames`.
    UserError: if `seconds` is not positive.
  """
  if seconds is not None and not seconds > 0:
    raise UserError(f"a length of {seconds} seconds is invalid; request more than 0")
  (height, width), (tall, wide) = how.size, how.scaled
  top, left = (tall - height) // 2, (wide - width) // 2
  for frame in read_frames(path, fps=how.fps, size=how.scaled, seconds=seconds):
    yield frame[top : top + height, left : left + width]


def parse_size(sides: Sequence[str]) -> int | tuple[int, int] | None:
  """The size that `fit` takes, from text: SHORTER_SIDE, or HEIGHT and WIDTH; None if empty.

  Raises:
    UserError: if it is neither.
  """
  if len(sides) > 2 or not all(text.isdecimal() and int(text) for text in sides):
    raise UserError(f"a size is SHORTER_SIDE or HEIGHT,WIDTH in pixels, not {','.join(sides)}")
  numbers = tuple(map(int, sides))
  return (numbers[0] if len(numbers) == 1 else numbers) if numbers else None
