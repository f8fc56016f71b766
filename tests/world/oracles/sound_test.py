"""Measurement of whole sounds, comparison with facts, and leakage where nothing should sound."""

import dataclasses

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.oracles import sound as O
from mg_jax.world.scene.sampling import WorldConfig, sample
from mg_jax.world.sound.facts import sound_facts
from mg_jax.world.sound.synthesis import soundtrack


def drawn(index=0, **changes):
  scene = sample(0, index, dataclasses.replace(WorldConfig.sounds(), **changes))
  return scene, soundtrack(scene), sound_facts(scene)


def test_a_drawn_scene_is_right_in_everything():
  _, track, facts = drawn(4, motions=("bounce",))
  seen = O.measure(track.mix)
  assert all(O.compare(seen, facts).values())
  assert seen.material == facts["material"] and len(seen.times_s) == len(facts["times_s"])
  assert np.abs(O.timing(seen, facts).errors_ms).max() < 2


def test_each_fault_is_found():
  _, track, facts = drawn(4, motions=("knock",), colours=("cyan",))
  mute = O.compare(O.measure(np.zeros_like(track.mix)), facts)
  assert not (mute["onsets"] or mute["material"] or mute["silent"]) and mute["ambience"]
  late = O.compare(O.measure(np.roll(track.stems["impacts"], 4800)), facts)
  assert not late["onsets"] and late["material"]
  _, other, _ = drawn(4, motions=("knock",), colours=("orange",))
  dull = O.compare(O.measure(other.stems["impacts"]), facts)
  assert dull["onsets"] and not dull["material"]


def test_music_without_cause_is_wrong():
  config = WorldConfig.sounds()
  scenes = (sample(0, index, config) for index in range(20))
  scene = next(s for s in scenes if s.sound.music)
  without = dataclasses.replace(scene, sound=dataclasses.replace(scene.sound, music=None))
  facts, asked = sound_facts(without), sound_facts(scene)
  seen = O.measure(soundtrack(scene).mix)
  assert not O.compare(seen, facts)["music"] and "mood" not in O.compare(seen, facts)
  assert O.compare(seen, asked)["music"] and O.compare(seen, asked)["mood"]
  assert not O.compare(O.measure(soundtrack(without).mix), asked)["mood"]


def test_loud_noise_is_not_silence():
  noise = np.random.default_rng(0).standard_normal(96_000)
  assert not O.measure(0.2 * noise).silent
  assert O.measure(0.001 * noise).silent and O.measure(np.zeros(96_000)).silent
  assert O.measure(0.1 * noise).level_db == pytest.approx(-20, abs=0.1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("length", [4800, 9600, 30_001])
def test_anything_can_be_measured(length):
  """As of an untrained model: all loud, constant, far out of range, one sample, very short."""
  rng, tone = np.random.default_rng(0), np.sin(0.05 * np.arange(length))
  waves = (tone, np.ones(length), np.sign(tone), 1e4 * rng.standard_normal(length))
  for wave in (*waves, 1e-30 * tone, np.eye(1, length, length // 2)[0]):
    seen = O.measure(wave)
    assert seen.silent in (True, False) and np.isfinite(seen.level_db)


def test_averages_are_over_what_is_held():
  rows = [{"onsets": True, "material": True}, {"onsets": False}]
  assert O.average(rows) == {"onsets": 0.5, "material": 1.0, "all": 0.5}


def test_leakage_is_what_sounds_where_nothing_should():
  _, track, _ = drawn(4, motions=("bounce",), colours=("orange",))
  truth = track.stems["impacts"]
  assert O.leakage_db(truth, truth) < -60
  noisy = truth + 0.01 * np.random.default_rng(0).standard_normal(len(truth)).astype("f4")
  assert O.leakage_db(noisy, truth) == pytest.approx(-40, abs=1)
  assert O.leakage_db(np.zeros(96_000), np.zeros(96_000)) == -120
  assert O.leakage_db(noisy, np.full(96_000, 0.5)) is None
  with pytest.raises(UserError, match="one length"):
    O.leakage_db(noisy, truth[:-1])


def test_what_is_no_wave_is_refused():
  with pytest.raises(UserError, match="int16"):
    O.measure(np.zeros(96_000, np.int16))
