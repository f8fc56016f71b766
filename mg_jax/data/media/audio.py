"""Reading audio from any file that PyAV (FFmpeg) decodes, as mono float32; writing WAV [MG 6.2].

FFmpeg resamples. Downmixing is fixed: stereo is averaged; more than two channels are first mixed
to stereo by FFmpeg's matrix for their layout (ITU, without the LFE channel), scaled so that nothing
can clip. Time zero is the first frame of the picture if there is one, so that sound is aligned with
the clips of `data.media.video`, else the first sample. Decoders of lossy formats slightly exceed
[-1, 1]; such values are kept. PyAV is imported on first use.

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
# Amplitudes below this round to zero in 16 bits.
SILENCE = 2.0**-16


@dataclasses.dataclass(frozen=True)
class AudioInfo:
  """Properties of the sound of a file.

  Attributes:
    duration_s: length in seconds, see `data.media.tracks`.
    rate: sample rate in Hz.
    channels: number of channels.
  """

  duration_s: float
  rate: int
  channels: int


def probe(path: str | os.PathLike[str]) -> AudioInfo:
  """Reads the properties of the sound of a file, without decoding it.

  Raises:
    MediaError: missing, empty, unreadable, truncated, or without sound.
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

  Of several streams FFmpeg's best is taken. Sound before `start_s` is decoded too, so that samples
  do not depend on where reading starts.

  Args:
    path: the file.
    rate: sample rate of the result in Hz.
    start_s: seconds after time zero, >= 0. Sound that starts later is preceded by zeros.
    seconds: stops after this time, > 0; by default, and at the latest, at the end of the sound.

  Raises:
    MediaError: as `probe`; also if there is no sample from `start_s` on, if a sample is not finite,
      or if the sound ends long before its stated length. Truncation of WAV and Ogg files cannot be
      detected.
  """
  if rate < 1 or start_s < 0 or (seconds is not None and seconds <= 0):
    raise ValueError(f"invalid span: rate={rate}, start_s={start_s}, seconds={seconds}")
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
    stated = track.stated_s or 0.0
    if position / rate < stated - CUT_S:
      raise MediaError(
        "truncated", path, f"its sound ends after {position / rate:.2f} s of {stated:.2f} s"
      )


def write_wav(path: str | os.PathLike[str], wave: np.ndarray, *, rate: int = RATE) -> None:
  """Writes float (T,), clipped to [-1, 1], as a 16-bit mono WAV; atomic.

  Raises:
    MediaError: if a sample is not finite or the file cannot be written.
  """
  write_blocks(path, [wave], rate=rate)


def write_blocks(
  path: str | os.PathLike[str], waves: Iterable[np.ndarray], *, rate: int = RATE
) -> int:
  """As `write_wav`, from an iterable of arrays (n,); returns the number of samples.

  If `waves` raises, `path` is unchanged.
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
          raise ValueError(f"a waveform must be floats (T,), got {wave.dtype} {wave.shape}")
        if not np.isfinite(wave).all():
          raise MediaError("not_finite", path, "the sound holds values that are not finite")
        # 16 bits are scaled by 2^15, as decoders do; the positive end is one step short.
        levels = np.round(wave.astype(np.float64) * 2**15).clip(-(2**15), 2**15 - 1)
        file.writeframes(levels.astype("<i2").tobytes())
        count += len(wave)
  except OSError as error:
    raise MediaError("unwritable", path, f"the sound could not be written ({error})") from error
  return count


def is_silent(wave: np.ndarray) -> bool:
  """Whether a sound is digital silence: every sample rounds to zero in 16 bits.

  Files often have an empty audio track. A sound without samples is silent.
  """
  return bool(np.max(np.abs(wave), initial=0.0) < SILENCE)


def _stream(path: str | os.PathLike[str], container: Any) -> Any:
  stream = container.streams.best("audio")
  if stream is None:
    raise MediaError("no_audio", path, "the file has no audio stream")
  return stream


def _mono(container: Any, track: Track, rate: int) -> Iterator[np.ndarray]:
  """Blocks from time zero on, mono at `rate`."""
  ahead = None
  frames = _decode(track)
  # The format may change within a stream: each run of frames has its own resampler.
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
  """Samples from time zero to the first of the sound, negative if that comes earlier."""
  picture = media.picture(container)
  if picture is None or frame.time is None:
    return 0
  zero = float((picture.start_time or 0) * picture.time_base)
  return round((frame.time - zero) * rate)


def _decode(track: Track) -> Iterator[Any]:
  import av

  decoded = False
  try:
    for packet in track.packets():
      for frame in packet.decode():
        decoded = True
        yield frame
  except av.FFmpegError as error:
    if decoded and not media.is_starved(error):
      raise MediaError("truncated", track.path, f"decoding breaks off ({error})") from error
    raise


def _resampled(
  frames: Iterable[Any], hz: int, kind: str, layout: Any, rate: int
) -> Iterator[np.ndarray]:
  """Frames of one format as blocks (n, 1 or 2) at `rate`."""
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
