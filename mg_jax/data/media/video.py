"""Decoding and encoding of video files through PyAV (FFmpeg) [MG 3.2.1].

A clip is read as uint8 (T, H, W, 3) RGB at the requested frame rate and size: frames are selected
by timestamp (the latest one not after each instant, so variable frame rates are handled by
construction), rotated upright, scaled with their aspect ratio kept to cover the size, and
centre-cropped. See `data.media.tracks` for times and lengths and `data.media.colours` for colours
and interlaced frames. Attached pictures (cover art) are not video. Only the requested frames stay
in memory. Every fault of a file raises a `MediaError` with a machine-readable reason. PyAV is
imported on first use.
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

# Timestamps are rounded to the container's time base, so equality holds only to a fraction of a
# millisecond.
_SLACK_S = 5e-4


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """Properties of a video file, in display orientation.

  Attributes:
    duration_s: length of the picture track in seconds.
    fps: its average frame rate.
    frames: its frame count, or None if the container does not state it.
    height: pixels after rotation.
    width: pixels after rotation.
    rotation: counter-clockwise, makes a decoded frame upright: 0, 90, 180 or 270 degrees.
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
  """Reads the properties of a video and decodes its first frame to check that this is possible.

  Raises:
    MediaError: missing, empty, unreadable, truncated, without a video stream, with frames above 40
      megapixels, or with colours that `data.media.colours` rejects.
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
  frame is repeated for up to a tenth of a second (or two frames) after its end, as container
  durations are rounded.

  Args:
    path: the file.
    start_s: seconds after the first frame, >= 0.
    fps: frame rate of the clip, > 0; need not be that of the file.
    frames: number of frames, >= 1.
    size: (H, W) in pixels; the picture is scaled to cover it and centre-cropped.

  Raises:
    MediaError: as `probe`, or the video ends before the clip does (too_short, truncated),
      or its picture is damaged.
  """
  if start_s < 0 or fps <= 0 or frames < 1 or min(size) < 1:
    raise ValueError(f"invalid clip: start_s={start_s}, fps={fps}, frames={frames}, size={size}")
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
    stated = track.stated_s
    broken = stated is not None and until < stated - max(CUT_S, slack)
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
    fps: frame rate of the result, > 0; by default the file's average, so a variable frame rate
      becomes constant.
    size: (H, W) in pixels, covered and centre-cropped as in `read_clip`; by default the first
      frame's displayed size.
    seconds: stops after this time, > 0; by default at the end of the file.

  Raises:
    MediaError: as `probe`; also at the end if the picture ends long before its stated length.
  """
  count, end = 0, math.inf if seconds is None else seconds - _SLACK_S
  with _opened(path) as (_, track):
    rate = fps or track.fps or 25.0
    for frame, until, _ in _shown(track, 0.0, rate):
      size = size or colours.shown_size(frame, pixel_shape=_pixel_shape(track))
      pixels = None
      # A file of one frame may state no duration, yet that frame is shown.
      while count / rate < min(until - _SLACK_S, end) or not count:
        pixels = _pixels(track, frame, size) if pixels is None else pixels
        count += 1
        yield pixels
      if count / rate >= end:
        return
    stated = track.stated_s or 0.0
    if until < stated - max(CUT_S, 2 / rate):
      raise MediaError("truncated", path, f"the picture ends after {until:.2f} s of {stated:.2f} s")


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
  """As `write_video`, from an iterable of frames (H, W, 3); returns the number of frames.

  If `frames` raises, `path` is unchanged.

  Raises:
    UserError: if there are no frames.
    MediaError: if the file cannot be written.
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
  """Yields (container, video track); every FFmpeg error becomes a `MediaError`."""
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
    # The index may be broken or coarse, so that reading starts too late.
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
  """Yields (seconds after the first frame, frame) of packets, in presentation order."""
  import av

  interval, time_s, decoded = 1.0 / (track.fps or 25.0), 0.0, False
  try:
    for packet in packets:
      for frame in packet.decode():
        _check_pixels(track.path, frame.height, frame.width)
        if track.timed and frame.time is not None:
          time_s = frame.time - track.zero_s
        yield time_s, frame
        time_s, decoded = time_s + interval, True
  except av.FFmpegError as error:
    if decoded and not media.is_starved(error):
      raise MediaError("truncated", track.path, f"decoding breaks off ({error})") from error
    raise


def _shown(track: Track, start_s: float, fps: float) -> Iterator[tuple[Any, float, bool]]:
  """Yields (frame, time in seconds until which it is shown, whether it is the last)."""
  held, end_s = None, 0.0
  for time_s, frame in _decode(track, start_s):
    if held is not None:
      yield held, time_s, False
    held = frame
    length_s = float(frame.duration * frame.time_base) if frame.duration and track.timed else 0.0
    end_s = time_s + (length_s or 1.0 / (track.fps or fps))
  if held is None:
    raise MediaError("unreadable", track.path, "no frame of it could be decoded")
  yield held, end_s, True


def _pixels(track: Track, frame: Any, size: tuple[int, int]) -> np.ndarray:
  if frame.is_corrupt:
    raise MediaError("damaged", track.path, "the decoder had to conceal errors in its picture")
  primaries = track.stream.codec_context.color_primaries
  return colours.to_rgb(frame, size, pixel_shape=_pixel_shape(track), primaries=primaries)


def _pixel_shape(track: Track) -> float:
  """Pixel aspect ratio, width / height."""
  return float(track.stream.sample_aspect_ratio or 1)


def _check_pixels(path: str | os.PathLike[str], height: int, width: int) -> None:
  if height * width > MAX_PIXELS:
    raise MediaError("too_large", path, f"its frames have {width}x{height} pixels")
