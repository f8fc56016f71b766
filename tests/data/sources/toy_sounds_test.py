"""The sound of the toy world as a codec's data: exact, split, kept, silent scenes left out."""

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.sources import sound_recipe, toy_sounds
from mg_jax.data.sources.sound_recipe import SoundConfig
from mg_jax.world.scene import sampling
from mg_jax.world.sound import synthesis as sound

RATE = 16_000


@pytest.fixture
def config(tmp_path):
  def make(**fields):
    base = {
      "source": "toy", "cache": str(tmp_path), "rate": RATE, "seconds": 0.5, "clips": 12,
      "held_out": 6, "global_batch": 4,
    }  # fmt: skip
    return SoundConfig(**base | fields)

  return make


def _wave(index):
  scene = sampling.sample(0, index, sampling.WorldConfig.sounds())
  mix = sound.soundtrack(scene, rate=RATE).mix
  return np.round(mix * 2.0**15).clip(-(2**15), 2**15 - 1).astype(np.int16)


@pytest.mark.parametrize(
  "split, first, count, pieces",
  [("train", 0, 12, 4), ("validation", sampling.VALIDATION_START, 6, 1)],
)
def test_pieces_are_the_waves_of_the_scenes_that_are_heard(config, split, first, count, pieces):
  source = sound_recipe.open_source(config(), split)
  waves = {f"toy/0/{first + i}": _wave(first + i) for i in range(count)}
  heard = {key for key, wave in waves.items() if wave.any()}
  seen = set()
  for index in range(len(source)):
    piece = source[index]
    name, _, start = piece.key.partition("@")
    seen.add(name)
    whole = np.concatenate([waves[key] for key in waves])
    begin = round(float(start) * RATE)
    np.testing.assert_array_equal(piece.wave, whole[begin : begin + len(piece.wave)])
    # Pieces stay within their scene of two seconds.
    assert begin // (2 * RATE) == (begin + len(piece.wave) - 1) // (2 * RATE)
  assert seen == heard and len(source) == pieces * len(heard)


def test_some_scenes_of_the_world_are_silent(config):
  silent = sum(not _wave(i).any() for i in range(60))
  assert 0 < silent < 60
  index = toy_sounds.scan(
    "sounds", cache=config().cache, samples=RATE, rate=RATE, train=60, validation=1, seed=0
  )
  assert index.silent - (not _wave(sampling.VALIDATION_START).any()) == silent


def test_waves_are_rendered_once_and_again_when_damaged(config, monkeypatch):
  first = sound_recipe.open_source(config(), "train")[0].wave
  sound_recipe.scan.cache_clear()
  monkeypatch.setattr(sound, "soundtrack", None)
  np.testing.assert_array_equal(sound_recipe.open_source(config(), "train")[0].wave, first)
  monkeypatch.undo()
  sound_recipe.scan.cache_clear()
  pieces = sound_recipe.scan(config(), "train").pieces
  path = next(s.path for s in pieces if s.split == "train")
  with open(path, "r+b") as file:
    file.truncate(100)
  sound_recipe.scan.cache_clear()
  np.testing.assert_array_equal(sound_recipe.open_source(config(), "train")[0].wave, first)


def test_a_stream_of_the_world(config):
  batch = next(sound_recipe.wave_feed(config()).stream())
  assert batch["wave"].shape == (4, RATE // 2) and batch["wave"].dtype == np.int16


def test_what_cannot_be_rendered_is_told(config):
  with pytest.raises(UserError, match="rate is 8000 Hz"):
    sound_recipe.open_source(config(rate=8000), "train")
  with pytest.raises(UserError, match=r"data\.clips"):
    config(clips=0)
