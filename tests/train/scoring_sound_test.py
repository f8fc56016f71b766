"""Scores of sounds: the truth is right, silence is not, a shift is told by its sign and size."""

import dataclasses

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.soundtracks import SoundtrackConfig
from mg_jax.sampling.soundtrack import Soundtrack
from mg_jax.train.scoring_sound import rates, score_sound
from mg_jax.world import oracles_sound, sampling, sound, sound_facts

COUNT = 12


@pytest.fixture(scope="module")
def world():
  scenes = [sampling.sample(0, i, sampling.WorldConfig.sounds()) for i in range(COUNT)]
  waves = [sound.soundtrack(scene).mix for scene in scenes]
  return [sound_facts.sound_facts(scene) for scene in scenes], waves


def test_true_sounds_are_right_and_those_of_other_clips_are_not(world):
  facts, waves = world
  heard = [oracles_sound.measure(wave) for wave in waves]
  right = rates(heard, facts)
  assert right["f1"] > 0.9 and right["music"] > 0.9 and right["off_ms"] < 10
  wrong = rates(heard, facts[1:] + facts[:1])
  assert wrong["f1"] < 0.7 * right["f1"] and wrong["effect"] < right["effect"]


@pytest.mark.parametrize("shift_ms", [-40, 40])
def test_a_shift_has_its_sign_and_size(world, shift_ms):
  facts, waves = world
  heard = [oracles_sound.measure(np.roll(wave, 48 * shift_ms)) for wave in waves]
  row = rates(heard, facts)
  assert row["late_ms"] == pytest.approx(shift_ms, abs=8)
  assert row["off_ms"] == pytest.approx(40, abs=8)


def test_silence_hears_no_impacts(world):
  facts, waves = world
  row = rates([oracles_sound.measure(np.zeros_like(wave)) for wave in waves], facts)
  assert row["recall"] == 0 and np.isnan(row["off_ms"]) and row["music"] < 1


def test_only_the_toy_world_has_oracles(tmp_path):
  data = dataclasses.replace(SoundtrackConfig(), source="folder")
  with pytest.raises(UserError, match="the oracles hear the toy world"):
    score_sound(object.__new__(Soundtrack), data, tmp_path)
