"""Timbres: bands that do not overlap, pitches where they should be, decays and levels."""

import numpy as np
import pytest

from mg_jax.world.sound import timbres
from mg_jax.world.sound.facts import MATERIALS, PITCHES, pitch_hz

RATE = 48_000


def share(wave, low, high):
  """Of the energy, between two frequencies."""
  power = np.abs(np.fft.rfft(wave)) ** 2
  hz = np.fft.rfftfreq(len(wave), 1 / RATE)
  return power[(hz >= low) & (hz < high)].sum() / power.sum()


def loudest(wave):
  padded = np.pad(wave, (0, max(0, RATE - len(wave))))
  return np.fft.rfftfreq(len(padded), 1 / RATE)[np.argmax(np.abs(np.fft.rfft(padded)))]


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("size", PITCHES)
def test_a_strike_begins_at_once_and_rings_at_its_pitch(material, size):
  wave = timbres.strike(material, pitch_hz(material, size), RATE)
  assert wave.dtype == np.float32 and np.abs(wave).max() == pytest.approx(0.5)
  assert np.abs(wave[:48]).max() > 0.05
  assert loudest(wave) == pytest.approx(pitch_hz(material, size), rel=0.02)
  assert np.abs(wave[-48:]).max() < 0.005


def test_metal_rings_longest_and_wood_shortest():
  def seconds(material):
    wave = timbres.strike(material, MATERIALS[material], RATE).astype(float)
    return np.searchsorted(np.cumsum(wave**2) / (wave**2).sum(), 0.95) / RATE

  assert seconds("metal") > 2 * seconds("glass") > 3 * seconds("wood")


@pytest.mark.parametrize("instrument", timbres.INSTRUMENTS)
def test_notes_stay_in_the_band_of_music(instrument):
  for semitones in (0, 19):
    hz = timbres.LOWEST_ROOT * 2 ** (semitones / 12)
    wave = timbres.note(instrument, hz, 0.3, RATE)
    assert np.abs(wave).max() == pytest.approx(timbres.NOTE_LEVEL, rel=1e-3)
    assert loudest(wave) == pytest.approx(hz, rel=0.02)
    assert share(wave, 150, timbres.MUSIC_TOP + 200) > 0.99
    assert share(wave, 2600, 24_000) < 1e-4  # where contacts are listened for
    assert abs(wave[0]) < 1e-3 and abs(wave[-1]) < 1e-3


def test_waves_are_shared_and_cannot_be_changed():
  assert timbres.strike("wood", 700.0, RATE) is timbres.strike("wood", 700.0, RATE)
  with pytest.raises(ValueError, match="read-only"):
    timbres.note("pad", 220.0, 0.3, RATE)[0] = 1


@pytest.mark.parametrize("length", [48_000, 12_345])
def test_noise_fills_its_band_alone(length):
  wave = timbres.band_noise(np.random.default_rng(0), length, rate=RATE, band_hz=(2000, 4000))
  assert wave.shape == (length,) and wave.std() == pytest.approx(1, rel=0.01)
  assert share(wave, 1990, 4010) > 0.999
  halves = share(wave, 2000, 3000)
  assert 0.4 < halves < 0.6
