"""Decoding and encoding of video files through PyAV (FFmpeg) [MG 3.2.1].

A clip is read as uint8 (T, H, W, 3) RGB at the asked frame rate and size: frames are picked by
their timestamps (the nearest one not later than each instant, so a variable frame rate is right by
construction), turned upright as the file's rotation asks, scaled with their aspect ratio kept until
they cover the size, and cut at the centre. Only the frames asked for stay in memory. Whatever is
wrong with a file is a `MediaError` with a reason a program can count by. PyAV is imported when
first used.
"""

import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data import atomic
from mg_jax.data.media import MAX_PIXELS, MediaError, opened

# Timestamps are rounded to the time base of the container, so equality holds to a fraction of a
# millisecond only.
_SLACK_S = 5e-4
_BT709 = 1  # The code of ITU-R BT.709 is the same in FFmpeg's frames and in its scaler.
_UNSPECIFIED = 2


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """What a video file says of itself, in display orientation.

  Attributes:
    duration_s: length of the picture track in seconds.
    fps: its average frame rate.
    frames: its frame count, or None when the container does not tell.
    height: pixels after rotation.
    width: pixels after rotation.
    rotation: degrees counter-clockwise that turn a decoded frame upright: 0, 90, 180 or 270.
    has_audio: whether there is an audio track, silent or not.
  """

  duration_s: float
  fps: float
  frames: int | None
  height: int
  width: int
  rotation: int
  has_audio: bool


def probe(path: str | os.PathLike[str]) -> VideoInfo:
  """Reads the properties of a video and decodes its first frame to see that it can be decoded.

  Raises:
    MediaError: missing, empty, unreadable, without a video stream, or with frames above 40
      megapixels.
  """
  with _opened(path) as (container, stream):
    first = next((frame for _, frame in _decode(path, container, stream, 0.0)), None)
    if first is None:
      raise MediaError("unreadable", path, "no frame of it could be decoded")
    fps = float(stream.average_rate or stream.guessed_rate or 0) or 1.0
    turn = _rotation(first)
    height, width = first.height, first.width
    if turn in (90, 270):
      height, width = width, height
    return VideoInfo(
      duration_s=_duration(container, stream) or 1.0 / fps,
      fps=fps,
      frames=stream.frames or None,
      height=height,
      width=width,
      rotation=turn,
      has_audio=bool(container.streams.audio),
    )


def read_clip(
  path: str | os.PathLike[str], *, start_s: float, fps: float, frames: int, size: tuple[int, int]
) -> np.ndarray:
  """Decodes `frames` frames at `fps` from `start_s` on, as uint8 (frames, H, W, 3) RGB.

  Frame k is the latest one shown at `start_s + k / fps` seconds after the first frame. The last
  frame stands for up to a tenth of a second (or two frames) after its end, as container durations
  are rounded.

  Args:
    path: the file.
    start_s: seconds after the first frame, >= 0.
    fps: sampling rate, > 0; need not be the rate of the file.
    frames: how many, >= 1.
    size: (H, W) in pixels; the picture is scaled to cover it and cut at the centre.

  Raises:
    MediaError: as `probe`, or the video ends before the clip does (too_short, truncated),
      or its picture is damaged.
  """
  if start_s < 0 or fps <= 0 or frames < 1 or min(size) < 1:
    raise ValueError(f"not a clip: start_s={start_s}, fps={fps}, frames={frames}, size={size}")
  last_s = start_s + (frames - 1) / fps
  picked: list[np.ndarray] = []
  with _opened(path) as (container, stream):
    pixel_shape = float(stream.sample_aspect_ratio or 1)
    slack = max(0.1, 2 * _interval(stream, fps))
    for frame, until, last in _shown(path, container, stream, start_s, fps):
      shown = until + slack if last else until - _SLACK_S
      pixels = None
      while len(picked) < frames and start_s + len(picked) / fps < shown:
        pixels = _pixels(path, frame, size, pixel_shape) if pixels is None else pixels
        picked.append(pixels)
      if len(picked) == frames:
        return np.stack(picked)
    told = _duration(container, stream)
    broken = told is not None and until < told - max(0.5, slack)
    raise MediaError(
      "truncated" if broken else "too_short",
      path,
      f"the picture ends after {until:.2f} s but the clip needs {last_s:.2f} s",
    )


def read_frames(
  path: str | os.PathLike[str],
  *,
  fps: float | None = None,
  size: tuple[int, int] | None = None,
  seconds: float | None = None,
) -> Iterator[np.ndarray]:
  """Yields the frames of a video one by one, uint8 (H, W, 3) RGB; memory does not grow with length.

  Grey and 10-bit pictures become 8-bit RGB, and alpha is dropped.

  Args:
    path: the file.
    fps: sampling rate, > 0; by default the file's average, which makes a variable rate a fixed one.
    size: (H, W) in pixels, covered and cut at the centre as in `read_clip`; by default the first
      frame's size as it is displayed.
    seconds: stops after this time, > 0; by default at the end of the file.

  Raises:
    MediaError: as `probe`; also at the end when the file's picture ends long before it should.
  """
  count, end = 0, math.inf if seconds is None else seconds - _SLACK_S
  with _opened(path) as (container, stream):
    pixel_shape = float(stream.sample_aspect_ratio or 1)
    rate = fps or 1.0 / _interval(stream, 25.0)
    for frame, until, _ in _shown(path, container, stream, 0.0, rate):
      size = size or _shown_size(frame, pixel_shape)
      pixels = None
      # A file of one frame may tell no duration, yet it shows that frame.
      while count / rate < min(until - _SLACK_S, end) or not count:
        pixels = _pixels(path, frame, size, pixel_shape) if pixels is None else pixels
        count += 1
        yield pixels
      if count / rate >= end:
        return
    told = float(stream.duration * stream.time_base) if stream.duration else 0.0
    if until < told - max(0.5, 2 / rate):
      raise MediaError("truncated", path, f"the picture ends after {until:.2f} s of {told:.2f} s")


def write_video(
  path: str | os.PathLike[str], video: np.ndarray, *, fps: float, crf: int = 18
) -> None:
  """Writes uint8 (T, H, W, 3) RGB as an H.264 mp4 (yuv420p, BT.709) that browsers play; atomic.

  Chroma is stored at half size, so an odd height or width is padded by repeating the last row or
  column.

  Args:
    path: target; its folder is created, an existing file replaced.
    video: at least one frame.
    fps: frames per second, > 0.
    crf: constant rate factor of x264, 0 (lossless) to 51.
  """
  video = np.asarray(video)
  if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
    raise ValueError(f"video must be non-empty uint8 (T, H, W, 3), got {video.dtype} {video.shape}")
  write_frames(path, video, fps=fps, crf=crf)


def write_frames(
  path: str | os.PathLike[str], frames: Iterable[np.ndarray], *, fps: float, crf: int = 18
) -> int:
  """As `write_video`, of frames (H, W, 3) that come one by one; returns how many there were.

  When `frames` raises, nothing is left at `path` that was not there before.

  Raises:
    UserError: when there is no frame.
    MediaError: when the file cannot be written.
  """
  import av

  frames = iter(frames)
  first = next(frames, None)
  if first is None:
    raise UserError(f"{os.fspath(path)}: there are no frames to write; give at least one.")
  height, width = first.shape[:2]
  edge = ((0, height % 2), (0, width % 2), (0, 0))
  rate = Fraction(fps).limit_denominator(1001)
  count = 0
  try:
    with atomic.replacing(path) as partial:
      with av.open(
        os.fspath(partial), "w", format="mp4", options={"movflags": "faststart"}
      ) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = _BT709
        stream.codec_context.color_primaries = _BT709
        stream.codec_context.color_trc = _BT709
        for rgb in itertools.chain([first], frames):
          rgb = np.ascontiguousarray(np.pad(rgb, edge, mode="edge"))
          frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
          frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709)
          container.mux(stream.encode(frame))
          count += 1
        container.mux(stream.encode(None))
  except OSError as error:
    raise MediaError("unwritable", path, f"the video could not be written ({error})") from error
  return count


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
  """Yields (container, video stream); turns every error of FFmpeg into a `MediaError`."""
  with opened(path) as container:
    if not container.streams.video:
      raise MediaError("no_video", path, "the file holds no video stream")
    stream = container.streams.video[0]
    _check_pixels(path, stream.codec_context.height, stream.codec_context.width)
    yield container, stream


def _decode(
  path: str | os.PathLike[str], container: Any, stream: Any, start_s: float
) -> Iterator[tuple[float, Any]]:
  """Yields (seconds after the first frame, frame) from the key frame at or before `start_s` on."""
  import av

  origin = float((stream.start_time or 0) * stream.time_base)
  interval = 1.0 / (float(stream.average_rate or 0) or 25.0)

  def run() -> Iterator[tuple[float, Any]]:
    for count, frame in enumerate(container.decode(stream)):
      _check_pixels(path, frame.height, frame.width)
      yield (count * interval if frame.time is None else frame.time - origin), frame

  seen = 0
  try:
    if start_s > 0:
      container.seek(int((start_s + origin) / stream.time_base), stream=stream)
      for time_s, frame in run():
        # A broken seek index may land late: then read from the start instead.
        if seen == 0 and time_s > start_s + _SLACK_S:
          break
        seen += 1
        yield time_s, frame
      if seen:
        return
      container.seek(0)
    for item in run():
      seen += 1
      yield item
  except av.FFmpegError as error:
    if seen:
      raise MediaError("truncated", path, f"decoding breaks off ({error})") from error
    raise


def _shown(
  path: str | os.PathLike[str], container: Any, stream: Any, start_s: float, fps: float
) -> Iterator[tuple[Any, float, bool]]:
  """Yields (frame, seconds until which it is shown, whether it is the last), one frame late."""
  held, end_s = None, 0.0
  for time_s, frame in _decode(path, container, stream, start_s):
    if held is not None:
      yield held, time_s, False
    held = frame
    shown = float(frame.duration * frame.time_base) if frame.duration else _interval(stream, fps)
    end_s = time_s + shown
  if held is None:
    raise MediaError("unreadable", path, "no frame of it could be decoded")
  yield held, end_s, True


def _interval(stream: Any, fps: float) -> float:
  """Seconds between frames; at `fps` where the stream does not tell."""
  return 1.0 / (float(stream.average_rate or 0) or fps)


def _pixels(path: Any, frame: Any, size: tuple[int, int], pixel_shape: float) -> np.ndarray:
  if frame.is_corrupt:
    raise MediaError("damaged", path, "the decoder had to make up parts of its picture")
  return _to_rgb(frame, size, pixel_shape)


def _shown_size(frame: Any, pixel_shape: float) -> tuple[int, int]:
  """(H, W) of a frame as displayed, turned upright and with square pixels."""
  size = frame.height, max(1, math.floor(frame.width * pixel_shape + 0.5))
  return size if _rotation(frame) in (0, 180) else size[::-1]


def _to_rgb(frame: Any, size: tuple[int, int], pixel_shape: float) -> np.ndarray:
  """Turns, scales and cuts a decoded frame to uint8 (H, W, 3); pixels are `pixel_shape` wide."""
  from av.video.reformatter import Interpolation

  turn = _rotation(frame)
  height, width = size if turn in (0, 180) else size[::-1]
  shown_width = frame.width * pixel_shape
  scale = max(height / frame.height, width / shown_width)
  scaled_height = max(height, math.floor(frame.height * scale + 0.5))
  scaled_width = max(width, math.floor(shown_width * scale + 0.5))
  # Players take untagged high definition for BT.709, while the scaler would take BT.601.
  guessed = frame.colorspace == _UNSPECIFIED and min(frame.height, frame.width) >= 720
  rgb = frame.reformat(
    width=scaled_width,
    height=scaled_height,
    format="rgb24",
    src_colorspace=_BT709 if guessed else None,
    interpolation=Interpolation.AREA if scale < 1 else Interpolation.BILINEAR,
  ).to_ndarray()
  top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
  return np.rot90(rgb[top : top + height, left : left + width], turn // 90)


def _rotation(frame: Any) -> int:
  return round(frame.rotation / 90) * 90 % 360


def _duration(container: Any, stream: Any) -> float | None:
  """Seconds of the picture track as the container tells them; Matroska keeps them in a tag."""
  if stream.duration:
    return float(stream.duration * stream.time_base)
  tag = stream.metadata.get("DURATION", "").split(":")
  try:
    return float(tag[0]) * 3600 + float(tag[1]) * 60 + float(tag[2])
  except (IndexError, ValueError):
    # The container's own duration counts in microseconds and may be that of a longer audio track.
    return container.duration / 1e6 if container.duration else None


def _check_pixels(path: str | os.PathLike[str], height: int, width: int) -> None:
  if height * width > MAX_PIXELS:
    raise MediaError("too_large", path, f"its frames have {width}x{height} pixels")
