"""Sound of real and synthetic files: rates, channels, time zero, silence, and what can be wrong."""

import wave as wave_file
from fractions import Fraction

import av
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media import audio, video
from mg_jax.data.media.containers import MediaError


def tone(seconds, rate, hz=440.0, level=0.5):
  return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype("f4")


def write(
  path, channels, *, rate, layout, codec="pcm_f32le", kind="flt", start_s=0.0, picture=None
):
  """Writes channels (C, T) with PyAV, beside a picture track of grey frames if asked for."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate, layout=layout)
    if picture:
      shown = container.add_stream("libx264", rate=10)
      shown.height = shown.width = 32
      shown.pix_fmt = "yuv420p"
      for _ in range(picture):
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(shown.encode(frame))
      container.mux(shown.encode(None))
    packed = channels if kind.endswith("p") else channels.T.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), format=kind, layout=layout)
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    frame.pts = round(start_s * rate)
    for part in [*stream.encode(frame), *stream.encode(None)]:
      container.mux(part)
  return path


def reason(path, call=audio.read_audio, **kwargs):
  with pytest.raises(MediaError) as caught:
    call(path, **kwargs)
  assert isinstance(caught.value, UserError)
  assert str(path) in str(caught.value) and str(caught.value).count("\n") == 0
  return caught.value.reason


def test_what_is_written_comes_back(tmp_path):
  wave = np.random.default_rng(0).uniform(-1, 1, 5001).astype(np.float32)
  audio.write_wav(tmp_path / "a.wav", wave)
  assert audio.probe(tmp_path / "a.wav") == audio.AudioInfo(5001 / 48_000, 48_000, 1)
  back = audio.read_audio(tmp_path / "a.wav")
  assert back.dtype == np.float32 and back.shape == wave.shape
  assert np.abs(back - wave).max() <= 2**-16 * 1.01
  # What was read is written again bit for bit.
  audio.write_wav(tmp_path / "b.wav", back)
  assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a.wav", "b.wav"]


def test_loud_samples_are_clipped_when_written(tmp_path):
  audio.write_wav(tmp_path / "a.wav", np.array([2.0, 1.0, -3.0]), rate=8000)
  np.testing.assert_allclose(audio.read_audio(tmp_path / "a.wav", rate=8000), [1, 1, -1], atol=4e-5)


def test_blocks_are_written_as_they_come(tmp_path):
  parts = [tone(0.1, 48_000), np.zeros(0, np.float32), tone(0.05, 48_000)]
  assert audio.write_blocks(tmp_path / "a.wav", iter(parts)) == 7200
  back = audio.read_audio(tmp_path / "a.wav")
  np.testing.assert_allclose(back, np.concatenate(parts), atol=2e-5)


@pytest.mark.parametrize("rate", [8000, 44_100, 96_000])
def test_any_rate_becomes_48_khz(tmp_path, rate):
  write(tmp_path / "a.wav", tone(0.5, rate)[None], rate=rate, layout="mono")
  wave = audio.read_audio(tmp_path / "a.wav")
  assert abs(len(wave) - 24_000) <= 2
  # The tone is in place to a sample's fraction, away from the ends.
  inside = slice(1000, 23_000)
  assert np.abs(wave[inside] - tone(0.5, 48_000)[inside]).max() < 2e-3


def test_two_channels_are_averaged_and_six_cannot_clip(tmp_path):
  left, right = tone(0.1, 48_000), tone(0.1, 48_000, hz=300, level=0.9)
  write(tmp_path / "two.wav", np.stack([left, right]), rate=48_000, layout="stereo")
  wave = audio.read_audio(tmp_path / "two.wav")
  np.testing.assert_allclose(wave, (left + right) / 2, atol=1e-6)
  with wave_file.open(str(tmp_path / "plain.wav"), "wb") as file:  # which tells no layout
    file.setparams((2, 2, 48_000, 0, "NONE", ""))
    file.writeframes((np.stack([left, right], 1) * 2**15).astype("<i2").tobytes())
  np.testing.assert_allclose(audio.read_audio(tmp_path / "plain.wav"), wave, atol=1e-4)
  full = np.ones((6, 4800), np.float32)
  write(tmp_path / "six.wav", full, rate=48_000, layout="5.1")
  np.testing.assert_allclose(audio.read_audio(tmp_path / "six.wav"), 1.0, atol=1e-5)
  # Front left, front right, centre, low frequencies, back left, back right.
  heard = []
  for channel in range(6):
    alone = np.where(np.arange(6)[:, None] == channel, full, 0).astype(np.float32)
    write(tmp_path / "one.wav", alone, rate=48_000, layout="5.1")
    heard.append(audio.read_audio(tmp_path / "one.wav").mean())
  wanted = np.array([0.5, 0.5, 0.5**0.5, 0, 0.5**1.5, 0.5**1.5])
  np.testing.assert_allclose(heard, wanted / wanted.sum(), atol=1e-5)


def test_a_part_is_the_same_wherever_reading_starts(tmp_path):
  wave = np.random.default_rng(0).uniform(-1, 1, 44_100).astype(np.float32)
  write(tmp_path / "a.wav", wave[None], rate=44_100, layout="mono")
  whole = audio.read_audio(tmp_path / "a.wav")
  part = audio.read_audio(tmp_path / "a.wav", start_s=0.25, seconds=0.5)
  np.testing.assert_array_equal(part, whole[12_000:36_000])
  assert len(audio.read_audio(tmp_path / "a.wav", start_s=0.75, seconds=9)) == len(whole) - 36_000
  blocks = list(audio.read_blocks(tmp_path / "a.wav"))
  assert len(blocks) > 3
  np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_time_zero_is_that_of_the_picture(tmp_path):
  late = {"rate": 48_000, "layout": "mono", "codec": "flac", "kind": "s16", "start_s": 0.2}
  sound = np.full((1, 4800), 16_384, np.int16)
  write(tmp_path / "a.mkv", sound, picture=5, **late)
  wave = audio.read_audio(tmp_path / "a.mkv")
  assert len(wave) == 14_400
  np.testing.assert_array_equal(wave, np.repeat([0.0, 0.5], [9600, 4800]))
  # Without a picture there is nothing it could be late for.
  write(tmp_path / "b.mkv", sound, **late)
  assert len(audio.read_audio(tmp_path / "b.mkv")) == 4800


def test_silence():
  assert audio.is_silent(np.zeros(9, np.float32)) and audio.is_silent(np.zeros(0))
  assert audio.is_silent(np.full(9, 2.0**-17)) and not audio.is_silent(np.full(9, -(2.0**-15)))


def test_what_is_wrong_with_a_file_has_a_reason(tmp_path):
  (tmp_path / "none.wav").write_bytes(b"")
  (tmp_path / "noise.wav").write_bytes(bytes(range(256)) * 8)
  video.write_video(tmp_path / "mute.mp4", np.zeros((2, 16, 16, 3), np.uint8), fps=8)
  audio.write_wav(tmp_path / "zero.wav", np.zeros(0))
  audio.write_wav(tmp_path / "whole.wav", tone(2, 48_000))
  hole = np.array([[0.0, np.nan, 0.5]], np.float32)
  write(tmp_path / "nan.wav", hole, rate=48_000, layout="mono")
  names = {
    "missing.wav": "missing", "none.wav": "empty", "noise.wav": "unreadable",
    "mute.mp4": "no_audio", "zero.wav": "empty", "nan.wav": "not_finite",
  }  # fmt: skip
  assert {name: reason(tmp_path / name) for name in names} == names
  assert reason(tmp_path / "whole.wav", start_s=3) == "too_short"
  assert reason(tmp_path / "mute.mp4", audio.probe) == "no_audio"


def test_a_file_that_breaks_off_is_told(tmp_path):
  write(tmp_path / "a.flac", (tone(3, 48_000) * 2**15).astype(np.int16)[None], rate=48_000,
        layout="mono", codec="flac", kind="s16")  # fmt: skip
  data = (tmp_path / "a.flac").read_bytes()
  (tmp_path / "a.flac").write_bytes(data[: len(data) // 2])
  assert reason(tmp_path / "a.flac") == "truncated"


def test_what_cannot_be_written_leaves_nothing(tmp_path):
  for wave, error in (
    (np.array([0.0, np.inf]), MediaError),
    (np.zeros(4, np.int16), ValueError),
    (np.zeros((2, 4)), ValueError),
  ):
    with pytest.raises(error):
      audio.write_wav(tmp_path / "a.wav", wave)
  (tmp_path / "file").write_bytes(b"x")
  with pytest.raises(MediaError, match="could not be written"):
    audio.write_wav(tmp_path / "file" / "a.wav", np.zeros(4))
  assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
  "name, seconds, silent",
  [
    ("audio/librosa_198-209-0000.ogg", 13.910, False),
    ("audio/audiocraft_electro_1.mp3", 15.0, False),
    ("video/bbb_5s_51audio_720p.mp4", 5.312, False),
    ("video/nasa_13013_speech_180p.mp4", 13.056, False),
    ("video/dog_fetch_720p.mp4", 9.664, True),
  ],
)
def test_real_files(media, name, seconds, silent):
  wave = audio.read_audio(media / name)
  assert abs(len(wave) / 48_000 - seconds) < 0.01
  assert np.abs(wave).max() <= 1 and audio.is_silent(wave) is silent
