"""Accuracy of the oracles of sound on clean and degraded waves: what generated scores rest on."""

import dataclasses
import json

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.oracles import validation_sound
from mg_jax.world.oracles.validation_sound import (
  DEGRADATIONS,
  SEED,
  WORLDS,
  degrade,
  report,
  validate,
)
from mg_jax.world.scene.sampling import WorldConfig, sample
from mg_jax.world.sound.facts import sound_facts
from mg_jax.world.sound.synthesis import soundtrack

TIMES = ("late", "spread")


def _least(row):
  return min(value for name, value in row.items() if name not in TIMES)


def test_tiny_world(capsys):
  rows = validate(WorldConfig.sounds(), n=60, degradations=("clean",), seed=SEED)
  assert _least(rows["clean"]) >= 0.98 and abs(rows["clean"]["late"]) < 1
  assert rows["clean"]["spread"] < 1
  # Chance: hits, materials and moods are not to be guessed.
  assert rows["shuffled"]["all"] < 0.15 and rows["shuffled"]["onsets"] < 0.5
  assert "clean" in capsys.readouterr().out


def test_full_world():
  config = dataclasses.replace(WorldConfig.orchestra(), duration_s=(2.0, 3.0))
  rows = validate(config, n=60, degradations=("clean",), seed=SEED)
  assert _least(rows["clean"]) >= 0.98


def test_a_report_is_json_with_counts_and_intervals():
  found = report(n=6, seed=1, worlds=("sounds",), degradations=("clean", "gain"))
  assert json.loads(json.dumps(found)) == found
  assert (found["n"], found["seed"], found["duration_s"]) == (6, 1, None)
  assert set(found["rates"]) == {"sounds"} and set(found["rates"]["sounds"]) == {"clean", "gain"}
  clean = found["rates"]["sounds"]["clean"]
  facts = [sound_facts(sample(1, index, WorldConfig.sounds())) for index in range(6)]
  assert clean["all"]["count"] == clean["onsets"]["count"] == 6
  assert clean["size"]["count"] == sum(bool(f["times_s"]) for f in facts) > 0
  assert clean["each_size"]["count"] == sum(len(f["times_s"]) for f in facts)
  # All six right says little: the interval begins at 61 %.
  assert clean["onsets"]["rate"] == 1 and clean["onsets"]["low"] == pytest.approx(0.61, abs=0.01)


def test_a_mistake_lowers_its_own_rate(monkeypatch):
  truth = validation_sound.measure

  def confused(wave):
    seen = truth(wave)
    hits = tuple(dataclasses.replace(hit, size="small") for hit in seen.impacts)
    return dataclasses.replace(seen, size=seen.size and "small", impacts=hits)

  monkeypatch.setattr(validation_sound, "measure", confused)
  rates = report(n=6, seed=1, worlds=("sounds",))["rates"]["sounds"]["clean"]
  assert rates["size"]["passed"] == rates["each_size"]["passed"] == 0 < rates["size"]["count"]
  assert rates["material"]["rate"] == rates["each_material"]["rate"] == 1
  assert rates["all"]["passed"] == 6 - rates["size"]["count"]


def test_a_silent_world_has_no_report():
  with pytest.raises(UserError, match="'simple'; known are"):
    report(worlds=("simple",))


@pytest.mark.parametrize("how", DEGRADATIONS[1:])
def test_degraded_sounds(how):
  rows = validate(WorldConfig.sounds(), n=50, seed=SEED, degradations=(how,))
  assert _least(rows[how]) >= 0.98 and abs(rows[how]["late"]) < 3


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
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("how", DEGRADATIONS)
def test_a_thousand_sounds(world, how):
  """The shortest scenes, in which there is least to go by."""
  found = report(worlds=(world,), degradations=(how,), duration_s=(2.0, 2.0))
  for fact, rate in found["rates"][world][how].items():
    assert rate["rate"] >= 0.98, (fact, rate)
