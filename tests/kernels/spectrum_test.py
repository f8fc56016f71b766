"""Spectra against scipy, mel filters against a second writing of them, and the MDCT's inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.kernels.spectrum import imdct, magnitude, mdct, mel_filters, stft


def noise(samples, rows=2, seed=0):
  wave = np.random.default_rng(seed).uniform(-1, 1, (rows, samples))
  return jnp.asarray(wave, jnp.float32)


@pytest.mark.parametrize("samples, window, hop", [(1000, 64, 16), (517, 128, 32), (301, 32, 32)])
def test_spectra_are_those_of_scipy(samples, window, hop):
  signal = pytest.importorskip("scipy.signal")
  wave = noise(samples)
  padded = np.pad(np.asarray(wave, np.float64), ((0, 0), (window // 2,) * 2), mode="reflect")
  _, _, want = signal.stft(
    padded, window="hann", nperseg=window, noverlap=window - hop, boundary=None, padded=False
  )
  # scipy divides by the sum of the window, half its length.
  want = want.swapaxes(1, 2) * window / 2
  got = jax.jit(lambda w: stft(w, window=window, hop=hop))(wave)
  assert got.shape == (2, 1 + samples // hop, 1 + window // 2, 2)
  np.testing.assert_allclose(got[..., 0], want.real, atol=1e-4)
  np.testing.assert_allclose(got[..., 1], want.imag, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 2, 15])
def test_sounds_shorter_than_a_window_have_spectra(samples):
  assert np.isfinite(stft(noise(samples), window=32, hop=8)).all()


def test_magnitudes_of_silence_have_a_finite_gradient():
  total = lambda w: jnp.sum(magnitude(w, window=32, hop=8))  # noqa: E731
  silence = jnp.zeros((1, 64))
  assert magnitude(silence, window=32, hop=8).max() <= 1e-6
  assert jnp.isfinite(jax.grad(total)(silence)).all()


def slaney(rate, window, bins):
  """Triangles bin by bin, in scalar arithmetic."""

  def hertz(mel):
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

  top = 15 + 27 * np.log(rate / 2 / 1000) / np.log(6.4) if rate >= 2000 else rate / 2 * 3 / 200
  edges = [hertz(top * i / (bins + 1)) for i in range(bins + 2)]
  out = np.zeros((window // 2 + 1, bins))
  for k in range(window // 2 + 1):
    f = k * rate / window
    for i in range(bins):
      low, middle, high = edges[i : i + 3]
      if low < f < high:
        height = (f - low) / (middle - low) if f <= middle else (high - f) / (high - middle)
        out[k, i] = height * 2 / (high - low)
  return out


@pytest.mark.parametrize("rate, window, bins", [(48_000, 512, 80), (48_000, 32, 5), (1600, 64, 8)])
def test_mel_filters_are_those_of_slaney(rate, window, bins):
  got = mel_filters(rate=rate, window=window, bins=bins)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, slaney(rate, window, bins), atol=1e-6)


def test_a_tone_lands_in_its_mel_bin():
  """At 24 kHz and 40 bins, 1 kHz stands at mel 15 of 33.3: three sevenths of the way up."""
  wave = jnp.sin(2 * np.pi * 1000 * jnp.arange(4096) / 24_000)[None]
  mel = magnitude(wave, window=1024, hop=256) @ mel_filters(rate=24_000, window=1024, bins=40)
  edges = np.linspace(0, 15 + 27 * np.log(12) / np.log(6.4), 42)
  assert mel.mean((0, 1)).argmax() == np.abs(edges[1:-1] - 15).argmin()


def test_windows_that_cannot_be_cut_are_refused():
  for window, hop in ((33, 11), (32, 0), (32, 12)):
    with pytest.raises(ValueError, match="even windows of whole hops"):
      stft(noise(100), window=window, hop=hop)


@pytest.mark.parametrize("hop", [2, 16, 48])
def test_a_cosine_transform_comes_back_but_for_half_a_hop_at_the_ends(hop):
  wave = noise(10 * hop)
  rows = jax.jit(lambda w: mdct(w, hop=hop))(wave)
  assert rows.shape == (2, 10, hop)
  again = imdct(rows)
  inside = slice(hop // 2, -(hop // 2))
  np.testing.assert_allclose(again[:, inside], wave[:, inside], atol=1e-5)
  # What the window left of them, at least half: nothing is mirrored into it.
  ends = np.asarray(again)[:, : hop // 2] / np.asarray(wave)[:, : hop // 2]
  assert np.all((ends > 0.5) & (ends < 1.0))


def test_a_tone_lies_in_its_band_of_the_cosine_transform():
  hop, rate, hertz = 96, 48_000, 7000.0
  wave = jnp.sin(2 * np.pi * hertz * jnp.arange(100 * hop) / rate)[None]
  power = np.square(mdct(wave, hop=hop)[0, 1:-1]).sum(axis=0)
  middle = int(hertz / (rate / 2 / hop))
  assert power[middle - 1 : middle + 2].sum() > 0.98 * power.sum()
  # Orthonormal: as much power as in the wave.
  assert power.sum() == pytest.approx(float(jnp.square(wave[0, hop:-hop]).sum()), rel=0.01)


@pytest.mark.parametrize("samples, hop", [(30, 3), (30, 4), (8, 0)])
def test_a_cosine_transform_takes_whole_even_hops(samples, hop):
  with pytest.raises(ValueError, match="whole even hops"):
    mdct(noise(samples), hop=hop)
