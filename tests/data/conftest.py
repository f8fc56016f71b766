"""Small synthetic media files, each with one property that a decoder can get wrong."""

from fractions import Fraction

import av
import numpy as np
import pytest


def _grey(level, height, width):
  return np.full((height, width, 3), level, np.uint8)


@pytest.fixture
def encode():
  """encode(path, frames, pts=None, ...): writes RGB frames with explicit timestamps."""

  def run(
    path,
    frames,
    *,
    codec="libx264",
    fps=10,
    pts=None,
    pix_fmt="yuv420p",
    sample_shape=None,
    space=None,
  ):
    with av.open(str(path), "w") as container:
      stream = container.add_stream(codec, rate=fps)
      stream.height, stream.width = frames[0].shape[:2]
      stream.pix_fmt = pix_fmt
      stream.codec_context.gop_size = 4
      stream.codec_context.time_base = Fraction(1, 1000)
      if sample_shape:
        stream.codec_context.sample_aspect_ratio = Fraction(*sample_shape)
      for k, rgb in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
          format=pix_fmt, dst_colorspace=space
        )
        frame.pts = int(pts[k] * 1000) if pts else k * 1000 // fps
        frame.time_base = Fraction(1, 1000)
        container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
    return path

  return run


@pytest.fixture
def movie():
  """movie(path, ...): a grey ramp, beside a tone or cover art; returns the path.

  Args:
    container: format, by default that of the ending. options: of the muxer. codec, coding, pix_fmt,
    fps, seconds: of the picture, which codec None leaves out. sound: codec of the tone.
    cover: whether a PNG is attached.
  """

  def run(
    path, *, container=None, options=None, codec="libx264", coding=None, pix_fmt="yuv420p", fps=10,
    seconds=2.0, sound=None, cover=False,
  ):  # fmt: skip
    rate, count = 48_000, round(seconds * fps)
    with av.open(f"file:{path}", "w", format=container, options=options or {}) as file:
      streams = []
      if codec:
        shown = file.add_stream(codec, rate=fps, options=coding or {})
        shown.height, shown.width, shown.pix_fmt = 32, 48, pix_fmt
        streams.append((shown, [
          (av.VideoFrame.from_ndarray(_grey(10 * (k % 20 + 1), 32, 48), format="rgb24")
           .reformat(format=pix_fmt), Fraction(k) / Fraction(fps)) for k in range(count)
        ]))  # fmt: skip
      if sound:
        heard = file.add_stream(sound, rate=rate, layout="mono")
        heard.bit_rate = 96_000
        wave = (0.5 * np.sin(np.arange(round(seconds * rate)) / 20)).astype(np.float32)
        blocks = [(wave[None, k : k + 960], Fraction(k, rate)) for k in range(0, len(wave), 960)]
        frames = []
        for block, time in blocks:
          frame = av.AudioFrame.from_ndarray(block, format="flt", layout="mono")
          frame.sample_rate = rate
          frames.append((frame, time))
        streams.append((heard, frames))
      if cover:
        art = file.add_stream("png", rate=1)
        art.height = art.width = 16
        art.pix_fmt, art.disposition = "rgb24", av.stream.Disposition.attached_pic
        streams.append((art, [(av.VideoFrame.from_ndarray(_grey(99, 16, 16)), Fraction(0))]))
      packets = []
      for stream, frames in streams:
        for frame, time in frames:
          base = Fraction(1, rate) if frame.__class__ is av.AudioFrame else 1 / Fraction(fps)
          frame.time_base, frame.pts = base, round(time / base)
          packets += stream.encode(frame)
        packets += stream.encode(None)
      for packet in sorted(packets, key=lambda p: (p.dts or 0) * p.time_base):
        file.mux(packet)
    return path

  return run


@pytest.fixture
def ramp():
  """ramp(count): grey frames whose level tells their number, 10 * (k + 1)."""

  def run(count, height=32, width=48):
    return [_grey(10 * (k + 1), height, width) for k in range(count)]

  return run


@pytest.fixture
def audio_only():
  """audio_only(path): a tenth of a second of silence, no picture."""

  def run(path):
    with av.open(str(path), "w") as container:
      stream = container.add_stream("aac", rate=16000, layout="mono")
      frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
      frame.sample_rate, frame.pts = 16000, 0
      container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
    return path

  return run


@pytest.fixture
def rotate():
  """rotate(path): rewrites the display matrix of an mp4 to a quarter turn clockwise."""

  def run(path):
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one, w = 1 << 16, 1 << 30
    matrix = np.array([0, one, 0, -one, 0, 0, 0, 0, w], ">i4")
    data[at : at + 36] = matrix.tobytes()
    path.write_bytes(bytes(data))
    return path

  return run
