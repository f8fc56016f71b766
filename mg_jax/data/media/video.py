"""Decoding and encoding of video files through PyAV (FFmpeg) [MG 3.2.1].

A clip is read as uint8 (T, H, W, 3) RGB at the asked frame rate and size: frames are picked by
their timestamps (the nearest one not later than each instant, so a variable frame rate is right by
construction), turned upright as the file's rotation asks, scaled with their aspect ratio kept until
they cover the size, and cut at the centre. `data.media.tracks` says where times and lengths come
from, `data.media.colours` what becomes of colours and of interlaced frames. Attached pictures
(cover art) are no video. Only the frames asked for stay in memory. Whatever is wrong with a file is
a `MediaError` with a reason a program can count by. PyAV is imported when first used.
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
from mg_jax.data.media import colours
from mg_jax.data.media import containers as media
from mg_jax.data.media.colours import BT709
from mg_jax.data.media.containers import MAX_PIXELS, MediaError
from mg_jax.data.media.tracks import CUT_S, Track, picture_track

# Timestamps are rounded to the time base of the container, so equality holds to a fraction of a
# millisecond only.
_SLACK_S = 5e-4


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
    MediaError: missing, empty, unreadable, cut off, without a video stream, with frames above 40
      megapixels, or with colours that `data.media.colours` refuses.
  """
  with _opened(path) as (container, track):
    first = next((frame for _, frame in _decode(track, 0.0)), None)
    if first is None:
      raise MediaError("unreadable", path, "no frame of it could be decoded")
    fps = track.fps or 1.0
    turn = colours.rotation(first)
    height, width = first.height, first.width
    if turn in (90, 270):
      height, width = width, height
    return VideoInfo(
      duration_s=track.length_s() or 1.0 / fps,
      fps=fps,
      frames=track.stream.frames or None,
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
  with _opened(path) as (_, track):
    slack = max(0.1, 2 / (track.fps or fps))
    for frame, until, last in _shown(track, start_s, fps):
      shown = until + slack if last else until - _SLACK_S
      pixels = None
      while len(picked) < frames and start_s + len(picked) / fps < shown:
        pixels = _pixels(track, frame, size) if pixels is None else pixels
        picked.append(pixels)
      if len(picked) == frames:
        return np.stack(picked)
    told = track.stated_s
    broken = told is not None and until < told - max(CUT_S, slack)
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
  with _opened(path) as (_, track):
    rate = fps or track.fps or 25.0
    for frame, until, _ in _shown(track, 0.0, rate):
      size = size or colours.shown_size(frame, pixel_shape=_pixel_shape(track))
      pixels = None
      # A file of one frame may tell no duration, yet it shows that frame.
      while count / rate < min(until - _SLACK_S, end) or not count:
        pixels = _pixels(track, frame, size) if pixels is None else pixels
        count += 1
        yield pixels
      if count / rate >= end:
        return
    told = track.stated_s or 0.0
    if until < told - max(CUT_S, 2 / rate):
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
  with media.created(path) as container:
    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
    stream.height, stream.width = height + height % 2, width + width % 2
    stream.pix_fmt = "yuv420p"
    stream.codec_context.colorspace = BT709
    stream.codec_context.color_primaries = BT709
    stream.codec_context.color_trc = BT709
    for rgb in itertools.chain([first], frames):
      rgb = np.ascontiguousarray(np.pad(rgb, edge, mode="edge"))
      frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
      frame = frame.reformat(format="yuv420p", dst_colorspace=BT709)
      container.mux(stream.encode(frame))
      count += 1
    container.mux(stream.encode(None))
  return count


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Track]]:
  """Yields (container, picture track); turns every error of FFmpeg into a `MediaError`."""
  with media.opened(path) as container:
    track = picture_track(path, container)
    codec = track.stream.codec_context
    _check_pixels(path, codec.height, codec.width)
    colours.check(path, codec)
    yield container, track


def _decode(track: Track, start_s: float) -> Iterator[tuple[float, Any]]:
  """Yields (seconds after the first frame, frame) from the key frame at or before `start_s` on."""
  attempts = track.seeks(start_s) if start_s > 0 else ()
  for packets in attempts:
    frames = colours.progressive(_frames(track, packets))
    first = next(frames, None)
    # An index may be broken or coarse, so that reading begins too late.
    if first is not None and first[0] <= start_s + _SLACK_S:
      yield first
      yield from frames
      return
  if attempts:
    with _opened(track.path) as (_, again):
      yield from colours.progressive(_frames(again, again.packets()))
  else:
    yield from colours.progressive(_frames(track, track.packets()))


def _frames(track: Track, packets: Iterator[Any]) -> Iterator[tuple[float, Any]]:
  """Yields (seconds after the first frame, frame) of packets, in the order in which they show."""
  import av

  interval, time_s, seen = 1.0 / (track.fps or 25.0), 0.0, False
  try:
    for packet in packets:
      for frame in packet.decode():
        _check_pixels(track.path, frame.height, frame.width)
        if track.timed and frame.time is not None:
          time_s = frame.time - track.zero_s
        yield time_s, frame
        time_s, seen = time_s + interval, True
  except av.FFmpegError as error:
    if seen and not media.is_starved(error):
      raise MediaError("truncated", track.path, f"decoding breaks off ({error})") from error
    raise


def _shown(track: Track, start_s: float, fps: float) -> Iterator[tuple[Any, float, bool]]:
  """Yields (frame, seconds until which it is shown, whether it is the last), one frame late."""
  held, end_s = None, 0.0
  for time_s, frame in _decode(track, start_s):
    if held is not None:
      yield held, time_s, False
    held = frame
    told = float(frame.duration * frame.time_base) if frame.duration and track.timed else 0.0
    end_s = time_s + (told or 1.0 / (track.fps or fps))
  if held is None:
    raise MediaError("unreadable", track.path, "no frame of it could be decoded")
  yield held, end_s, True


def _pixels(track: Track, frame: Any, size: tuple[int, int]) -> np.ndarray:
  if frame.is_corrupt:
    raise MediaError("damaged", track.path, "the decoder had to make up parts of its picture")
  primaries = track.stream.codec_context.color_primaries
  return colours.to_rgb(frame, size, pixel_shape=_pixel_shape(track), primaries=primaries)


def _pixel_shape(track: Track) -> float:
  """Width of a pixel by its height."""
  return float(track.stream.sample_aspect_ratio or 1)


def _check_pixels(path: str | os.PathLike[str], height: int, width: int) -> None:
  if height * width > MAX_PIXELS:
    raise MediaError("too_large", path, f"its frames have {width}x{height} pixels")
