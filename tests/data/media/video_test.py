import pickle

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media import video
from mg_jax.data.media.video import MediaError

SIZE = (32, 48)


def levels(clip):
  """The frame numbers told by the grey levels of `ramp`."""
  return (clip.mean((1, 2, 3)) / 10 - 1).round().astype(int).tolist()


def reason(call, *args, **kwargs):
  with pytest.raises(MediaError) as caught:
    call(*args, **kwargs)
  assert isinstance(caught.value, UserError)
  assert str(args[0]) in str(caught.value) and str(caught.value).count("\n") == 0
  return caught.value.reason


def read(path, *, start_s=0.0, fps=10, frames=1, size=SIZE):
  return video.read_clip(path, start_s=start_s, fps=fps, frames=frames, size=size)


def test_round_trip_keeps_colours_and_count(tmp_path):
  rng = np.random.default_rng(0)
  clip = np.broadcast_to(rng.integers(40, 220, (6, 1, 1, 3), dtype=np.uint8), (6, 32, 48, 3))
  video.write_video(tmp_path / "a.mp4", clip, fps=8)
  info = video.probe(tmp_path / "a.mp4")
  assert (info.fps, info.frames, info.height, info.width, info.rotation) == (8, 6, 32, 48, 0)
  assert info.duration_s == pytest.approx(0.75) and not info.has_audio
  back = read(tmp_path / "a.mp4", fps=8, frames=6)
  assert back.dtype == np.uint8 and back.shape == clip.shape
  assert np.abs(back.astype(int) - clip).max() <= 5
  assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_odd_sizes_are_padded_to_even(tmp_path, ramp):
  video.write_video(tmp_path / "a.mp4", np.stack(ramp(3, 33, 47)), fps=10)
  info = video.probe(tmp_path / "a.mp4")
  assert (info.height, info.width) == (34, 48)
  assert levels(read(tmp_path / "a.mp4", frames=3, size=(33, 47))) == [0, 1, 2]


@pytest.mark.parametrize("bad", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3))])
def test_write_refuses_what_is_no_video(tmp_path, bad):
  with pytest.raises(ValueError, match="uint8"):
    video.write_video(tmp_path / "a.mp4", bad, fps=8)


def test_write_failure_leaves_the_old_file(tmp_path, ramp, monkeypatch):
  path = tmp_path / "a.mp4"
  path.write_bytes(b"old")
  monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
  assert reason(video.write_video, path, np.stack(ramp(2)), fps=8) == "unwritable"
  assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
  "fps, start_s, expected",
  [(10, 0, [0, 1, 2, 3]), (5, 0, [0, 2, 4, 6]), (20, 0.3, [3, 3, 4, 4]), (10, 0.55, [5, 6, 7, 8])],
)
def test_sampling_takes_the_nearest_earlier_frame(tmp_path, encode, ramp, fps, start_s, expected):
  path = encode(tmp_path / "a.mp4", ramp(12))
  assert levels(read(path, start_s=start_s, fps=fps, frames=4)) == expected


def test_variable_frame_rate_follows_the_timestamps(tmp_path, encode, ramp):
  path = encode(tmp_path / "a.mp4", ramp(5), pts=[0, 0.1, 0.15, 0.8, 0.9])
  assert levels(read(path, fps=10, frames=10)) == [0, 1, 2, 2, 2, 2, 2, 2, 3, 4]


def test_first_frame_counts_as_time_zero(tmp_path, encode, ramp):
  path = encode(tmp_path / "a.mkv", ramp(4), pts=[2.0, 2.1, 2.2, 2.3])
  assert levels(read(path, frames=4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
  "name, codec", [("a.webm", "libvpx-vp9"), ("a.mkv", "ffv1"), ("a.mov", "libx264")]
)
def test_other_containers(tmp_path, encode, ramp, name, codec):
  path = encode(tmp_path / name, ramp(8), codec=codec)
  info = video.probe(path)
  assert info.duration_s == pytest.approx(0.8, abs=0.05) and info.fps == pytest.approx(10, rel=0.01)
  assert levels(read(path, start_s=0.4, frames=4)) == [4, 5, 6, 7]


def test_ten_bit(tmp_path, encode, ramp):
  path = encode(tmp_path / "a.mp4", ramp(3), pix_fmt="yuv420p10le")
  assert levels(read(path, frames=3)) == [0, 1, 2]


def test_rotation_is_applied(tmp_path, encode, rotate):
  frame = np.zeros((32, 64, 3), np.uint8)
  frame[:16, :32] = 200  # top left; a clockwise quarter turn puts it at the top right
  path = rotate(encode(tmp_path / "a.mp4", [frame] * 3))
  info = video.probe(path)
  assert (info.rotation, info.height, info.width) == (270, 64, 32)
  clip = read(path, size=(64, 32))[0]
  assert clip[4:28, 20:].mean() > 190 and clip[4:28, :12].mean() < 10 and clip[36:].mean() < 10


def test_wide_pixels_are_stretched(tmp_path, encode):
  frame = np.zeros((32, 32, 3), np.uint8)
  frame[:8] = 200
  path = encode(tmp_path / "a.mp4", [frame] * 2, sample_shape=(2, 1))
  clip = read(path, size=(32, 64))[0]
  assert clip[:6].mean() > 190 and clip[10:].mean() < 10


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (17, 31)])
def test_scaling_covers_and_cuts_the_centre(tmp_path, encode, size):
  frame = np.zeros((32, 64, 3), np.uint8)
  frame[:, 16:48] = 200  # the centre square
  path = encode(tmp_path / "a.mp4", [frame])
  clip = read(path, size=size)[0]
  assert clip.shape == (*size, 3)
  if size[0] == size[1]:
    assert clip[2:-2, 2:-2].min() > 190


def test_one_frame(tmp_path, encode, ramp):
  path = encode(tmp_path / "a.mp4", ramp(1))
  assert levels(read(path)) == [0]
  assert reason(read, path, fps=1, frames=2) == "too_short"


def test_broken_files_tell_their_reason(tmp_path, audio_only):
  (tmp_path / "zero.mp4").write_bytes(b"")
  (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
  audio_only(tmp_path / "sound.mp4")
  for name, expected in (
    ("zero.mp4", "empty"),
    ("noise.mp4", "unreadable"),
    ("sound.mp4", "no_video"),
    ("nothing.mp4", "missing"),
    (".", "unreadable"),
  ):
    assert reason(video.probe, tmp_path / name) == expected
    assert reason(read, tmp_path / name) == expected


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_file_fails_as_a_whole_or_at_its_end(tmp_path, encode, share):
  rng = np.random.default_rng(0)
  frames = list(rng.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8))
  plain = encode(tmp_path / "plain.mp4", frames)
  plain.write_bytes(plain.read_bytes()[: int(plain.stat().st_size * share)])
  assert reason(read, plain, frames=20) == "unreadable"  # its index stands at the end
  video.write_video(tmp_path / "fast.mp4", np.stack(frames), fps=10)
  fast = tmp_path / "fast.mp4"
  fast.write_bytes(fast.read_bytes()[: int(fast.stat().st_size * share)])
  assert reason(read, fast, frames=20) in ("truncated", "unreadable")


def test_flipped_bits_are_noticed(tmp_path):
  """The decoder hides most damage with made-up pixels; reading must not."""
  rng = np.random.default_rng(0)
  blocks = rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
  video.write_video(tmp_path / "good.mp4", blocks, fps=10)
  good = (tmp_path / "good.mp4").read_bytes()
  reasons = []
  for _ in range(20):
    data = bytearray(good)
    for at in rng.integers(good.index(b"mdat") + 4, len(data), 5):
      data[at] ^= 1 << int(rng.integers(8))
    (tmp_path / "bad.mp4").write_bytes(data)
    try:
      read(tmp_path / "bad.mp4", frames=10, size=(64, 64))
    except MediaError as error:
      reasons.append(error.reason)
  # Some flips are harmless: the encoder's comment fills part of so small a file.
  assert reasons.count("damaged") >= 8, reasons


@pytest.mark.parametrize("side, space", [(720, 1), (360, 5)])
def test_untagged_colours_are_read_by_the_convention_of_their_size(tmp_path, encode, side, space):
  frame = np.full((side, side, 3), (200, 40, 60), np.uint8)
  path = encode(tmp_path / "a.mp4", [frame], space=space)
  colour = read(path, size=(16, 16))[0].mean((0, 1))
  np.testing.assert_allclose(colour, [200, 40, 60], atol=4)


def test_too_many_pixels(tmp_path, encode, ramp, monkeypatch):
  path = encode(tmp_path / "a.mp4", ramp(1))
  monkeypatch.setattr(video, "MAX_PIXELS", 32 * 48 - 1)
  assert reason(video.probe, path) == "too_large"
  assert reason(read, path) == "too_large"


def test_media_error_survives_a_process_boundary():
  error = pickle.loads(pickle.dumps(MediaError("empty", "a.mp4", "it holds no bytes")))
  assert (error.reason, error.path) == ("empty", "a.mp4") and "a.mp4: it holds" in str(error)


def test_real_clips(media):
  paths = sorted((media / "video").glob("*.mp4"))
  assert paths
  for path in paths:
    info = video.probe(path)
    clip = read(path, start_s=info.duration_s - 1.0, fps=8, frames=8, size=(32, 48))
    assert clip.shape == (8, 32, 48, 3) and clip.std() > 1, path


@pytest.mark.parametrize("fps, seconds, expected", [
  (None, None, range(12)), (5, None, range(0, 12, 2)), (20, 0.4, [0, 0, 1, 1, 2, 2, 3, 3]),
  (None, 0.3, range(3)), (None, 0.01, [0]),
])  # fmt: skip
def test_frames_come_one_by_one(tmp_path, encode, ramp, fps, seconds, expected):
  path = encode(tmp_path / "a.mp4", ramp(12))
  frames = list(video.read_frames(path, fps=fps, seconds=seconds))
  assert levels(np.stack(frames)) == list(expected)
  assert frames[0].shape == (32, 48, 3) and frames[0].dtype == np.uint8


def test_a_variable_rate_is_read_at_the_average_or_as_asked(tmp_path, encode, ramp):
  path = encode(tmp_path / "a.mp4", ramp(5), pts=[0, 0.1, 0.15, 0.8, 0.9])
  frames = np.stack(list(video.read_frames(path, fps=10)))
  assert levels(frames)[:10] == [0, 1, 2, 2, 2, 2, 2, 2, 3, 4]


def test_frames_have_the_size_they_are_shown_in(tmp_path, encode, rotate, ramp):
  turned = rotate(encode(tmp_path / "a.mp4", ramp(2)))
  assert next(video.read_frames(turned)).shape == (48, 32, 3)
  wide = encode(tmp_path / "b.mp4", ramp(2), sample_shape=(2, 1))
  assert next(video.read_frames(wide)).shape == (32, 96, 3)
  assert next(video.read_frames(wide, size=(17, 31))).shape == (17, 31, 3)


@pytest.mark.parametrize("name, codec, pix_fmt", [
  ("a.mp4", "libx264", "yuv420p10le"), ("a.mkv", "ffv1", "gray"), ("a.mkv", "ffv1", "gray10le"),
  ("a.mkv", "ffv1", "bgra"), ("a.webm", "libvpx-vp9", "yuva420p"),
])  # fmt: skip
def test_other_pictures_become_eight_bit_rgb(tmp_path, encode, ramp, name, codec, pix_fmt):
  path = encode(tmp_path / name, ramp(4), codec=codec, pix_fmt=pix_fmt)
  frames = np.stack(list(video.read_frames(path, fps=10)))
  assert frames.shape[1:] == (32, 48, 3) and frames.dtype == np.uint8
  assert levels(frames) == [0, 1, 2, 3]


def test_the_frames_of_one_picture(tmp_path, encode, ramp):
  assert len(list(video.read_frames(encode(tmp_path / "a.mp4", ramp(1))))) == 1


def test_a_stream_of_a_cut_file_ends_in_an_error(tmp_path):
  rng = np.random.default_rng(0)
  path = tmp_path / "a.mp4"
  video.write_video(path, rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8), fps=10)
  path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.5)])
  with pytest.raises(MediaError) as caught:
    list(video.read_frames(path))
  assert caught.value.reason in ("truncated", "damaged")
  (tmp_path / "b.mp4").write_bytes(b"")
  assert reason(lambda p: next(video.read_frames(p)), tmp_path / "b.mp4") == "empty"


def test_frames_are_written_as_they_come(tmp_path, ramp):
  path, made = tmp_path / "a.mp4", []

  def frames():
    for frame in ramp(9, 33, 47):
      made.append(frame)
      yield frame

  assert video.write_frames(path, frames(), fps=10) == 9 == len(made)
  together = tmp_path / "b.mp4"
  video.write_video(together, np.stack(ramp(9, 33, 47)), fps=10)
  assert path.read_bytes() == together.read_bytes()


def test_a_stream_that_fails_or_is_empty_leaves_nothing(tmp_path, ramp):
  path = tmp_path / "a.mp4"
  path.write_bytes(b"old")

  def failing():
    yield from ramp(5)
    raise UserError("no more")

  with pytest.raises(UserError, match="no more"):
    video.write_frames(path, failing(), fps=10)
  with pytest.raises(UserError, match="no frames to write"):
    video.write_frames(path, [], fps=10)
  assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
