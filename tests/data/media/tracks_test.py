"""Lengths and times that containers do not state, state wrongly, or lack; cover art is no video."""

import time
from fractions import Fraction

import av
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media import audio, muxing, tracks, video
from mg_jax.data.media.containers import MediaError

# ending, then options of `movie`: containers that state no length, or only guess it.
UNSTATED = {
  "live.webm": {
    "codec": "libvpx-vp9", "sound": "libopus", "container": "webm", "options": {"live": "1"},
  },
  "fragmented.mp4": {
    "sound": "aac", "coding": {"g": "5"}, "options": {"movflags": "frag_keyframe+empty_moov"},
  },
  "dash.mp4": {"sound": "aac", "coding": {"g": "5"}, "options": {"movflags": "dash+empty_moov"}},
  "a.ts": {"sound": "aac"},
  "a.flv": {"sound": "aac"},
  "a.mpg": {"codec": "mpeg2video", "coding": {"bf": "2"}, "fps": 25, "sound": "mp2"},
  "a.avi": {"sound": "mp3"},
  "raw.h264": {},
  "raw.m2v": {"codec": "mpeg2video", "coding": {"bf": "2"}, "fps": 25, "container": "mpeg2video"},
}  # fmt: skip


def shown(frames):
  return (np.asarray(frames).mean((1, 2, 3)) / 10 - 1).round().astype(int).tolist()


@pytest.mark.parametrize("name", UNSTATED)
def test_the_end_is_found_where_no_length_is_stated(tmp_path, movie, name):
  path = movie(tmp_path / name, **UNSTATED[name])
  info = video.probe(path)
  assert info.duration_s == pytest.approx(2.0, abs=1e-3)
  assert info.fps == UNSTATED[name].get("fps", 10)
  if info.has_audio:
    assert audio.probe(path).duration_s == pytest.approx(2.0, abs=0.26)  # AVI counts in frames
    assert len(audio.read_audio(path)) / 48_000 == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize("name", UNSTATED)
def test_frames_come_in_the_order_in_which_they_show(tmp_path, movie, name):
  path = movie(tmp_path / name, **UNSTATED[name])
  fps = UNSTATED[name].get("fps", 10)
  whole = shown(list(video.read_frames(path, fps=fps)))
  assert len(whole) == 2 * fps
  # MPEG-2 at so low a rate repeats some; nothing may go back or be held for long.
  want = [k % 20 for k in range(2 * fps)]
  assert np.abs(np.subtract(whole, want)).max() <= (1 if fps == 25 else 0)
  part = video.read_clip(path, start_s=1.2, fps=fps, frames=5, size=(32, 48))
  assert shown(part) == whole[round(1.2 * fps) :][:5]


@pytest.mark.parametrize("name", ["a.avi", "raw.h264"])
def test_a_picture_without_times_is_not_copied(tmp_path, movie, name):
  path = movie(tmp_path / name)
  with pytest.raises(UserError, match="has no presentation times"):
    muxing.add_sound(path, np.zeros(4800, np.float32), out=tmp_path / "out.mp4")
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_avi_in_the_order_of_decoding_is_copied(tmp_path, movie):
  path = movie(tmp_path / "a.avi", coding={"bf": "0"})
  muxing.add_sound(path, np.zeros(4800, np.float32), out=tmp_path / "a.mp4")
  assert shown(list(video.read_frames(tmp_path / "a.mp4"))) == list(range(20))
  assert video.probe(tmp_path / "a.mp4").duration_s == pytest.approx(2.0)


@pytest.mark.parametrize("name, sound", [("a.mp3", "mp3"), ("a.aac", "aac"), ("a.mka", "libopus")])
def test_the_length_of_sound_is_that_of_its_packets(tmp_path, movie, name, sound):
  path = movie(tmp_path / name, codec=None, sound=sound, seconds=3.0)
  assert audio.probe(path).duration_s == pytest.approx(3.0, abs=0.06)


def _state(path, seconds):
  """Rewrites the lengths that a Matroska file states: a double in ms, and tags of its tracks."""
  data = path.read_bytes()
  at = data.index(b"\x44\x89\x88") + 3
  data = data[:at] + np.array([1000 * seconds], ">f8").tobytes() + data[at + 8 :]
  path.write_bytes(data.replace(b"00:00:02.000", b"00:00:%06.3f" % seconds))


def test_a_wrong_length_is_noticed(tmp_path, movie):
  path = movie(tmp_path / "a.mkv", coding={"g": "5"})
  _state(path, 1.0)
  assert video.probe(path).duration_s == pytest.approx(2.0)
  _state(movie(path), 9.0)
  with pytest.raises(MediaError) as caught:
    video.probe(path)
  assert caught.value.reason == "truncated"


def test_little_is_read_of_a_file_that_states_its_length(tmp_path, movie, monkeypatch):
  path = movie(tmp_path / "a.mp4", coding={"g": "10"}, seconds=60.0)
  counts = []
  last_s = tracks.Track._last_s

  def counted(self, packets):
    packets = list(packets)
    counts.append(len(packets))
    return last_s(self, packets)

  monkeypatch.setattr(tracks.Track, "_last_s", counted)
  assert video.probe(path).duration_s == 60.0 and counts[0] <= 12
  begin = time.monotonic()
  for _ in range(20):
    video.probe(path)
  assert time.monotonic() - begin < 4.0


@pytest.mark.parametrize("name, sound", [("a.mp4", "aac"), ("a.mkv", "flac"), ("a.m4a", "aac")])
def test_cover_art_is_no_video(tmp_path, movie, name, sound):
  if name.endswith("mkv"):
    path = _attach(movie(tmp_path / "b.mka", codec=None, sound=sound), tmp_path / name)
  else:
    path = movie(tmp_path / name, container="mp4", codec=None, sound=sound, cover=True)
  with av.open(str(path)) as file:
    assert file.streams.video
  for call in (
    video.probe,
    lambda p: next(video.read_frames(p)),
    lambda p: muxing.add_sound(p, np.zeros(9, np.float32), out=tmp_path / "out.mp4"),
  ):
    with pytest.raises(MediaError) as caught:
      call(path)
    assert caught.value.reason == "no_video"
  assert audio.probe(path).duration_s == pytest.approx(2.0, abs=0.05)


def _attach(source, path):
  """A Matroska file with the sound of another and a picture attached to it."""
  with av.open(str(source)) as old, av.open(str(path), "w") as file:
    sound = file.add_stream_from_template(old.streams.audio[0])
    image = av.CodecContext.create("png", "w")
    image.width = image.height = 16
    image.pix_fmt, image.time_base = "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
    frame.pts = 0
    file.add_attachment("cover.png", "image/png", bytes(image.encode(frame)[0]))
    for packet in old.demux(old.streams.audio[0]):
      if packet.size:
        packet.stream = sound
        file.mux(packet)
  return path


def test_the_picture_beside_cover_art_is_the_video(tmp_path, movie):
  path = movie(tmp_path / "a.mp4", sound="aac", cover=True)
  assert video.probe(path).duration_s == pytest.approx(2.0)
  assert shown(list(video.read_frames(path))) == list(range(20))


def test_the_rate_of_television_is_kept(tmp_path, ramp):
  video.write_video(tmp_path / "a.mp4", np.stack(ramp(9)), fps=30_000 / 1001)
  info = video.probe(tmp_path / "a.mp4")
  assert info.fps == 30_000 / 1001 and info.duration_s == pytest.approx(9 * 1001 / 30_000)
  with av.open(str(tmp_path / "a.mp4")) as file:
    assert Fraction(file.streams.video[0].average_rate) == Fraction(30_000, 1001)
  assert shown(list(video.read_frames(tmp_path / "a.mp4"))) == list(range(9))


def test_a_recording_joined_in_the_middle_waits_with_its_first_whole_frame(tmp_path, movie):
  path = movie(tmp_path / "a.ts", coding={"g": "5"}, fps=10, seconds=2.0)
  data = path.read_bytes()
  for cut in range(0, len(data) // 2, 188 * 20):
    # The tables of the stream, then what follows the cut.
    path.write_bytes(data[: 188 * 3] + data[188 * 3 + cut :])
    numbers = shown(list(video.read_frames(path, fps=10)))
    steps = np.diff(numbers).tolist()
    # The first one stands from the beginning on, so that sound stays in step.
    assert numbers[-1] == 19 and steps == sorted(steps) and set(steps) <= {0, 1}, (cut, numbers)
    assert video.probe(path).duration_s == pytest.approx(len(numbers) / 10, abs=0.5)
