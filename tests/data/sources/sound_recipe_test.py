"""Configs of sounds: chunks, their draws, splits, and the mistakes that are named."""

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media import audio
from mg_jax.data.schema import Sample
from mg_jax.data.sources import sound_recipe
from mg_jax.data.sources.sound_recipe import SoundConfig, WaveRow

RATE = 8000


@pytest.fixture
def config(tmp_path):
  """config(...): of two files that count up, a fifth of each held out."""
  (tmp_path / "in").mkdir()
  for k, length in enumerate((24_000, 8_000)):
    wave = (np.arange(length) + 1000 * k + 500) / 2**15
    audio.write_wav(tmp_path / "in" / f"{k}.wav", wave.astype(np.float32), rate=RATE)

  def make(**fields):
    base = {
      "path": str(tmp_path / "in"), "cache": str(tmp_path / "cache"), "rate": RATE,
      "seconds": 0.1, "held_out_seconds": 0.2, "holdout": "tail", "global_batch": 4,
    }  # fmt: skip
    return SoundConfig(**base | fields)

  return make


def test_rows_are_cut_anywhere_in_a_piece_or_at_its_beginning():
  sound = Sample(None, 0, 0.0, "", "a", wave=np.arange(50, dtype=np.int16))
  rng = np.random.default_rng(0)
  starts = {int(WaveRow(20)(7, sound, rng)["wave"][0]) for _ in range(400)}
  assert starts == set(range(31))
  row = WaveRow(20, shift=False)(7, sound, rng)
  np.testing.assert_array_equal(row["wave"], np.arange(20))
  assert row["index"] == 7 and row["wave"].dtype == np.int16
  padded = WaveRow(60)(0, sound, rng)["wave"]
  np.testing.assert_array_equal(padded, np.r_[np.arange(50), np.zeros(10)])


def test_the_stream_is_decided_by_the_seed_and_keeps_to_its_split(config):
  streams = [sound_recipe.wave_feed(config(seed=seed)).stream() for seed in (0, 0, 1)]
  batches = [[next(stream)["wave"] for _ in range(12)] for stream in streams]
  assert batches[0][0].shape == (4, 800)
  np.testing.assert_array_equal(batches[0], batches[1])
  assert not np.array_equal(batches[0], batches[2])
  # The sounds count samples: chunks are whole, and none reaches into the last fifth.
  chunks = np.concatenate(batches[0]).astype(int)
  assert (np.diff(chunks, axis=1) == 1).all()
  assert chunks.max() < 500 + 24_000 * 0.8
  held = sound_recipe.open_source(config(), "validation")
  assert min(held[i].wave[0] for i in range(len(held)) if held[i].key[0] == "0") == 500 + 19_200


def test_longer_sounds_are_heard_more_often(config):
  source = sound_recipe.open_source(config(holdout="none"), "train")
  assert [sum(s.file == name for s in source.pieces) for name in ("0.wav", "1.wav")] == [30, 10]


def test_where_nothing_is_held_out_evaluations_hear_the_training_data(config, caplog):
  source = sound_recipe.open_source(config(holdout="none"), "validation")
  assert len(source) == 20 and "hear training data" in caplog.text


def test_rejected_files_are_told(config, tmp_path, caplog):
  (tmp_path / "in" / "bad.mp3").write_bytes(b"")
  with caplog.at_level("INFO"):
    sound_recipe.open_source(config(seed=3), "train")
  assert "bad.mp3 is not used: empty" in caplog.text and "1 files rejected" in caplog.text


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"path": ""}, "data.path is empty"),
    ({"rate": 0}, "data.rate is 0"),
    ({"seconds": -1.0}, "data.seconds is -1.0"),
    ({"seconds": 1e-6}, "less than a sample"),
    ({"held_out_seconds": float("nan")}, "data.held_out_seconds is nan"),
    ({"global_batch": 0}, "data.global_batch is 0"),
    ({"silence_db": 3.0}, "data.silence_db is 3.0"),
    ({"seed": -1}, "data.seed is -1"),
    ({"bad_limit": 1.5}, "data.bad_limit is 1.5"),
  ],
)
def test_mistakes_are_named(config, fields, message):
  with pytest.raises(UserError, match=message):
    sound_recipe.open_source(config(**fields), "train")


def test_a_config_sets_how_much_may_be_bad(config):
  lenient, strict = (
    sound_recipe.open_source(config(bad_limit=limit), "train") for limit in (0.5, 0.0)
  )
  last = max(range(24), key=lambda k: lenient.pieces[k].start_s)
  cut = lenient.pieces[last]
  with open(cut.path, "r+b") as file:
    file.truncate(2 * round(cut.start_s * RATE) + 2)
  assert lenient[last].key != cut.key and len(lenient.quarantine) == 1
  with pytest.raises(UserError, match="cannot be read"):
    strict[last]


def test_files_passed_over_are_named(config, tmp_path, caplog):
  for name in ("song.mid", "cover.jpg", "notes.txt", ".hidden.xyz"):
    (tmp_path / "in" / name).write_text("x")
  with caplog.at_level("WARNING"):
    sound_recipe.open_source(config(seed=5), "train")
  assert "skipped unknown extensions (2): cover.jpg, song.mid" in caplog.text
