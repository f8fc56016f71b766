"""What the numbers of a picture mean: matrix, range, primaries, transfer function, fields."""

import av
import numpy as np
import pytest

from mg_jax.data.media import colours, muxing, video
from mg_jax.data.media.containers import MediaError

COLOUR = (200, 40, 60)
SIZE = (64, 64)


def write(
  path, rgb=COLOUR, *, matrix=2, primaries=2, transfer=2, full=False, pix_fmt="yuv444p10le",
  size=SIZE, coding=None, frames=3,
):  # fmt: skip
  """A picture of one colour under tags of H.273; the samples are those of its matrix and range."""
  if np.ndim(rgb) == 1:
    rgb = np.full((*size, 3), rgb, np.uint8)
  with av.open(str(path), "w") as file:
    stream = file.add_stream("libx264", rate=10, options={"crf": "1", **(coding or {})})
    stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
    codec = stream.codec_context
    codec.colorspace, codec.color_primaries, codec.color_trc = matrix, primaries, transfer
    codec.color_range = 2 if full else 1
    scaler = {6: 5, 8: 5, 10: 5, 14: 5}.get(matrix, matrix)
    for _ in range(frames):
      frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format=pix_fmt, dst_colorspace=scaler, dst_color_range=codec.color_range
      )
      file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
  return path


def colour(path, **kwargs):
  frames = list(video.read_frames(path, **kwargs))
  return frames[0].astype(float).mean((0, 1))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p10le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_matrix_and_range_are_those_of_the_tags(tmp_path, matrix, full, pix_fmt):
  path = write(tmp_path / "a.mp4", matrix=matrix, full=full, pix_fmt=pix_fmt)
  np.testing.assert_allclose(colour(path), COLOUR, atol=4)


@pytest.mark.parametrize("transfer", [1, 4, 5, 6, 7, 11, 13, 14, 15])
def test_transfer_functions_of_standard_range_are_left_as_they_are(tmp_path, transfer):
  path = write(tmp_path / "a.mp4", matrix=1, primaries=1, transfer=transfer)
  np.testing.assert_allclose(colour(path), COLOUR, atol=4)


@pytest.mark.parametrize("primaries", [1, 4, 5, 6, 7, 22])
def test_primaries_of_television_are_left_as_they_are(tmp_path, primaries):
  path = write(tmp_path / "a.mp4", matrix=1, primaries=primaries, transfer=1)
  np.testing.assert_allclose(colour(path), COLOUR, atol=4)


def _to_xyz(*chromaticities):
  """XYZ of the linear RGB of primaries (x, y) with the white of D65."""
  xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in chromaticities]).T
  white = np.array([0.3127 / 0.3290, 1, 0.3583 / 0.3290])
  return xyz * np.linalg.solve(xyz, white)


GAMUTS = {
  1: _to_xyz((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
  9: _to_xyz((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
  12: _to_xyz((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}


@pytest.mark.parametrize("rgb", [(150, 120, 100), (200, 40, 60), (128,) * 3, (250,) * 3])
@pytest.mark.parametrize("primaries", [9, 12])
def test_wide_primaries_become_those_of_bt709(tmp_path, primaries, rgb):
  path = write(tmp_path / "a.mp4", rgb, matrix=9, primaries=primaries, transfer=14)
  light = np.linalg.solve(GAMUTS[1], GAMUTS[primaries] @ (np.array(rgb) / 255) ** 2.4)
  np.testing.assert_allclose(colour(path), 255 * np.clip(light, 0, 1) ** (1 / 2.4), atol=4)


@pytest.mark.parametrize("tags, reason", [
  ({"matrix": 9, "primaries": 9, "transfer": 16}, "hdr"),
  ({"matrix": 9, "primaries": 9, "transfer": 18}, "hdr"),
  ({"transfer": 8}, "colours"), ({"transfer": 9}, "colours"), ({"transfer": 17}, "colours"),
  ({"primaries": 10}, "colours"), ({"primaries": 11}, "colours"),
  ({"matrix": 8}, "colours"), ({"matrix": 14}, "colours"),
])  # fmt: skip
def test_other_colours_are_refused_when_probed_and_when_read(tmp_path, tags, reason):
  path = write(tmp_path / "a.mp4", **tags)
  for call in (
    video.probe,
    lambda p: next(video.read_frames(p)),
    lambda p: video.read_clip(p, start_s=0, fps=10, frames=1, size=SIZE),
  ):
    with pytest.raises(MediaError) as caught:
      call(path)
    assert caught.value.reason == reason and "first" in str(caught.value)


def test_a_picture_of_high_range_may_get_another_sound(tmp_path):
  path = write(tmp_path / "a.mp4", matrix=9, primaries=9, transfer=16)
  muxing.add_sound(path, np.zeros(9, np.float32), out=tmp_path / "b.mp4")
  with av.open(str(tmp_path / "b.mp4")) as file:
    assert file.streams.video[0].codec_context.color_trc == 16 and file.streams.audio


def _fields(count=8):
  """A bar that moves 4 pixels a field: the rows of a frame show it at two places."""
  frames = []
  for k in range(count):
    rgb = np.full((64, 96, 3), 40, np.uint8)
    for parity in (0, 1):
      # The encoder notes that odd rows come first.
      rgb[1 - parity :: 2, 8 + 8 * k + 4 * parity :][:, :16] = 200
    frames.append(rgb)
  return frames


def _combing(clip):
  """Mean step between neighbouring rows."""
  return np.abs(np.diff(clip.astype(int), axis=-3)).mean()


def _interlaced(path, pix_fmt="yuv420p"):
  with av.open(str(path), "w") as file:
    stream = file.add_stream(
      "libx264", rate=10, options={"crf": "1", "g": "4", "x264-params": "bff=1"}
    )
    stream.height, stream.width, stream.pix_fmt = 64, 96, pix_fmt
    for rgb in _fields():
      file.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
    file.mux(stream.encode(None))
  return path


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le"])
def test_interlaced_frames_are_made_whole(tmp_path, pix_fmt):
  path = _interlaced(tmp_path / "a.mp4", pix_fmt)
  with av.open(str(path)) as file:
    raw = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
  assert len(raw) == 8 and _combing(raw) > 8
  frames = np.stack(list(video.read_frames(path)))
  assert frames.shape == raw.shape
  assert _combing(frames[1:-1]) < 0.25 * _combing(raw[1:-1])
  # Rows of the first field stay where they are, so frames keep their times.
  assert np.abs(frames[1:-1, 1::2].astype(int) - raw[1:-1, 1::2]).mean() < 3
  part = video.read_clip(path, start_s=0.5, fps=10, frames=2, size=(64, 96))
  assert np.abs(part.astype(int) - frames[5:7]).mean() < 3


def test_progressive_frames_pass_as_they_are():
  class Frame:
    interlaced_frame = False

  frames = [(k / 10, Frame()) for k in range(3)]
  assert list(colours.progressive(iter(frames))) == frames
