"""Synthesis: exact times and lengths, stems that sum to the mix, levels, effects and silence."""

import dataclasses

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.scene.facts import Background, Motion, Music, Scene, Sound, Thing
from mg_jax.world.scene.sampling import WorldConfig, sample
from mg_jax.world.sound.synthesis import soundtrack

QUIET = Sound()


def scene(motion, *, sound=QUIET, duration_s=2.0, colour="white", **kwargs):
  thing = Thing("square", colour, "large", 0, 0, motion=motion, **kwargs)
  return Scene(0, 0, Background("dark"), (thing,), duration_s=duration_s, sound=sound)


def pitch(wave, start_s, seconds=0.1, rate=48_000):
  part = wave[round(start_s * rate) :][: round(seconds * rate)]
  spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 16))
  return np.argmax(spectrum) * rate / (1 << 16)


@pytest.mark.parametrize("duration_s", [2.0, 3.3333, 0.5])
def test_length_is_that_of_the_scene_and_stems_sum_to_the_mix(duration_s):
  config = dataclasses.replace(WorldConfig.orchestra(), duration_s=(duration_s, duration_s))
  for index in range(12):
    track = soundtrack(sample(0, index, config))
    assert track.mix.shape == (round(duration_s * 48_000),) and track.mix.dtype == np.float32
    assert np.abs(track.mix).max(initial=0) <= 0.991
    total = np.sum([*track.stems.values(), np.zeros_like(track.mix)], axis=0)
    np.testing.assert_allclose(total, track.mix, atol=1e-6)


def test_the_same_scene_sounds_the_same():
  drawn = sample(0, 4, WorldConfig.orchestra())
  np.testing.assert_array_equal(soundtrack(drawn).mix, soundtrack(drawn).mix)


def test_an_impact_begins_at_its_sample():
  hits = (-0.3, 0.24, 0.61, 1.2)
  track = soundtrack(scene(Motion("bounce", 0.4, hits=hits)))
  first, second = (round(hit.time_s * 48_000) for hit in track.events)
  assert not track.mix[:first].any() and np.abs(track.mix[first : first + 20]).max() > 0.02
  later = track.mix[second : second + 20]
  assert np.abs(later - track.mix[second - 20 : second]).max() > 0.02
  assert set(track.stems) == {"impacts"} and (first, second) == (23_040, 58_560)


def test_silence_is_digital():
  assert not soundtrack(scene(Motion())).mix.any()
  track = soundtrack(scene(Motion("bounce", 0.4, cycles=2.0), sound=None))
  assert not track.mix.any() and track.events == () and track.stems == {}


def test_growth_rises_by_two_octaves_and_shrinking_falls():
  for name, first, last in (("grow", 1300, 5200), ("shrink", 5200, 1300)):
    wave = soundtrack(scene(Motion(name, amount=2.0))).stems["effect"]
    assert pitch(wave, 0.0, 0.02) == pytest.approx(first, rel=0.05)
    assert pitch(wave, 1.98, 0.02) == pytest.approx(last, rel=0.05)


def test_an_orbit_hums_higher_on_its_right():
  wave = soundtrack(scene(Motion("orbit", amount=0.15, cycles=1.0))).stems["effect"]
  assert pitch(wave, 0.0, 0.2) > 170 > 135 > pitch(wave, 0.9, 0.2)


def test_a_spin_whirrs_with_its_corners():
  wave = soundtrack(scene(Motion("spin", cycles=0.5))).stems["effect"]
  level = np.sqrt(np.mean(np.reshape(wave[:95_000], (-1, 500)) ** 2, axis=1))
  spectrum = np.abs(np.fft.rfft(level - level.mean()))
  hz = np.fft.rfftfreq(len(level), 500 / 48_000)
  # Four corners, heard four times each, in half a turn of two seconds.
  assert hz[np.argmax(spectrum)] == pytest.approx(4.0, abs=0.6)


def test_music_has_a_note_each_half_beat():
  music = Music("happy", root=3, start_s=0.1, tune=7)
  wave = soundtrack(scene(Motion(), sound=Sound(music))).stems["music"]
  assert not wave[: round(0.1 * 48_000)].any()
  pitches = [pitch(wave, 0.12 + k * 30 / 136, 0.18) for k in range(8)]
  steps = 12 * np.log2(np.array(pitches) / 220) - 3
  assert np.abs(steps - np.round(steps)).max() < 0.3
  assert set(np.round(steps).astype(int)) <= {0, 2, 4, 5, 7, 9, 11, 12}
  assert np.abs(np.diff(steps)).min() > 0.5
  other = soundtrack(scene(Motion(), sound=Sound(dataclasses.replace(music, tune=8))))
  assert not np.array_equal(other.mix, wave)


@pytest.mark.parametrize("ambience, low, high", [("rain", 5400, 12_100), ("wind", 200, 950),
                                                 ("mains", 40, 110)])  # fmt: skip
def test_ambience_keeps_to_its_band(ambience, low, high):
  wave = soundtrack(scene(Motion(), sound=Sound(ambience=ambience))).mix
  power, hz = np.abs(np.fft.rfft(wave)) ** 2, np.fft.rfftfreq(len(wave), 1 / 48_000)
  assert power[(hz > low) & (hz < high)].sum() > 0.99 * power.sum()
  assert np.sqrt(np.mean(wave**2)) == pytest.approx(0.025, rel=0.3)


@pytest.mark.parametrize("quality, level_db", [(8.0, None), (6.0, -50.0), (4.0, -40.0)])
def test_poor_recordings_have_noise(quality, level_db):
  track = soundtrack(scene(Motion(), sound=Sound(quality=quality)))
  if level_db is None:
    assert "noise" not in track.stems
  else:
    assert 10 * np.log10(np.mean(track.mix**2)) == pytest.approx(level_db, abs=0.3)


def test_rates_are_free_from_16_khz_on():
  moving = scene(Motion("bounce", 0.4, hits=(-0.3, 0.25, 1.2)), sound=Sound(Music("sad"), "rain"))
  assert soundtrack(moving, rate=16_000).mix.shape == (32_000,)
  with pytest.raises(UserError, match="16000"):
    soundtrack(moving, rate=8000)
