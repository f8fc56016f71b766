"""What the packets of a track say without being decoded: its times, its rate and its end.

The end of a track is where its last packet ends. It is looked for at the place where the container
says the end is, which reads little; where it says nothing (a live recording, a raw stream,
fragments), or only guesses from the bit rate, all packets are read once. A length that the
container states is kept where the packets agree with it to a tenth of a second or two frames. Where
they go on for longer, they are believed; where they end more than half a second before, the file
has been cut off.

Times of the picture count from its first frame. Raw streams have none, and AVI keeps the order of
decoding only: pictures that are stored out of order are then counted at the stream's rate, in the
order in which they are shown, and always from the beginning.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

from mg_jax.data.media.containers import MediaError, opened, picture

_HEAD = 16  # packets by which a track is known
# Containers without an index of their own, or none that is exact: times after a seek are guesses.
_GUESSED = {
  "mp3", "aac", "ac3", "eac3", "dts", "amr", "h264", "hevc", "m4v", "mpegvideo", "vc1", "obu",
  "mpeg",
}  # fmt: skip
_EARLIER_S = (0.0, 10.0)  # before a time, where reading is tried
CUT_S = 0.5


class Track:
  """One stream of an open container, from which nothing was read yet.

  Attributes:
    path: the file.
    stream: of PyAV.
    timed: whether packets say when they are shown.
    zero_s: when the first one is, in the container's time.
    fps: average rate of a picture in frames per second, or None where it is not known.
  """

  def __init__(self, path: str | os.PathLike[str], container: Any, stream: Any):
    if stream.codec_context is None:
      raise MediaError("unreadable", path, "there is no decoder for it")
    self.path, self.stream, self._container = path, stream, container
    self._rest = container.demux(stream)
    self._head = list(itertools.islice(self._rest, _HEAD))
    # What comes before the first key packet of a recording cut in the middle cannot be decoded.
    head = itertools.dropwhile(lambda packet: not packet.is_keyframe, self._head)
    times = [packet.pts for packet in list(head) or self._head if packet.size]
    avi = container.format.name == "avi"
    reordered = avi and getattr(stream.codec_context, "has_b_frames", False)
    self.timed = bool(times) and None not in times and not reordered
    start = stream.start_time
    if self.timed and (avi or start is None):
      start = min(times)  # AVI counts the decoder's delay in these, and not in its start.
    self.zero_s = float((start or 0) * stream.time_base)
    rates = getattr(stream, "average_rate", None), getattr(stream, "guessed_rate", None)
    # The average of a raw stream is a default of FFmpeg's.
    self.fps = float(next(filter(None, rates if self.timed else rates[::-1]), 0)) or None

  @property
  def stated_s(self) -> float | None:
    """Its length as the container states it, or None; Matroska keeps it in a tag."""
    container, stream = self._container, self.stream
    name = container.format.name
    # Of a fragmented mp4 the length is that of the fragments read so far.
    if name in _GUESSED or (name.startswith("mov") and not stream.frames):
      return None
    if stream.duration:
      return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "").split(":")
    try:
      told = float(tag[0]) * 3600 + float(tag[1]) * 60 + float(tag[2])
    except (IndexError, ValueError):
      return None
    # A tag may have been copied from a longer file.
    return min(told, container.duration / 1e6) if container.duration else told

  def slack_s(self) -> float:
    """By how much a stated length may be rounded: a tenth of a second, or two frames."""
    return max(0.1, 2 / self.fps if self.fps else 0.0)

  def length_s(self) -> float:
    """Seconds from the first packet to the end of the last; reading cannot go on afterwards.

    Raises:
      MediaError: when the track ends long before the container says.
    """
    stated = self.stated_s
    found = round(self._end_s(), 6)
    if stated is None or found > stated + self.slack_s():
      return found
    if found < stated - max(CUT_S, self.slack_s()):
      raise MediaError("truncated", self.path, f"it ends after {found:.2f} s of {stated:.2f} s")
    return stated

  def packets(self) -> Iterator[Any]:
    """All packets, once."""
    return itertools.chain(self._head, self._rest)

  def seeks(self, start_s: float) -> Iterator[Iterator[Any]]:
    """Attempts to read from a key packet at or before `start_s`, which may come out late."""
    import av

    if not self.timed or self._container.format.name in _GUESSED:
      return
    for earlier_s in _EARLIER_S:
      place = self.zero_s + max(0.0, start_s - earlier_s)
      try:
        self._container.seek(int(place / self.stream.time_base), stream=self.stream)
        found = itertools.dropwhile(
          lambda packet: not packet.is_keyframe, self._container.demux(self.stream)
        )
      except av.FFmpegError:
        continue
      yield found

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
    """When the last of some packets ends."""
    import av

    base, end, count = self.stream.time_base, None, 0.0
    with contextlib.suppress(av.FFmpegError):  # of a file that was cut off
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
  """The track of a file's picture.

  Raises:
    MediaError: when it holds none, but for cover art.
  """
  stream = picture(container)
  if stream is None:
    raise MediaError("no_video", path, "the file holds no video stream")
  return Track(path, container, stream)
