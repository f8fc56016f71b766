"""Short-time spectra: densities that integrate to mean squares, and waves that are refused."""

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.sound.spectra import band, checked, densities


def test_densities_of_a_tone_and_of_noise_sum_to_their_mean_square():
  time = np.arange(48_000) / 48_000
  noise = np.random.default_rng(0).normal(0, 0.1, 48_000)
  for wave in (0.3 * np.sin(2 * np.pi * 1000 * time), noise):
    power, hz = densities(wave, window=2048, hop=512)
    middle = power[4:-6].sum(axis=1).mean() * hz[1]
    assert middle == pytest.approx(np.mean(wave**2), rel=0.05)


def test_frames_are_centred_on_their_samples():
  wave = np.zeros(48_000)
  wave[9600] = 1
  power, _ = densities(wave, window=256, hop=64)
  assert power.sum(axis=1).argmax() == 150


def test_band_is_a_range_of_bins():
  _, hz = densities(np.zeros(4800), window=480, hop=480)
  assert hz[band(hz, 200.0, 500.0)].tolist() == [200, 300, 400]


@pytest.mark.parametrize(
  "wrong, match",
  [
    (np.zeros(48_000, np.int16), "int16"),
    (np.zeros((1, 48_000)), "shape"),
    (np.zeros(100), "0.1 s"),
    (np.full(48_000, np.nan), "finite"),
  ],
)
def test_what_is_no_wave_is_refused(wrong, match):
  with pytest.raises(UserError, match=match):
    checked(wrong)
