"""Known and generated parts of a soundtrack: extension in both directions and infilling [MG 6.2].

An extended or filled sound has a place on the time axis of the result. With a video that is the
video's axis: the video's own sound stays in place, from its first to its last sample that is not
digital silence, and gaps between the ends of the video and of the generated part stay silent;
another sound starts with the video, or where its backward extension ends. Without a video the
result is the sound with the additions.
"""

import dataclasses
import math
import os
from collections.abc import Sequence

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.media import audio

LEAST_S = 0.1  # shortest sound that can be extended
_SLACK_S = 0.1  # by which a sound may be longer than its video, as containers round

Span = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class KnownSound:
  """seconds: length of the result. wave: float32 of that length. keep: known spans of it, in s."""

  seconds: float
  wave: np.ndarray
  keep: tuple[Span, ...]

  @property
  def generated(self) -> list[Span]:
    """The spans to generate, in s."""
    ends = [0.0, *(t for span in self.keep for t in span), self.seconds]
    return [(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if b > a]


def parse_extend(values: Sequence[float]) -> tuple[float, float]:
  """(backwards, forwards) seconds of `--extend` values; negative ones extend backwards.

  Raises:
    UserError: on zero, non-finite values, or two in one direction.
  """
  for value in values:
    if not math.isfinite(value) or value == 0:
      raise UserError(f"--extend={value:g} adds nothing; give seconds, negative for backwards")
  back, forward = ([abs(v) for v in values if (v < 0) == way] for way in (True, False))
  if max(len(back), len(forward)) > 1:
    raise UserError("--extend is given twice in one direction; give one positive, one negative")
  return sum(back), sum(forward)


def parse_infill(texts: Sequence[str]) -> tuple[Span, ...]:
  """Spans (start, end) in s of `--infill=START:END` values, in order, overlapping ones merged.

  Raises:
    UserError: on a malformed span.
  """
  spans = []
  for text in texts:
    try:
      start, end = map(float, text.split(":"))
    except ValueError:
      start = end = math.nan
    if not 0 <= start < end < math.inf:
      raise UserError(f"--infill={text} is not a span; give START:END in seconds, such as 2.0:3.5")
    spans.append((start, end))
  return _joined(spans)


def place(
  path: str | os.PathLike[str],
  *,
  rate: int,
  picture_s: float | None = None,
  own: bool = False,
  extend: tuple[float, float] = (0.0, 0.0),
  infill: Sequence[Span] = (),
) -> KnownSound:
  """Reads a sound and places it in the result.

  Channels are downmixed to one and resampled as in `data.media.audio`; samples beyond [-1, 1] are
  clipped, and a DC offset stays.

  Args:
    path: file of the sound, or of the video.
    rate: sample rate of the result in Hz.
    picture_s: length of the video, if there is one.
    own: whether it is that video's own sound.
    extend: seconds (backwards, forwards) to generate before and after it.
    infill: spans to regenerate, in s of the video, or of the sound if there is none.

  Raises:
    MediaError: if the file has no usable sound.
    UserError: on a silent or too short sound, and on parts that do not fit.
  """
  path = os.fspath(path)
  wave = np.clip(audio.read_audio(path, rate=rate), -1, 1).astype(np.float32)
  if audio.is_silent(wave):
    raise UserError(
      f"{path}: its sound is silent; leave out --extend and --infill to generate a new one"
    )
  if len(wave) < LEAST_S * rate:
    raise UserError(
      f"{path}: its sound lasts {len(wave) / rate:.4f} s, which is too short to extend; give "
      f"{LEAST_S} s"
    )
  before, after = (round(seconds * rate) for seconds in extend)
  begin, end = 0, len(wave)
  if own:
    loud = np.flatnonzero(np.abs(wave) >= audio.SILENCE)
    begin, end = int(loud[0]), int(loud[-1]) + 1
  elif before:
    wave, begin, end = np.pad(wave, (before, 0)), before, end + before
  total = end + after if picture_s is None else round(picture_s * rate)
  slack = round(_SLACK_S * rate)
  if begin < before - slack or end + after > total + slack:
    raise UserError(
      f"{path}: the sound is at {begin / rate:.2f} to {end / rate:.2f} s of a video of "
      f"{total / rate:.2f} s, which leaves no room for that much more; extend it by less, or give "
      "it as --sound without a video"
    )
  spans = [(begin - before, begin), (end, end + after)]
  # Without a video, spans refer to the known sound.
  zero = before if picture_s is None else 0
  length = (end if picture_s is None else total) - zero
  for start_s, end_s in infill:
    if round(end_s * rate) > length + 1:
      raise UserError(
        f"--infill={start_s:g}:{end_s:g} reaches beyond {path}, which ends at {length / rate:.2f} s"
      )
    spans.append((zero + round(start_s * rate), zero + round(end_s * rate)))
  spans = _joined([(max(a, 0), min(b, total)) for a, b in spans if b > a])
  ends = [0, *(t for span in spans for t in span), total]
  keep = [(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if b > a]
  if not any(not audio.is_silent(wave[a:b]) for a, b in keep):
    raise UserError(f"{path}: --infill covers all of its sound; leave it out to replace all")
  seconds = total / rate if picture_s is None else picture_s
  wave = np.pad(wave[:total], (0, max(0, total - len(wave))))
  return KnownSound(seconds, wave, tuple((a / rate, min(b / rate, seconds)) for a, b in keep))


def _joined(spans: Sequence[tuple]) -> tuple[tuple, ...]:
  """Spans in order; touching or overlapping ones are merged."""
  merged: list[tuple] = []
  for start, end in sorted(spans):
    if merged and start <= merged[-1][1]:
      merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
    else:
      merged.append((start, end))
  return tuple(merged)
