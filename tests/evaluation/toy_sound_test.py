"""Scores of sounds: the truth is right, silence is not, a shift is told by its sign and size."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.sources.soundtracks import SoundtrackConfig
from mg_jax.evaluation import toy_sound
from mg_jax.evaluation.toy_sound import rates, score_sound
from mg_jax.sampling.soundtrack import Soundtrack
from mg_jax.world.oracles import sound as oracles_sound
from mg_jax.world.scene import sampling
from mg_jax.world.sound import facts as sound_facts
from mg_jax.world.sound import synthesis as sound
from tests.evaluation.toy_context_test import RATE, TOY, Pipeline

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
  with pytest.raises(UserError, match="sounds of the toy world only"):
    score_sound(object.__new__(Soundtrack), data, tmp_path)


class Halving(Pipeline):
  """A codec that halves what it encodes."""

  codec = SimpleNamespace(encode=lambda wave: 0.5 * wave, decode=lambda wave, length: wave[:length])


def test_loudness_and_leakage_stand_beside_the_rates(tmp_path, monkeypatch):
  monkeypatch.setattr(toy_sound, "SHOWN", 0)  # plots take longer than all the rest
  rng = np.random.default_rng(0)

  def make(request):
    return 0.1 * rng.standard_normal(round(RATE * request.seconds))

  report = score_sound(Halving(make), TOY, tmp_path, count=3)
  truth, codec, made = (report.rows[name] for name in ("truth", "codec", "made"))
  assert codec["loudness_lufs"] == pytest.approx(truth["loudness_lufs"] - 6.02, abs=0.2)
  assert made["leakage_dbfs"] == pytest.approx(-20, abs=1) and truth["leakage_dbfs"] < -50
  assert truth["f1"] > made["f1"] and "loudness_lufs" not in report.rows["shuffled"]
  [line] = [line for line in report.table.splitlines() if line.split()[0] == "loudness"]
  assert line.split()[1:] == [
    f"{made['loudness_lufs']:.1f}", "LUFS", f"{codec['loudness_lufs']:.1f}", "LUFS",
    f"{truth['loudness_lufs']:.1f}", "LUFS", "-",
  ]  # fmt: skip
  kept = json.loads((tmp_path / "scores.json").read_text())
  assert kept["rows"]["truth"]["loudness_lufs"] == truth["loudness_lufs"]


def test_what_is_undefined_for_silence_is_null_in_the_file(tmp_path, monkeypatch):
  monkeypatch.setattr(toy_sound, "SHOWN", 0)
  silent = Pipeline(lambda request: np.zeros(round(RATE * request.seconds)))
  report = score_sound(silent, TOY, tmp_path, count=2)
  assert report.rows["made"]["loudness_lufs"] == -np.inf
  text = (tmp_path / "scores.json").read_text()
  assert "NaN" not in text and "Infinity" not in text
  made = json.loads(text)["rows"]["made"]
  assert made["loudness_lufs"] is None and made["off_ms"] is None
