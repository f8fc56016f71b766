"""Duration and aspect buckets: which shape a clip trains at [MG 3.2.1, Table 2].

Every bucket holds one frame count and one frame size, so that its clips stack. The frame count is
fixed and the frame rate follows: it is whatever spreads the frames over the clip, and it is told to
the model through the prompt. A row with `clip_s` cuts that many seconds from the middle of a longer
video; a row without takes the video whole. Sizes are derived from one base resolution: each of five
aspect ratios at about base x base pixels, sides in multiples of 16 (8 of the autoencoder times a
patch of 2). An image is a bucket of one frame.
"""

import dataclasses
import math
from collections.abc import Sequence

ASPECTS = {"1:1": (1, 1), "4:3": (4, 3), "3:4": (3, 4), "16:9": (16, 9), "9:16": (9, 16)}


@dataclasses.dataclass(frozen=True)
class Duration:
  """One row of the duration table: videos of [min_s, max_s) seconds train with `frames` frames.

  Attributes:
    min_s: shortest video of the row, seconds, inclusive.
    max_s: its upper end, seconds, exclusive; may be infinite when `clip_s` is given.
    frames: frames of every clip of the row.
    clip_s: seconds cut from each video, or None to spread the frames over the whole video.
  """

  min_s: float
  max_s: float
  frames: int
  clip_s: float | None = None

  def __post_init__(self) -> None:
    if self.frames < 1 or not 0 <= self.min_s < self.max_s:
      raise ValueError(f"not a duration row: {self}")
    if self.clip_s is None and math.isinf(self.max_s) and self.frames > 1:
      raise ValueError(f"{self}: frames cannot be spread over a video without an upper duration")
    if self.clip_s is not None and not 0 < self.clip_s <= self.min_s:
      raise ValueError(f"{self}: a clip of {self.clip_s} s does not fit into {self.min_s} s")

  def clip_seconds(self, duration_s: float) -> float:
    """Seconds of one clip cut from a video of `duration_s` seconds."""
    return duration_s if self.clip_s is None else self.clip_s

  def fps(self, duration_s: float) -> float:
    """Frames per second that spread the frames over the clip of a video of `duration_s` seconds.

    One frame spreads over nothing: an image counts as 1 frame per second.
    """
    if self.frames == 1:
      return 1.0
    return self.frames / self.clip_seconds(duration_s)

  def slack_s(self, frame_s: float) -> float:
    """Seconds that a video whose frames last `frame_s` may lack: half a frame of its or the row's.

    Rates such as 30000/1001 and the rounded times of containers leave a clip of exactly the frames
    of a row a little shorter than the row says.
    """
    return min(frame_s, self.clip_seconds(self.min_s) / self.frames) / 2

  @property
  def fps_range(self) -> tuple[float, float]:
    """Lowest and highest frame rate of the row."""
    return self.fps(self.max_s), self.fps(self.min_s)


# [MG Table 2]. The first matching row wins; the paper leaves open which bucket a video of 10.67-12
# s goes to, and the longer clip is taken. The whole-video rows therefore serve 12-16, 8-10.67 and
# 4-8 s.
PAPER_DURATIONS = (
  Duration(32 / 3, 12, 256, clip_s=32 / 3),
  Duration(16, math.inf, 256, clip_s=16),
  Duration(12, 16, 256),
  Duration(8, 12, 192),
  Duration(4, 8, 128),
)
# [MG 3.3] Videos of 10.67 s and more; whole 16 s give 16 fps, the shorter ones 24.
SFT_DURATIONS = (
  Duration(16, math.inf, 256, clip_s=16),
  Duration(32 / 3, 16, 256, clip_s=32 / 3),
)
# [MG 3.6] Of the ablations: clips of 4 to 8 s.
ABLATION_DURATIONS = (Duration(4, 8, 128),)
TABLES = {"paper": PAPER_DURATIONS, "sft": SFT_DURATIONS, "ablation": ABLATION_DURATIONS}
TINY_DURATIONS = (Duration(2, math.inf, 16, clip_s=2),)
IMAGE_DURATIONS = (Duration(0, math.inf, 1),)


@dataclasses.dataclass(frozen=True)
class Bucket:
  """One training shape: a duration row at one frame size (height, width in pixels)."""

  duration: Duration
  height: int
  width: int

  @property
  def frames(self) -> int:
    return self.duration.frames

  @property
  def name(self) -> str:
    return f"{self.frames}x{self.height}x{self.width}"


def assign(
  duration_s: float, durations: Sequence[Duration], *, frame_s: float = 0.0
) -> Duration | None:
  """Returns the first row that holds `duration_s`, or None when the video fits no row.

  Args:
    duration_s: of the video, seconds.
    durations: rows in order of preference.
    frame_s: how long a frame of it lasts; it may lack half of that, see `Duration.slack_s`.
  """
  fitting = (r for r in durations if r.min_s - r.slack_s(frame_s) <= duration_s < r.max_s)
  return next(fitting, None)


def frame_sizes(base: int, *, multiple: int = 16) -> dict[str, tuple[int, int]]:
  """Maps each aspect ratio (width:height) to (height, width) near base x base pixels.

  Args:
    base: side of the square bucket in pixels; a multiple of `multiple`.
    multiple: both sides are rounded to a multiple of this, half up.
  """
  if base < multiple or base % multiple:
    raise ValueError(f"the base resolution {base} is not a positive multiple of {multiple}")

  def rounded(side: float) -> int:
    return max(1, math.floor(side / multiple + 0.5)) * multiple

  return {
    name: (rounded(base * math.sqrt(high / wide)), rounded(base * math.sqrt(wide / high)))
    for name, (wide, high) in ASPECTS.items()
  }


def nearest_size(height: int, width: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
  """Returns the (height, width) of `sizes` whose aspect ratio is nearest on a log scale."""
  wanted = math.log(width / height)
  return min(sizes, key=lambda size: abs(math.log(size[1] / size[0]) - wanted))


def make_buckets(
  durations: Sequence[Duration],
  base: int,
  *,
  aspects: Sequence[str] = tuple(ASPECTS),
  multiple: int = 16,
) -> tuple[Bucket, ...]:
  """Crosses duration rows with aspect ratios, in that order.

  Args:
    durations: rows such as `PAPER_DURATIONS`, `TINY_DURATIONS` or `IMAGE_DURATIONS`.
    base: resolution, such as 256 or 768.
    aspects: names out of `ASPECTS`; ("1:1",) makes square buckets only.
    multiple: see `frame_sizes`.
  """
  sizes = frame_sizes(base, multiple=multiple)
  return tuple(Bucket(row, *sizes[aspect]) for row in durations for aspect in aspects)


def find(
  duration_s: float, height: int, width: int, buckets: Sequence[Bucket], *, frame_s: float = 0.0
) -> Bucket | None:
  """Returns the bucket for a video, or None when it is shorter (or longer) than every bucket.

  The duration decides first, by the order of `buckets`, see `assign`; among that row's sizes the
  nearest aspect ratio wins.
  """
  row = assign(duration_s, [bucket.duration for bucket in buckets], frame_s=frame_s)
  if row is None:
    return None
  sizes = [(b.height, b.width) for b in buckets if b.duration == row]
  return Bucket(row, *nearest_size(height, width, sizes))
