"""Picture and sound in one mp4, synchronised to the sample [MG 6.1].

`add_sound` copies the video packets of a file bit-exactly and replaces its sound; `write_clip`
encodes both. Sound starts with the first frame and is cropped or zero-padded to the length of the
picture. The encoder's delay is recorded in the file, so that players and `audio.read_audio` skip
it. Video without presentation times (raw streams; AVI with reordered frames) is rejected, as
copying it needs times that only decoding provides. Files are written atomically. PyAV is imported
on first use.

video uint8 (T, H, W, 3); wave (T,) floats in [-1, 1], clipped
"""

import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.media import containers as media
from mg_jax.data.media import video
from mg_jax.data.media.audio import RATE
from mg_jax.data.media.containers import MediaError
from mg_jax.data.media.tracks import Track, picture_track

Codec = Literal["aac", "opus"]
_ENCODERS: dict[str, str] = {"aac": "aac", "opus": "libopus"}
BIT_RATE = 192_000
_BLOCK = 960  # samples per call of the encoder: 20 ms, which both codecs accept


def write_clip(
  path: str | os.PathLike[str],
  frames: np.ndarray,
  wave: np.ndarray,
  *,
  fps: float,
  rate: int = RATE,
  codec: Codec = "aac",
  crf: int = 18,
) -> None:
  """Writes a clip with its sound as an mp4, the picture as `video.write_video` does; atomic.

  Raises:
    UserError: if the path does not end in .mp4, or the waveform is not finite floats (T,).
    MediaError: if the file cannot be written.
  """
  wave = _checked(path, wave, rate=rate, codec=codec)
  with tempfile.TemporaryDirectory() as folder:
    picture = pathlib.Path(folder) / "picture.mp4"
    video.write_video(picture, frames, fps=fps, crf=crf)
    _mux(picture, wave, path, rate=rate, codec=codec, seconds=len(frames) / fps)


def add_sound(
  path: str | os.PathLike[str],
  wave: np.ndarray,
  *,
  out: str | os.PathLike[str] | None = None,
  rate: int = RATE,
  codec: Codec = "aac",
) -> None:
  """Replaces or adds the sound of a video file; all other tracks are dropped.

  Args:
    path: a video; its first video track is copied bit-exactly, with its times and its rotation.
    wave: the sound.
    out: the mp4 to write, by default `path` itself; replaced atomically.
    rate: sample rate of the waveform and of the file, in Hz.
    codec: of the sound.

  Raises:
    UserError: as `write_clip`; also for a video codec that an mp4 cannot hold, or without times.
    MediaError: if the video is missing, damaged or without a picture, or the file cannot be
      written.
  """
  out = path if out is None else out
  wave = _checked(out, wave, rate=rate, codec=codec)
  with media.opened(path) as source:
    seconds = picture_track(path, source).length_s()
  _mux(path, wave, out, rate=rate, codec=codec, seconds=seconds)


def _checked(
  path: str | os.PathLike[str], wave: np.ndarray, *, rate: int, codec: str
) -> np.ndarray:
  wave = np.asarray(wave)
  if pathlib.Path(path).suffix.lower() != ".mp4":
    raise UserError(f"{os.fspath(path)}: picture and sound are written as mp4; end it in .mp4")
  if codec not in _ENCODERS:
    raise UserError(f"unknown audio codec {codec!r}; choose from {', '.join(_ENCODERS)}")
  if codec == "opus" and rate != RATE:
    raise UserError(f"opus needs {RATE} Hz, not {rate}; resample the sound or choose aac")
  if wave.ndim != 1 or wave.dtype.kind != "f" or not np.isfinite(wave).all():
    raise UserError(
      f"{os.fspath(path)}: got a sound of {wave.dtype} {wave.shape}; mix it down to finite floats "
      "(T,)"
    )
  return np.clip(wave, -1, 1).astype(np.float32)


def _mux(
  path: str | os.PathLike[str],
  wave: np.ndarray,
  out: str | os.PathLike[str],
  *,
  rate: int,
  codec: str,
  seconds: float,
) -> None:
  length = round(seconds * rate)
  wave = np.pad(wave[:length], (0, max(0, length - len(wave))))
  with media.opened(path) as source:
    picture = picture_track(path, source)
    with media.created(out) as file:
      copy = _copy_of(path, file, picture.stream)
      sound = file.add_stream(_ENCODERS[codec], rate=rate, layout="mono")
      sound.bit_rate = BIT_RATE
      encoded = _encoded(sound, wave, rate=rate, zero=picture.zero_s)
      ahead = next(encoded, None)
      for packet in _copied(picture):
        # Interleaved by time, or players of long files would seek back and forth.
        while ahead is not None and ahead.pts * ahead.time_base <= packet.dts * packet.time_base:
          file.mux(ahead)
          ahead = next(encoded, None)
        packet.stream = copy
        file.mux(packet)
      for packet in [ahead, *encoded]:
        if packet is not None:
          file.mux(packet)


def _copy_of(path: str | os.PathLike[str], file: Any, picture: Any) -> Any:
  """A stream of the mp4 with the parameters of the video stream."""
  try:
    return file.add_stream_from_template(picture)
  except ValueError as error:
    raise UserError(
      f"{os.fspath(path)}: an mp4 cannot hold a picture in {picture.codec_context.name}; "
      "encode it as H.264 first"
    ) from error


def _copied(picture: Track) -> Iterator[Any]:
  """The video packets unchanged, each with a decoding time."""
  import av

  path, count, stated, waiting = picture.path, 0, picture.stream.frames, []
  try:
    for packet in picture.packets():
      if not packet.size:
        continue  # marks the end
      if not picture.timed or packet.pts is None:
        raise UserError(
          f"{os.fspath(path)}: its container has no presentation times; encode it as H.264 in an "
          "mp4 first"
        )
      if packet.is_corrupt:
        raise MediaError("damaged", path, "parts of its picture are missing")
      count += 1
      waiting.append(packet)
      if packet.dts is not None:
        yield from _dated(waiting)
        waiting = []
    yield from _dated(waiting)
  except av.FFmpegError as error:
    if media.is_starved(error):
      raise
    raise MediaError("truncated", path, f"reading breaks off ({error})") from error
  if count < stated:
    raise MediaError("truncated", path, f"it holds {count} of {stated} frames")


def _dated(packets: list[Any]) -> list[Any]:
  """Fills in decoding times, which Matroska lacks for its first frames, from durations."""
  following = packets[-1].dts if packets else None
  if packets and following is None:
    following = min(packet.pts for packet in packets)
    packets[-1].dts = following
  for packet in reversed(packets[:-1]):
    following -= packet.duration or 1
    packet.dts = following
  return packets


def _encoded(stream: Any, wave: np.ndarray, *, rate: int, zero: float) -> Iterator[Any]:
  """The packets of the sound; it starts at `zero` seconds, preceded by the encoder's delay."""
  import av

  for start in range(0, len(wave), _BLOCK):
    block = np.ascontiguousarray(wave[None, start : start + _BLOCK])
    frame = av.AudioFrame.from_ndarray(block, format="flt", layout="mono")
    frame.sample_rate = rate
    frame.pts = start + round(zero * rate)
    yield from stream.encode(frame)
  yield from stream.encode(None)
