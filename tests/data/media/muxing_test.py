"""Muxing: the picture is copied bit by bit, sound stays in its place, nothing is half written."""

import os

import av
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media import audio, muxing, video
from mg_jax.data.media.containers import MediaError


def packets(path):
  """Bytes and times in seconds of the picture's packets."""
  with av.open(str(path)) as file:
    stream = file.streams.video[0]
    found = [p for p in file.demux(stream) if p.size]
    return [(bytes(p), p.pts * p.time_base, p.dts * p.time_base, p.is_keyframe) for p in found]


def clicks(seconds, *times, rate=48_000):
  wave = np.zeros(round(seconds * rate), np.float32)
  burst = np.random.default_rng(0).uniform(-0.8, 0.8, rate // 100)
  for time in times:
    wave[round(time * rate) :][: len(burst)] = burst
  return wave


def loud_from(wave, rate=48_000):
  return int(np.argmax(np.abs(wave) > 0.2)) / rate


@pytest.mark.parametrize("codec", ["aac", "opus"])
def test_a_clip_keeps_its_picture_and_the_times_of_its_sound(tmp_path, codec):
  frames = np.random.default_rng(0).integers(0, 255, (12, 32, 48, 3), np.uint8)
  wave = clicks(1.5, 0.4, 1.1)
  muxing.write_clip(tmp_path / "a.mp4", frames, wave, fps=8, codec=codec)
  video.write_video(tmp_path / "silent.mp4", frames, fps=8)
  assert packets(tmp_path / "a.mp4") == packets(tmp_path / "silent.mp4")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "silent.mp4"]
  back = audio.read_audio(tmp_path / "a.mp4")
  assert audio.probe(tmp_path / "a.mp4").duration_s == pytest.approx(1.5, abs=0.001)
  assert video.probe(tmp_path / "a.mp4").has_audio
  for time in (0.4, 1.1):
    first = round((time - 0.1) * 48_000)
    assert loud_from(back[first:]) + time - 0.1 == pytest.approx(time, abs=0.005)
  lag = np.argmax(np.correlate(back[18_000:22_000], wave[19_000:20_000], "valid")) - 1000
  assert abs(lag) <= 2  # of 48 samples a millisecond


def test_another_sound_leaves_every_packet_as_it_was(tmp_path, encode, rotate, ramp):
  path = rotate(encode(tmp_path / "a.mp4", ramp(9), pts=[0, 1, 2, 3, 3.5, 4, 5, 6, 7]))
  was, turned = packets(path), video.probe(path)
  muxing.add_sound(path, clicks(3.0, 1.0), out=tmp_path / "b.mp4")
  assert packets(tmp_path / "b.mp4") == was == packets(path)
  again = video.probe(tmp_path / "b.mp4")
  assert (again.rotation, again.height, again.width) == (270, turned.height, turned.width)
  # And once more in place, with the old sound gone.
  muxing.add_sound(tmp_path / "b.mp4", clicks(9.0, 2.0), codec="opus")
  assert packets(tmp_path / "b.mp4") == was
  back = audio.read_audio(tmp_path / "b.mp4")
  assert loud_from(back) == pytest.approx(2.0, abs=0.005)


def test_frames_with_references_ahead_keep_their_order_and_the_sound_its_place(tmp_path):
  path = tmp_path / "b_frames.mp4"
  frames = np.random.default_rng(1).integers(0, 255, (20, 32, 32, 3), np.uint8)
  video.write_video(path, frames, fps=10)
  was = packets(path)
  assert any(pts != dts for _, pts, dts, _ in was)
  muxing.add_sound(path, clicks(2.0, 0.5))
  assert packets(path) == was
  assert loud_from(audio.read_audio(path)) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("seconds", [0.3, 5.0])
def test_sound_lasts_as_long_as_the_picture(tmp_path, encode, ramp, seconds):
  path = encode(tmp_path / "a.mp4", ramp(20))
  muxing.add_sound(path, np.full(round(seconds * 48_000), 0.5, np.float32))
  back = audio.read_audio(path)
  assert len(back) / 48_000 == pytest.approx(2.0, abs=0.025)
  heard = np.abs(back) > 0.1
  assert np.flatnonzero(heard)[-1] / 48_000 == pytest.approx(min(seconds, 2.0), abs=0.03)


def test_other_rates_and_containers_are_taken(tmp_path, encode, ramp):
  path = encode(tmp_path / "a.mkv", ramp(10))
  muxing.add_sound(path, clicks(1.0, 0.5, rate=16_000), rate=16_000, out=tmp_path / "a.mp4")
  assert audio.probe(tmp_path / "a.mp4").rate == 16_000
  assert loud_from(audio.read_audio(tmp_path / "a.mp4")) == pytest.approx(0.5, abs=0.005)
  with pytest.raises(UserError, match="end it in .mp4"):
    muxing.add_sound(path, clicks(1.0))


def _fails(tmp_path, call, *, reason=None, match=None, keep=()):
  kept = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
  with pytest.raises(MediaError if reason else UserError, match=match) as caught:
    call()
  if reason:
    assert caught.value.reason == reason
  assert str(caught.value).count("\n") == 0
  assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == kept


def test_damaged_files_are_told_and_left_alone(tmp_path, encode, ramp):
  good = encode(tmp_path / "good.mp4", ramp(20))
  data = good.read_bytes()
  (tmp_path / "empty.mp4").write_bytes(b"")
  (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
  (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
  audio.write_wav(tmp_path / "sound.wav", clicks(1.0))
  out, wave = tmp_path / "out.mp4", clicks(1.0)
  for name, reason in (
    ("missing.mp4", "missing"),
    ("empty.mp4", "empty"),
    ("noise.mp4", "unreadable"),
    ("cut.mp4", "unreadable"),
    ("sound.wav", "no_video"),
  ):
    _fails(tmp_path, lambda n=name: muxing.add_sound(tmp_path / n, wave, out=out), reason=reason)


@pytest.mark.parametrize("after", [0, 700])
def test_a_picture_that_breaks_off_is_told(tmp_path, after):
  path = tmp_path / "cut.mp4"
  # With its index in front a file can be cut and still be opened.
  frames = np.random.default_rng(1).integers(0, 255, (30, 64, 64, 3), np.uint8)
  video.write_video(path, frames, fps=10)
  with av.open(str(path)) as file:
    packet = [p for p in file.demux(file.streams.video[0]) if p.size][20]
  # Between two frames, where nothing but the count is wrong, or within one.
  path.write_bytes(path.read_bytes()[: packet.pos + after])
  with pytest.raises(MediaError) as caught:
    muxing.add_sound(path, clicks(1.0), out=tmp_path / "out.mp4")
  assert caught.value.reason in ("truncated", "damaged")
  assert [p.name for p in tmp_path.iterdir()] == ["cut.mp4"]


def test_a_picture_that_mp4_cannot_hold_is_told(tmp_path, encode, ramp):
  path = encode(tmp_path / "a.mkv", ramp(3), codec="libvpx")
  out = tmp_path / "a.mp4"
  _fails(tmp_path, lambda: muxing.add_sound(path, clicks(1.0), out=out), match="cannot hold")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path, encode, ramp):
  path, locked = encode(tmp_path / "a.mp4", ramp(3)), tmp_path / "locked"
  locked.mkdir(mode=0o500)
  call = lambda: muxing.add_sound(path, clicks(1.0), out=locked / "a.mp4")  # noqa: E731
  _fails(tmp_path, call, reason="unwritable")


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path, encode, ramp):
  path = encode(tmp_path / "a.mp4", ramp(3))
  (tmp_path / "file").write_text("x")
  out = tmp_path / "file" / "a.mp4"
  _fails(tmp_path, lambda: muxing.add_sound(path, clicks(1.0), out=out), reason="unwritable")


@pytest.mark.parametrize(
  "wrong, match",
  [
    (np.zeros(100, np.int16), "int16"),
    (np.zeros((2, 100), np.float32), "mix it down"),
    (np.array([0.0, np.nan]), "finite"),
  ],
)
def test_waves_of_another_kind_are_refused(tmp_path, wrong, match):
  frames = np.zeros((2, 16, 16, 3), np.uint8)
  _fails(tmp_path, lambda: muxing.write_clip(tmp_path / "a.mp4", frames, wrong, fps=8), match=match)


def test_unknown_codecs_and_rates_are_refused(tmp_path):
  frames, wave, path = np.zeros((2, 16, 16, 3), np.uint8), clicks(0.2), tmp_path / "a.mp4"
  with pytest.raises(UserError, match="mp3"):
    muxing.write_clip(path, frames, wave, fps=8, codec="mp3")
  with pytest.raises(UserError, match="opus"):
    muxing.write_clip(path, frames, wave, fps=8, codec="opus", rate=44_100)


def test_real_clips_get_another_sound(tmp_path, media):
  for path in sorted((media / "video").glob("*.mp4"))[:3]:
    out = tmp_path / path.name
    muxing.add_sound(path, clicks(1.0, 0.5), out=out)
    assert packets(out) == packets(path)
    assert video.probe(out).rotation == video.probe(path).rotation
    assert loud_from(audio.read_audio(out)) == pytest.approx(0.5, abs=0.005)
