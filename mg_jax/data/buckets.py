"""Duration and aspect buckets: the shape at which a clip is trained on [MG 3.2.1, Table 2].

Every bucket has one frame count and one frame size, so that its clips can be stacked. The frame
count is fixed and the frame rate follows: it spreads the frames over the clip, and conditions the
model through the prompt. A row with `clip_s` cuts that many seconds from the middle of a longer
video; a row without takes the whole video. Sizes are derived from one base resolution: each of five
aspect ratios at about base x base pixels, sides in multiples of 16 (8 of the autoencoder times a
patch of 2). Images use buckets of one frame.
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
    max_s: its upper end, seconds, exclusive; may be infinite if `clip_s` is given.
    frames: frames of every clip of the row.
    clip_s: seconds cut from each video, or None to spread the frames over the whole video.
  """

  min_s: float
  max_s: float
  frames: int
  clip_s: float | None = None

  def __post_init__(self) -> None:
    if self.frames < 1 or not 0 <= self.min_s < self.max_s:
      raise ValueError(f"invalid duration row: {self}")
    if self.clip_s is None and math.isinf(self.max_s) and self.frames > 1:
      raise ValueError(f"{self}: frames cannot be spread over a video without an upper duration")
    if self.clip_s is not None and not 0 < self.clip_s <= self.min_s:
      raise ValueError(f"{self}: a clip of {self.clip_s} s does not fit into {self.min_s} s")

  def clip_seconds(self, duration_s: float) -> float:
    """Length of a clip of a video of `duration_s` seconds."""
    return duration_s if self.clip_s is None else self.clip_s

  def fps(self, duration_s: float) -> float:
    """Frame rate that spreads the frames over the clip of a video of `duration_s` seconds.

    An image counts as 1 frame per second.
    """
    if self.frames == 1:
      return 1.0
    return self.frames / self.clip_seconds(duration_s)

  def slack_s(self, frame_s: float) -> float:
    """Seconds that a video may lack: half of its frame duration `frame_s` or of the row's.

    Frame rates such as 30000/1001 and rounded times in containers make a clip with exactly the
    row's frames slightly shorter than the row.
    """
    return min(frame_s, self.clip_seconds(self.min_s) / self.frames) / 2

  @property
  def fps_range(self) -> tuple[float, float]:
    """Lowest and highest frame rate of the row."""
    return self.fps(self.max_s), self.fps(self.min_s)


# [MG Table 2]. The first matching row wins; the paper leaves the bucket of a video of 10.67-12 s
# open, and the longer clip is taken. The whole-video rows therefore serve 12-16, 8-10.67 and 4-8 s.
PAPER_DURATIONS = (
  Duration(32 / 3, 12, 256, clip_s=32 / 3),
  Duration(16, math.inf, 256, clip_s=16),
  Duration(12, 16, 256),
  Duration(8, 12, 192),
  Duration(4, 8, 128),
)
# [MG 3.3] Videos of at least 10.67 s; clips of 16 s have 16 fps, the shorter ones 24.
SFT_DURATIONS = (
  Duration(16, math.inf, 256, clip_s=16),
  Duration(32 / 3, 16, 256, clip_s=32 / 3),
)
# [MG 3.6] Ablations: clips of 4 to 8 s.
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
  """Returns the first row that contains `duration_s`, or None.

  Args:
    duration_s: of the video, seconds.
    durations: rows in order of preference.
    frame_s: duration of a frame; the video may lack half of it, see `Duration.slack_s`.
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
    aspects: names from `ASPECTS`; ("1:1",) for square buckets only.
    multiple: see `frame_sizes`.
  """
  sizes = frame_sizes(base, multiple=multiple)
  return tuple(Bucket(row, *sizes[aspect]) for row in durations for aspect in aspects)


def find(
  duration_s: float, height: int, width: int, buckets: Sequence[Bucket], *, frame_s: float = 0.0
) -> Bucket | None:
  """Returns the bucket of a video, or None if its duration fits no bucket.

  The duration row is chosen first, by the order of `buckets`, see `assign`; of its sizes the one
  with the nearest aspect ratio is taken.
  """
  row = assign(duration_s, [bucket.duration for bucket in buckets], frame_s=frame_s)
  if row is None:
    return None
  sizes = [(b.height, b.width) for b in buckets if b.duration == row]
  return Bucket(row, *nearest_size(height, width, sizes))
