"""A folder of sounds: what is decoded, how it is cut and split, silence, and what is refused."""

import functools
import os

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media import audio
from mg_jax.data.sources import sounds
from mg_jax.data.sources.folder import PieceSource
from tests.data.media.audio_test import tone, write

RATE = 8000


@pytest.fixture
def scan(tmp_path):
  """scan(...): of `tmp_path/sounds`, in segments of a tenth of a second."""
  (tmp_path / "sounds").mkdir()

  def run(**kwargs):
    kwargs = {"samples": 800, "rate": RATE, "holdout": "none"} | kwargs
    return sounds.scan(tmp_path / "sounds", cache=tmp_path / "cache", **kwargs)

  return run


def open_sounds(index, split="train", **kwargs):
  return PieceSource(index, functools.partial(sounds.read, rate=RATE), split, **kwargs)


def start(piece):
  return round(piece.start_s * RATE)


def stop(piece):
  return start(piece) + round(piece.seconds * RATE)


@pytest.fixture
def put(tmp_path):
  """put(name, wave): a mono wav of 8 kHz in the folder."""

  def run(name, wave):
    audio.write_wav(tmp_path / "sounds" / name, np.asarray(wave, np.float32), rate=RATE)

  return run


def test_pieces_are_the_sound_in_16_bits(scan, put):
  wave = tone(0.33, RATE)
  put("a.wav", wave)
  source = open_sounds(scan())
  assert [len(source[i].wave) for i in range(len(source))] == [1600, 1600, 1040]
  assert source[1].key == "a.wav@0.100" and source[1].wave.dtype == np.int16
  np.testing.assert_array_equal(source[1].wave, np.round(wave[800:2400] * 2**15))
  with pytest.raises(IndexError):
    source[3]


def test_files_are_decoded_once_and_again_when_they_change(scan, put, monkeypatch):
  put("a.wav", tone(0.3, RATE))
  decoded, read = [], audio.read_blocks
  monkeypatch.setattr(audio, "read_blocks", lambda p, **k: decoded.append(p.name) or read(p, **k))
  first = scan()
  assert scan() == first and decoded == ["a.wav"]
  assert scan(rate=4000).pieces[0] != first.pieces[0] or len(decoded) == 2
  put("a.wav", tone(0.5, RATE, hz=200))
  assert scan().count("train") == 5 and len(decoded) == 3


def test_any_rate_channels_and_container_are_taken(scan, tmp_path, media):
  noise = np.random.default_rng(0).uniform(-0.5, 0.5, (6, 4410)).astype(np.float32)
  (tmp_path / "sounds" / "deep").mkdir()
  write(tmp_path / "sounds" / "deep" / "s.wav", noise[:2], rate=44_100, layout="stereo")
  write(tmp_path / "sounds" / "six.wav", noise, rate=44_100, layout="5.1")
  (tmp_path / "sounds" / "clip.mp4").symlink_to(media / "video" / "nasa_13013_speech_180p.mp4")
  index = scan(rate=48_000, samples=4800)
  assert {s.file for s in index.pieces} == {"deep/s.wav", "six.wav", "clip.mp4"}
  assert not index.rejected
  wave = sounds.read(index.pieces[0], rate=48_000).wave
  want = np.round(audio.read_audio(tmp_path / "sounds" / "clip.mp4", seconds=0.2) * 2**15)
  np.testing.assert_array_equal(wave, want)


def test_tails_are_the_same_whatever_the_segment(scan, put):
  put("long.wav", tone(5.0, RATE))
  put("short.wav", tone(1.0, RATE))
  for samples in (800, 3000):
    index = scan(samples=samples, holdout="tail")
    train = [s for s in index.pieces if s.split == "train"]
    held = [s for s in index.pieces if s.split == "validation"]
    assert {s.file for s in held} == {"long.wav"}, "a fifth of the other is too short"
    assert max(stop(s) for s in train if s.file == "long.wav") <= 4.0 * RATE
    assert min(start(s) for s in held) == 4.0 * RATE and max(stop(s) for s in held) == 5.0 * RATE


def test_silent_segments_are_left_out_and_counted(scan, put):
  quiet = 0.5 * 10 ** (-60 / 20) * np.ones(800)
  put("a.wav", np.concatenate([tone(0.1, RATE), np.zeros(800), quiet, tone(0.1, RATE)]))
  put("b.wav", np.zeros(4000))
  index = scan()
  assert [start(s) for s in index.pieces] == [0, 2400] and index.silent == 2 + 5
  assert [(r.file, r.reason) for r in index.rejected] == [("b.wav", "silent")]
  assert [start(s) for s in scan(silence_db=-80).pieces] == [0, 1600, 2400]


@pytest.mark.parametrize("samples", [1, 5, 799])
def test_a_short_sound_is_one_segment(scan, put, samples):
  put("a.wav", 0.5 * np.ones(samples))  # also: an offset alone is sound
  [segment] = scan().pieces
  assert (start(segment), stop(segment)) == (0, samples)


def test_clipping_keeps_the_sign(scan, tmp_path):
  wave = np.array([[3.0, -3.0, 1.0, -1.0] * 300], np.float32)
  write(tmp_path / "sounds" / "a.wav", wave, rate=RATE, layout="mono")
  wave = open_sounds(scan())[0].wave
  np.testing.assert_array_equal(wave[:4], [2**15 - 1, -(2**15), 2**15 - 1, -(2**15)])


def test_unusable_files_are_listed_with_reasons(scan, put, tmp_path, encode, ramp):
  put("good.wav", tone(0.3, RATE))
  put("none.wav", np.zeros(0))
  (tmp_path / "sounds" / "zero.mp3").write_bytes(b"")
  (tmp_path / "sounds" / "noise.webm").write_bytes(b"x" * 3000)
  (tmp_path / "sounds" / "notes.txt").write_text("no sound")
  nan = np.full((1, 2000), np.nan, np.float32)
  write(tmp_path / "sounds" / "nan.wav", nan, rate=RATE, layout="mono")
  encode(tmp_path / "sounds" / "picture.mp4", ramp(3))
  (tmp_path / "sounds" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
  index = scan()
  assert {r.file: r.reason for r in index.rejected} == {
    "none.wav": "empty", "zero.mp3": "empty", "noise.webm": "unreadable", "nan.wav": "not_finite",
    "picture.mp4": "no_audio", "gone.wav": "missing",
  }  # fmt: skip
  assert {s.file for s in index.pieces} == {"good.wav"}


def test_a_damaged_cache_is_told_and_made_again(scan, put):
  put("a.wav", tone(0.5, RATE))
  index = scan()
  with open(index.pieces[0].path, "r+b") as file:
    file.truncate(2 * 1700)
  source = open_sounds(index, limit=1.0)
  assert source[4].key == "a.wav@0.000" and "ends early" in source.quarantine.records[-1].reason
  again = open_sounds(scan())
  assert again[4].key == "a.wav@0.400" and len(again[4].wave) == 800


def test_folders_that_cannot_serve(scan, tmp_path, put):
  with pytest.raises(UserError, match="no such folder"):
    sounds.scan(tmp_path / "nothing", cache=tmp_path, samples=800)
  with pytest.raises(UserError, match="has no sound"):
    scan()
  put("a.wav", np.zeros(800))
  with pytest.raises(UserError, match=r"none of 1 files is usable.*a\.wav.*-60 dB"):
    scan()
  put("b.wav", tone(0.1, RATE))
  with pytest.raises(UserError, match="validation split has no sound"):
    open_sounds(scan(), "validation")


# ending, container and codec of what FFmpeg can write here.
ENDINGS = [
  ("aif", "aiff", "pcm_s16be"), ("AIFF", "aiff", "pcm_s16be"), ("caf", "caf", "pcm_s16le"),
  ("m4b", "ipod", "aac"), ("wma", "asf", "wmav2"), ("opus", "opus", "libopus"),
  ("oga", "oga", "flac"), ("w64", "w64", "pcm_s16le"), ("au", "au", "pcm_s16be"),
  ("mka", "matroska", "flac"), ("mp2", "mp2", "mp2"), ("ac3", "ac3", "ac3"), ("tta", "tta", "tta"),
  ("wv", "wv", "wavpack"), ("weba", "webm", "libopus"), ("m4a", "ipod", "alac"),
]  # fmt: skip


@pytest.mark.parametrize("ending, container, codec", ENDINGS)
def test_sound_of_any_ending_is_taken(scan, tmp_path, movie, ending, container, codec):
  path = tmp_path / "sounds" / f"a.{ending}"
  movie(path, container=container, codec=None, sound=codec, seconds=0.5)
  index = scan()
  assert not index.rejected
  assert sum(min(stop(s) - start(s), 800) for s in index.pieces) >= 3200
  assert audio.probe(path).duration_s == pytest.approx(0.5, abs=0.06)


def test_odd_things_in_a_folder_are_rejected_by_name(scan, put, tmp_path, caplog):
  root = tmp_path / "sounds"
  put("good.wav", tone(0.3, RATE))
  os.mkfifo(root / "pipe.wav")
  (root / "gone.flac").symlink_to(tmp_path / "nowhere")
  (root / "inside.wav").mkdir()
  put("inside.wav/deep.wav", tone(0.3, RATE))
  (root / ".git").mkdir()
  put(".git/hidden.wav", tone(0.3, RATE))
  (root / "song.mid").write_bytes(b"MThd")
  (root / "good.txt").write_text("a tone")
  index = scan()
  assert {s.file for s in index.pieces} == {"good.wav", "inside.wav/deep.wav"}
  assert {(r.file, r.reason) for r in index.rejected} == {
    ("pipe.wav", "unreadable"), ("gone.flac", "missing")
  }  # fmt: skip
  assert "skipped unknown extensions (1): song.mid\n" in caplog.text


def test_a_cache_that_cannot_be_written_is_told(scan, put, tmp_path):
  put("a.wav", tone(0.3, RATE))
  (tmp_path / "cache").write_text("a file")
  with pytest.raises(UserError, match=r"cannot be written.*choose another data\.cache"):
    scan()
