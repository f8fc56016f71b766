"""Impact oracle: times, materials and sizes of strikes, what is no impact, and pairs of times."""

import itertools

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.oracles import onsets as oracles_onsets
from mg_jax.world.oracles.onsets import match, pool
from mg_jax.world.sound.facts import MATERIALS, PITCHES, pitch_hz
from mg_jax.world.sound.timbres import note, strike

RATE = 48_000


def struck(material, size, *times, seconds=2.0, level=1.0):
  wave = np.zeros(round(seconds * RATE))
  for time in times:
    ring = strike(material, pitch_hz(material, size), RATE)[: len(wave) - round(time * RATE)]
    wave[round(time * RATE) :][: len(ring)] += level * ring
  return wave


@pytest.mark.parametrize("level", [1.0, 0.2])
@pytest.mark.parametrize("material, size", [*itertools.product(MATERIALS, PITCHES)])
def test_strikes_are_heard_in_time_and_named(material, size, level):
  times = [0.2, 0.55, 1.3, 1.9]
  heard = oracles_onsets.impacts(struck(material, size, *times, level=level))
  np.testing.assert_allclose([hit.time_s for hit in heard], times, atol=0.002)
  assert {(hit.material, hit.size) for hit in heard} == {(material, size)}
  assert heard[0].pitch_hz == pitch_hz(material, size)


def test_different_things_are_told_apart_in_one_wave():
  wave = struck("metal", "large", 0.3) + struck("wood", "small", 0.9)
  wave += struck("rubber", "large", 1.4)
  heard = oracles_onsets.impacts(wave)
  assert [hit.material for hit in heard] == ["metal", "wood", "rubber"]


def test_a_constant_in_the_wave_is_no_matter():
  wave = struck("glass", "medium", 0.5) + 0.1
  assert len(oracles_onsets.onsets(wave)) == 1


def test_notes_tones_and_noise_are_no_impacts():
  wave = np.zeros(2 * RATE)
  for k, name in enumerate(("piano", "guitar", "organ", "bell", "pad")):
    played = note(name, 440.0, 0.3, RATE)
    start = round((0.1 + 0.3 * k) * RATE)
    wave[start : start + len(played)] += played[: len(wave) - start]
  assert not len(oracles_onsets.onsets(wave))
  time = np.arange(2 * RATE) / RATE
  glide = 0.1 * np.sin(2 * np.pi * np.cumsum(1300 * 4 ** (time / 2)) / RATE)
  assert not len(oracles_onsets.onsets(glide))
  assert not len(oracles_onsets.onsets(0.05 * np.random.default_rng(0).standard_normal(2 * RATE)))
  assert not len(oracles_onsets.onsets(np.zeros(RATE)))


def test_a_wave_cut_off_has_no_onset_at_its_ends():
  assert not len(oracles_onsets.onsets(np.full(RATE, 0.5)))


def test_pairs_are_one_to_one_and_the_closest():
  found = match([0.10, 0.13, 0.5, 0.9], [0.12, 0.52, 1.5])
  assert found.pairs == ((1, 0), (2, 1))
  np.testing.assert_allclose(found.errors_ms, [10, -20], atol=1e-9)
  assert (found.precision, found.recall) == pytest.approx((2 / 4, 2 / 3))
  assert found.f1 == pytest.approx(4 / 7)


@pytest.mark.parametrize(
  "heard, true, rates", [([], [], (1, 1, 1)), ([0.5], [], (0, 0, 0)), ([], [0.5], (0, 0, 0))]
)
def test_nothing_to_hear_is_right_when_nothing_is_heard(heard, true, rates):
  found = match(heard, true)
  assert (found.precision, found.recall, found.f1) == rates and not len(found.errors_ms)


def test_pooled_impacts_count_alike():
  whole = pool([match([0.1], [0.1]), match([0.2, 0.5, 0.9], [0.51]), match([], [0.3])])
  assert (whole.detected, whole.true) == (4, 3)
  assert (whole.precision, whole.recall) == pytest.approx((2 / 4, 2 / 3))
  np.testing.assert_allclose(whole.errors_ms, [0, -10], atol=1e-9)
  assert pool([]).f1 == 1


def test_tolerance_is_inclusive_and_checked():
  assert match([1.0], [1.5], tolerance_s=0.5).f1 == 1
  assert match([1.0], [1.5], tolerance_s=0.4).f1 == 0
  with pytest.raises(UserError, match="tolerance"):
    match([], [], tolerance_s=-1)
