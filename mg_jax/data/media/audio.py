"""Sound of any file that PyAV (FFmpeg) reads, as mono float32, and its writing [MG 6.2].

Resampling is FFmpeg's. Channels become one by a fixed rule: the mean of two; more than two are
first mixed down to two by FFmpeg's matrix for their layout (ITU, low frequencies left out), scaled
so that nothing can clip. Time zero is the first frame of the picture where there is one, so that
sound and the clips of `data.media.video` agree, else the first sample. Decoders of lossy formats go
a little beyond [-1, 1], which is left as it is. PyAV is imported when first used.

wave (T,), float32, about within [-1, 1]
"""

import dataclasses
import itertools
import math
import os
import wave as riff
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mg_jax.data import atomic
from mg_jax.data.media import containers as media
from mg_jax.data.media.containers import MediaError, opened
from mg_jax.data.media.tracks import CUT_S, Track

RATE = 48_000  # Hz [MG 6.2]
# What rounds to zero in 16 bits.
SILENCE = 2.0**-16


@dataclasses.dataclass(frozen=True)
class AudioInfo:
  """What a file says of its sound.

  Attributes:
    duration_s: length in seconds, see `data.media.tracks`.
    rate: samples a second and channel.
    channels: how many.
  """

  duration_s: float
  rate: int
  channels: int


def probe(path: str | os.PathLike[str]) -> AudioInfo:
  """Reads the properties of the sound of a file, without decoding it.

  Raises:
    MediaError: missing, empty, unreadable, cut off, or without sound.
  """
  with opened(path) as container:
    stream = _stream(path, container)
    length_s = Track(path, container, stream).length_s()
    if not length_s:
      raise MediaError("empty", path, "its sound has no samples")
    return AudioInfo(length_s, stream.rate, stream.channels)


def read_audio(
  path: str | os.PathLike[str],
  *,
  rate: int = RATE,
  start_s: float = 0.0,
  seconds: float | None = None,
) -> np.ndarray:
  """The sound of a file, float32 (T,); see `read_blocks`."""
  return np.concatenate(list(read_blocks(path, rate=rate, start_s=start_s, seconds=seconds)))


def read_blocks(
  path: str | os.PathLike[str],
  *,
  rate: int = RATE,
  start_s: float = 0.0,
  seconds: float | None = None,
) -> Iterator[np.ndarray]:
  """Yields the sound of a file block by block, float32 (n,); memory does not grow with length.

  Of several streams it is the one FFmpeg holds for the best. What lies before `start_s` is decoded
  too, so that every sample is the same wherever reading starts.

  Args:
    path: the file.
    rate: in Hz.
    start_s: seconds after time zero, >= 0. Sound that starts later has zeros before it.
    seconds: stops after this time, > 0; by default, and at the latest, at the end of the sound.

  Raises:
    MediaError: as `probe`; also when there is not one sample from `start_s` on, when a sample is
      not finite, or when the sound ends long before the file says. WAV and Ogg files that were
      cut off take the cut for their end.
  """
  if rate < 1 or start_s < 0 or (seconds is not None and seconds <= 0):
    raise ValueError(f"not a part of a sound: rate={rate}, start_s={start_s}, seconds={seconds}")
  skip = round(start_s * rate)
  left = math.inf if seconds is None else max(1, round(seconds * rate))
  position = 0
  with opened(path) as container:
    track = Track(path, container, _stream(path, container))
    for block in _mono(container, track, rate):
      if not np.isfinite(block).all():
        raise MediaError("not_finite", path, "its sound holds values that are not finite")
      begin, position = position, position + len(block)
      block = block[max(0, skip - begin) :]
      if len(block):
        yield block[: min(left, len(block))]
        left -= min(left, len(block))
      if left == 0:
        return
    if position <= skip:
      if not position:
        raise MediaError("empty", path, "its sound has no samples")
      raise MediaError("too_short", path, f"its sound ends after {position / rate:.2f} s")
    told = track.stated_s or 0.0
    if position / rate < told - CUT_S:
      raise MediaError(
        "truncated", path, f"its sound ends after {position / rate:.2f} s of {told:.2f} s"
      )


def write_wav(path: str | os.PathLike[str], wave: np.ndarray, *, rate: int = RATE) -> None:
  """Writes float (T,), clipped to [-1, 1], as a mono WAV of 16 bits; atomic.

  Raises:
    MediaError: when a sample is not finite or the file cannot be written.
  """
  write_blocks(path, [wave], rate=rate)


def write_blocks(
  path: str | os.PathLike[str], waves: Iterable[np.ndarray], *, rate: int = RATE
) -> int:
  """As `write_wav`, of arrays (n,) that come one by one; returns how many samples there were.

  When `waves` raises, nothing is left at `path` that was not there before.
  """
  count = 0
  try:
    with atomic.replacing(path) as partial, riff.open(os.fspath(partial), "wb") as file:
      file.setnchannels(1)
      file.setsampwidth(2)
      file.setframerate(rate)
      for wave in waves:
        wave = np.asarray(wave)
        if wave.ndim != 1 or wave.dtype.kind != "f":
          raise ValueError(f"a wave must be floats (T,), got {wave.dtype} {wave.shape}")
        if not np.isfinite(wave).all():
          raise MediaError("not_finite", path, "the sound holds values that are not finite")
        # The scale of 16 bits is 2^15, as decoders have it; its positive end is one step short.
        levels = np.round(wave.astype(np.float64) * 2**15).clip(-(2**15), 2**15 - 1)
        file.writeframes(levels.astype("<i2").tobytes())
        count += len(wave)
  except OSError as error:
    raise MediaError("unwritable", path, f"the sound could not be written ({error})") from error
  return count


def is_silent(wave: np.ndarray) -> bool:
  """Whether a sound is digital silence: no sample is more than zero in 16 bits.

  Files often have an audio track with nothing on it. A sound of no samples is silent.
  """
  return bool(np.max(np.abs(wave), initial=0.0) < SILENCE)


def _stream(path: str | os.PathLike[str], container: Any) -> Any:
  stream = container.streams.best("audio")
  if stream is None:
    raise MediaError("no_audio", path, "the file holds no audio stream")
  return stream


def _mono(container: Any, track: Track, rate: int) -> Iterator[np.ndarray]:
  """Blocks from time zero on, of one channel at `rate`."""
  ahead = None
  frames = _decode(track)
  # A stream may change its format on the way: each run of frames has its own resampler.
  for (hz, kind, layout), run in itertools.groupby(
    frames, lambda frame: (frame.sample_rate, frame.format.name, frame.layout)
  ):
    first = next(run)
    if ahead is None:
      ahead = _start(container, first, rate)
      if ahead > 0:
        yield np.zeros(ahead, np.float32)
    for block in _resampled(itertools.chain([first], run), hz, kind, layout, rate):
      # Sound from before time zero is dropped.
      cut = min(len(block), max(0, -ahead))
      ahead += cut
      if cut < len(block):
        yield block[cut:].mean(axis=1)


def _start(container: Any, frame: Any, rate: int) -> int:
  """Samples from time zero to the first of the sound, negative where that comes earlier."""
  picture = media.picture(container)
  if picture is None or frame.time is None:
    return 0
  zero = float((picture.start_time or 0) * picture.time_base)
  return round((frame.time - zero) * rate)


def _decode(track: Track) -> Iterator[Any]:
  import av

  seen = False
  try:
    for packet in track.packets():
      for frame in packet.decode():
        seen = True
        yield frame
  except av.FFmpegError as error:
    if seen and not media.is_starved(error):
      raise MediaError("truncated", track.path, f"decoding breaks off ({error})") from error
    raise


def _resampled(
  frames: Iterable[Any], hz: int, kind: str, layout: Any, rate: int
) -> Iterator[np.ndarray]:
  """Blocks (n, 1 or 2) at `rate` of frames of one format."""
  import av

  channels = "mono" if layout.nb_channels == 1 else "stereo"
  graph = av.filter.Graph()
  source = graph.add_abuffer(
    sample_rate=hz, format=kind, layout=layout.name, time_base=f"1/{hz}"
  )
  options = f"{rate}:out_sample_fmt=fltp:out_chlayout={channels}:rematrix_maxval=1.0"
  nodes = source, graph.add("aresample", options), graph.add("abuffersink")
  graph.link_nodes(*nodes).configure()
  for frame in itertools.chain(frames, [None]):
    if frame is not None:
      frame.pts = None  # Gaps in the timestamps are not filled.
    graph.push(frame)
    while True:
      try:
        yield graph.pull().to_ndarray().T
      except (av.BlockingIOError, av.EOFError):
        break
