"""Accuracy of the oracles of sound on clean and degraded waves: what generated scores rest on."""

import dataclasses

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.sampling import WorldConfig, sample
from mg_jax.world.sound import soundtrack
from mg_jax.world.validation_sound import DEGRADATIONS, degrade, validate

TIMES = ("late", "spread")


def _least(row):
  return min(value for name, value in row.items() if name not in TIMES)


def test_tiny_world(capsys):
  rows = validate(WorldConfig.sounds(), n=40, degradations=("clean",), seed=1)
  assert _least(rows["clean"]) >= 0.97 and abs(rows["clean"]["late"]) < 1
  assert rows["clean"]["spread"] < 1
  # Chance: hits, materials and moods are not to be guessed.
  assert rows["shuffled"]["all"] < 0.15 and rows["shuffled"]["onsets"] < 0.5
  assert "clean" in capsys.readouterr().out


def test_full_world():
  config = dataclasses.replace(WorldConfig.orchestra(), duration_s=(2.0, 3.0))
  rows = validate(config, n=24, degradations=("clean",), seed=2)
  assert _least(rows["clean"]) >= 0.9


@pytest.mark.parametrize("how", DEGRADATIONS[1:])
def test_degraded_sounds(how):
  rows = validate(WorldConfig.sounds(), n=24, seed=3, degradations=(how,))
  assert _least(rows[how]) >= 0.95 and abs(rows[how]["late"]) < 3


@pytest.mark.parametrize("how", DEGRADATIONS[1:])
def test_degradations_are_mild_but_real(how):
  wave = soundtrack(sample(0, 3, WorldConfig.orchestra())).mix
  damaged = degrade(wave, how)
  assert damaged.shape == wave.shape and damaged.dtype == np.float32
  error = np.mean((damaged - wave) ** 2) / np.mean(wave**2)
  assert 1e-5 < error < 0.6
  np.testing.assert_array_equal(damaged, degrade(wave, how))


def test_unknown_degradation_is_told():
  with pytest.raises(UserError, match="fog"):
    degrade(np.zeros(48_000, np.float32), "fog")


@pytest.mark.slow
@pytest.mark.parametrize("how", DEGRADATIONS)
def test_hundreds_of_sounds(how):
  for config in (WorldConfig.sounds(), WorldConfig.orchestra()):
    config = dataclasses.replace(config, duration_s=(2.0, 2.0))
    rows = validate(config, n=300, degradations=(how,))
    assert _least(rows[how]) >= 0.97
