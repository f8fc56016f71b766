"""What of a soundtrack is given and what is made: extension both ways and infilling [MG 6.2].

A sound that is extended or filled has a place on the time axis of the result. Beside a video that
is the picture's: the video's own sound lies where it is, from its first to its last sample that is
not digital silence, and what lies between the ends of the picture and of the part that is made
stays silent; another sound begins with the picture, or where its extension backwards ends. Without
a video the result is the sound with what is added.
"""

import dataclasses
import math
import os
from collections.abc import Sequence

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.media import audio

LEAST_S = 0.1  # of a sound that something is added to
_SLACK_S = 0.1  # by which a sound may be longer than its picture, as containers round

Span = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Given:
  """seconds: of the result. wave: float32 of that length. keep: spans of it that stay, in s."""

  seconds: float
  wave: np.ndarray
  keep: tuple[Span, ...]

  @property
  def made(self) -> list[Span]:
    """The spans that are made, in s."""
    ends = [0.0, *(t for span in self.keep for t in span), self.seconds]
    return [(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if b > a]


def parse_extend(values: Sequence[float]) -> tuple[float, float]:
  """(backwards, forwards) seconds of `--extend` values, of which negative ones go backwards.

  Raises:
    UserError: for zero, values that are not finite, or two of one direction.
  """
  for value in values:
    if not math.isfinite(value) or value == 0:
      raise UserError(f"--extend={value:g} adds nothing; give seconds, negative ones go backwards")
  back, forward = ([abs(v) for v in values if (v < 0) == way] for way in (True, False))
  if max(len(back), len(forward)) > 1:
    raise UserError("--extend is given twice for one direction; give one positive, one negative")
  return sum(back), sum(forward)


def parse_infill(texts: Sequence[str]) -> tuple[Span, ...]:
  """Spans (start, end) in s of `--infill=START:END` values, in order, overlapping ones joined.

  Raises:
    UserError: for what is no span.
  """
  spans = []
  for text in texts:
    try:
      start, end = map(float, text.split(":"))
    except ValueError:
      start = end = math.nan
    if not 0 <= start < end < math.inf:
      raise UserError(f"--infill={text} is no span; give START:END in seconds, such as 2.0:3.5")
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
) -> Given:
  """Reads a sound and places it in the result.

  Channels are mixed to one and rates converted as `data.media.audio` does; samples beyond [-1, 1]
  are clipped, and a constant offset stays.

  Args:
    path: file of the sound, or of the video.
    rate: of the result in Hz.
    picture_s: length of the picture, if there is one.
    own: whether it is the sound of that picture.
    extend: seconds (backwards, forwards) that are made before and after it.
    infill: spans that are made anew, in s of the picture, or of the sound where there is none.

  Raises:
    MediaError: when the file holds no usable sound.
    UserError: a sound that is silent or too short, and parts that do not fit.
  """
  path = os.fspath(path)
  wave = np.clip(audio.read_audio(path, rate=rate), -1, 1).astype(np.float32)
  if audio.is_silent(wave):
    raise UserError(
      f"{path}: its sound is silent; leave out --extend and --infill to make it a new one"
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
      f"{path}: the sound lies at {begin / rate:.2f} to {end / rate:.2f} s of a picture of "
      f"{total / rate:.2f} s, which leaves no room for that much more; extend it by less, or give "
      "it as --sound without a video"
    )
  made = [(begin - before, begin), (end, end + after)]
  # Without a picture, spans are those of the sound as it was given.
  zero = before if picture_s is None else 0
  length = (end if picture_s is None else total) - zero
  for start_s, end_s in infill:
    if round(end_s * rate) > length + 1:
      raise UserError(
        f"--infill={start_s:g}:{end_s:g} reaches beyond {path}, which ends at {length / rate:.2f} s"
      )
    made.append((zero + round(start_s * rate), zero + round(end_s * rate)))
  made = _joined([(max(a, 0), min(b, total)) for a, b in made if b > a])
  ends = [0, *(t for span in made for t in span), total]
  keep = [(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if b > a]
  if not any(not audio.is_silent(wave[a:b]) for a, b in keep):
    raise UserError(f"{path}: --infill covers all of its sound; leave it out to replace all")
  seconds = total / rate if picture_s is None else picture_s
  wave = np.pad(wave[:total], (0, max(0, total - len(wave))))
  return Given(seconds, wave, tuple((a / rate, min(b / rate, seconds)) for a, b in keep))


def _joined(spans: Sequence[tuple]) -> tuple[tuple, ...]:
  """Spans in order, those that touch or overlap as one."""
  found: list[tuple] = []
  for start, end in sorted(spans):
    if found and start <= found[-1][1]:
      found[-1] = (found[-1][0], max(end, found[-1][1]))
    else:
      found.append((start, end))
  return tuple(found)
