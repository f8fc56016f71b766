"""Distances of sounds by hand and by a second writing, their invariances, and silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.losses import audio
from tests.kernels.spectrum_test import noise, slaney

SMALL = ((32, 5), (64, 10))


def spectrum(wave, window):
  """Magnitudes (frames, bins) by a loop over frames."""
  padded = np.pad(np.asarray(wave, np.float64), window // 2, mode="reflect")
  shape = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  starts = range(0, len(wave) // (window // 4) * (window // 4) + 1, window // 4)
  return np.abs([np.fft.rfft(padded[s : s + window] * shape) for s in starts])


def test_the_mel_distance_is_the_sum_over_scales():
  a, b = noise(400, seed=1), 0.3 * noise(400, seed=2)
  want = np.zeros(2)
  for window, bins in SMALL:
    filters = slaney(16_000, window, bins)
    for i in range(2):
      logs = [np.log10(np.maximum(spectrum(w[i], window) @ filters, 1e-5)) for w in (a, b)]
      want[i] += np.abs(logs[0] - logs[1]).mean()
  got = audio.mel_distance(a, b, rate=16_000, scales=SMALL)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_the_stft_distance_weighs_logarithms_of_powers():
  a, b = noise(300, seed=1), noise(300, seed=2)
  want = np.zeros(2)
  for i in range(2):
    x, y = spectrum(a[i], 64), spectrum(b[i], 64)
    want[i] = np.abs(x - y).mean() + np.abs(np.log10(x**2 / y**2)).mean()
  np.testing.assert_allclose(audio.stft_distance(a, b, windows=(64,)), want, rtol=1e-4)


def test_a_tenth_of_the_level_is_one_in_every_mel_bin():
  wave = noise(2000)
  got = audio.mel_distance(0.1 * wave, wave, rate=48_000, scales=((512, 20), (1024, 40)))
  np.testing.assert_allclose(got, 2.0, rtol=1e-3)


def test_equal_sounds_have_no_distance_and_silence_no_nan():
  wave, silence = noise(500), jnp.zeros((2, 500))
  for fn in (lambda a, b: audio.mel_distance(a, b, rate=48_000), audio.stft_distance):
    np.testing.assert_array_equal(fn(wave, wave), 0.0)
    np.testing.assert_array_equal(fn(silence, silence), 0.0)
    assert np.all(fn(silence, wave) > 1)
    slope = jax.grad(lambda w, fn=fn: fn(w, wave).sum())(silence)
    assert jnp.isfinite(slope).all()


def test_what_is_far_below_the_floor_is_hardly_heard_yet_can_be_learned():
  wave, hiss = 0.1 * noise(2000, seed=1), 1e-4 * noise(2000, seed=2)
  silence = jnp.zeros_like(wave)
  distance = lambda a, b, floor: audio.mel_distance(a, b, rate=48_000, floor=floor)  # noqa: E731
  loud, quiet = distance(wave, silence, 3e-3), distance(hiss, silence, 3e-3)
  assert np.all(quiet < 0.05 * loud)
  assert np.all(distance(hiss, silence, 0.0) > 10 * quiet)
  # From far below the floor there still is a way to what should be heard: a cut has none.
  slope = jax.grad(lambda w: distance(w, wave, 3e-3).sum())(1e-6 * noise(2000, seed=3))
  assert float(jnp.linalg.norm(slope)) > 0.1


def test_squares_hear_what_is_seldom():
  """One loud click in silence: beside a steady error of equal mean, only squares tell it apart."""
  silence = jnp.zeros((1, 4000))
  click = silence.at[:, 2000].set(0.5)
  steady = 2e-3 * noise(4000, rows=1)
  ratio = lambda power: float(  # noqa: E731
    audio.mel_distance(silence, click, rate=48_000, scales=SMALL, floor=1e-3, power=power)[0]
    / audio.mel_distance(silence, steady, rate=48_000, scales=SMALL, floor=1e-3, power=power)[0]
  )
  assert ratio(2.0) > 1.5 * ratio(1.0)


def test_rows_are_measured_alone():
  a, b = noise(300, rows=3, seed=1), noise(300, rows=3, seed=2)
  whole = audio.mel_distance(a, b, rate=48_000, scales=SMALL)
  np.testing.assert_allclose(whole[1:2], audio.mel_distance(
    a[1:2], b[1:2], rate=48_000, scales=SMALL), rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_si_sdr_is_the_power_of_the_distortion_alone(ratio):
  rng = np.random.default_rng(3)
  target = rng.standard_normal(4000)
  other = rng.standard_normal(4000)
  target, other = target - target.mean(), other - other.mean()
  other -= target * (other @ target) / (target @ target)
  other *= ratio * np.linalg.norm(target) / np.linalg.norm(other)
  want = -20 * np.log10(ratio)
  for scale, offset in ((1.0, 0.0), (0.05, 0.3)):
    made = scale * (target + other) + offset
    got = audio.si_sdr(*(jnp.asarray(x[None], jnp.float32) for x in (made, target)))
    np.testing.assert_allclose(got, want, atol=1e-2)


def test_si_sdr_of_silence_is_finite():
  silence, wave = jnp.zeros((1, 100)), noise(100, rows=1)
  for a, b in ((silence, wave), (wave, silence), (silence, silence)):
    assert np.isfinite(audio.si_sdr(a, b)).all()
  assert audio.si_sdr(wave, silence) < -50
