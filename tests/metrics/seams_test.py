"""Seams that are there are heard, and those that are not are hardly ever."""

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.metrics import seams

RATE = 16_000


def noise(seconds, seed=0, low=0.1):
  return low * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


@pytest.mark.parametrize("other", [
  lambda t: 2.0 * noise(t, seed=1), lambda t: 0.2 * np.sin(np.arange(round(t * RATE)) / 3),
  lambda t: np.zeros(round(t * RATE)),
], ids=["louder", "another", "silence"])  # fmt: skip
def test_a_join_of_unlike_sounds_is_heard_where_it_is(other):
  wave = np.concatenate([noise(1.5), other(1.5)])
  found = seams.alarms(wave, [1.5, 1.48, 0.7, 2.3], rate=RATE)
  assert found[:2].all() and not found[2:].any()


def test_a_sound_joined_with_itself_has_no_seam():
  """Two parts of one noise, faded into each other over a tenth of a second."""
  ramp = np.linspace(0, np.pi / 2, RATE // 10)
  joints = 0
  for seed in range(20):
    a, b = noise(1.0, seed=seed), noise(1.0, seed=100 + seed)
    middle = a[-len(ramp) :] * np.cos(ramp) + b[: len(ramp)] * np.sin(ramp)
    wave = np.concatenate([a[: -len(ramp)], middle, b[len(ramp) :]])
    joints += int(seams.alarms(wave, [0.95], rate=RATE)[0])
  assert joints <= 3


def test_rates_join_sounds_and_say_how_sure_they_are():
  rate = seams.rate_of([np.array([True, False]), np.array([False, False])])
  assert rate.rate == 0.25 and rate.count == 4 and 0 < rate.low < 0.25 < rate.high < 1
  assert np.isnan(seams.rate_of([]).rate)


def test_places_keep_away_from_seams_and_ends():
  found = seams.places(4.0, np.random.default_rng(0), count=50, away_from=[1.0, 2.0])
  assert len(found) == 50 and min(found) > 0.08 and max(found) < 3.92
  assert min(abs(t - s) for t in found for s in (1.0, 2.0)) > 0.08


def test_what_is_no_sound_is_told():
  for wave in (np.zeros((2, 9)), np.arange(9), np.array([0.0, np.nan])):
    with pytest.raises(UserError, match="pass finite floats"):
      seams.flux(wave, rate=RATE)
