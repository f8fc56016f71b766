"""Times, frame rate and length of a track from its packets, without decoding them.

A track ends with its last packet. That packet is looked for by seeking to the stated end, which
reads little; if no length is stated (a live recording, a raw stream, fragments), or it is only
guessed from the bit rate, all packets are read once. A stated length is kept if the packets agree
with it to a tenth of a second or two frames. If the packets last longer, their length is used; if
they end more than half a second earlier, the file is truncated.

Times of the picture count from its first frame. Raw streams have none, and AVI keeps decoding order
only: reordered frames are then counted at the stream's frame rate, in presentation order, and
always from the beginning.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

from mg_jax.data.media.containers import MediaError, opened, picture

_HEAD = 16  # packets read to determine the properties of a track
# Containers without an exact index: times after a seek are guesses.
_GUESSED = {
  "mp3", "aac", "ac3", "eac3", "dts", "amr", "h264", "hevc", "m4v", "mpegvideo", "vc1", "obu",
  "mpeg",
}  # fmt: skip
_EARLIER_S = (0.0, 10.0)  # how long before a time to seek, in order of attempts
CUT_S = 0.5


class Track:
  """One stream of an open container from which nothing has been read yet.

  Attributes:
    path: the file.
    stream: the PyAV stream.
    timed: whether packets have presentation times.
    zero_s: presentation time of the first packet, on the container's clock.
    fps: average frame rate, or None if unknown.
  """

  def __init__(self, path: str | os.PathLike[str], container: Any, stream: Any):
    if stream.codec_context is None:
      raise MediaError("unreadable", path, "there is no decoder for it")
    self.path, self.stream, self._container = path, stream, container
    self._rest = container.demux(stream)
    self._head = list(itertools.islice(self._rest, _HEAD))
    # Packets before the first key packet of a recording cut in the middle cannot be decoded.
    head = itertools.dropwhile(lambda packet: not packet.is_keyframe, self._head)
    times = [packet.pts for packet in list(head) or self._head if packet.size]
    avi = container.format.name == "avi"
    reordered = avi and getattr(stream.codec_context, "has_b_frames", False)
    self.timed = bool(times) and None not in times and not reordered
    start = stream.start_time
    if self.timed and (avi or start is None):
      start = min(times)  # AVI includes the decoder's delay in these, not in its start.
    self.zero_s = float((start or 0) * stream.time_base)
    rates = getattr(stream, "average_rate", None), getattr(stream, "guessed_rate", None)
    # The average rate of a raw stream is merely FFmpeg's default.
    self.fps = float(next(filter(None, rates if self.timed else rates[::-1]), 0)) or None

  @property
  def stated_s(self) -> float | None:
    """The length that the container states, or None; Matroska keeps it in a tag."""
    container, stream = self._container, self.stream
    name = container.format.name
    # A fragmented mp4 states the length of the fragments read so far.
    if name in _GUESSED or (name.startswith("mov") and not stream.frames):
      return None
    if stream.duration:
      return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "").split(":")
    try:
      stated = float(tag[0]) * 3600 + float(tag[1]) * 60 + float(tag[2])
    except (IndexError, ValueError):
      return None
    # A tag may have been copied from a longer file.
    return min(stated, container.duration / 1e6) if container.duration else stated

  def slack_s(self) -> float:
    """Tolerance of a stated length: a tenth of a second, or two frames."""
    return max(0.1, 2 / self.fps if self.fps else 0.0)

  def length_s(self) -> float:
    """Seconds from the first packet to the end of the last; nothing can be read afterwards.

    Raises:
      MediaError: if the track ends long before its stated length.
    """
    stated = self.stated_s
    length = round(self._end_s(), 6)
    if stated is None or length > stated + self.slack_s():
      return length
    if length < stated - max(CUT_S, self.slack_s()):
      raise MediaError("truncated", self.path, f"it ends after {length:.2f} s of {stated:.2f} s")
    return stated

  def packets(self) -> Iterator[Any]:
    """All packets, once."""
    return itertools.chain(self._head, self._rest)

  def seeks(self, start_s: float) -> Iterator[Iterator[Any]]:
    """Attempts to read from a key packet at or before `start_s`; an attempt may start too late."""
    import av

    if not self.timed or self._container.format.name in _GUESSED:
      return
    for earlier_s in _EARLIER_S:
      place = self.zero_s + max(0.0, start_s - earlier_s)
      try:
        self._container.seek(int(place / self.stream.time_base), stream=self.stream)
        packets = itertools.dropwhile(
          lambda packet: not packet.is_keyframe, self._container.demux(self.stream)
        )
      except av.FFmpegError:
        continue
      yield packets

  def _end_s(self) -> float:
    import av

    name, stream = self._container.format.name, self.stream
    hint = self.stated_s or (self._container.duration or 0) / 1e6
    dated = self.timed or (self._head and self._head[0].dts is not None)
    if hint and dated and name not in _GUESSED:
      try:
        self._container.seek(int((self.zero_s + hint) / stream.time_base), stream=stream)
        end = self._last_s(self._container.demux(stream))
      except av.FFmpegError:
        end = None
      if end is not None:
        return end
    with opened(self.path) as again:
      return self._last_s(again.demux(again.streams[stream.index])) or 0.0

  def _last_s(self, packets: Iterator[Any]) -> float | None:
    """End of the last packet."""
    import av

    base, end, count = self.stream.time_base, None, 0.0
    with contextlib.suppress(av.FFmpegError):  # of a truncated file
      for packet in packets:
        if not packet.size:
          continue  # marks the end
        duration = float((packet.duration or 0) * base) or (1 / self.fps if self.fps else 0.0)
        count += duration
        time = packet.pts if self.timed else packet.dts
        if time is not None:
          end = max(end or 0.0, float(time * base) - self.zero_s + duration)
    return end if end is not None else count or None


def picture_track(path: str | os.PathLike[str], container: Any) -> Track:
  """The video track of a file.

  Raises:
    MediaError: if it has none other than cover art.
  """
  stream = picture(container)
  if stream is None:
    raise MediaError("no_video", path, "the file has no video stream")
  return Track(path, container, stream)
