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
