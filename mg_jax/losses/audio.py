"""Distances between waveforms, as used to train and evaluate codecs [MG 6.2].

The terms and figures of DAC, whose training code produced the published DACVAE: log-mel distances
at seven resolutions as the loss; distances of spectra at two, and SI-SDR, as measures. Each gives
one value per row of (B, T), in [-1, 1]; the sums over resolutions are DAC's own.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from mg_jax.core.typing import Array, Float
from mg_jax.kernels.spectrum import magnitude, mel_filters

# Window in samples, mel bins; the hop is a quarter of the window.
MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))
STFT_WINDOWS = (2048, 512)
CLAMP = 1e-5  # lower bound before taking logarithms
_EPS = 1e-8


def _log(x: Array) -> Array:
  return jnp.log10(jnp.maximum(x, CLAMP))


def _per_row(x: Array) -> Array:
  return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def mel_distance(
  prediction_BT: Float[Array, "B T"],
  target_BT: Float[Array, "B T"],
  *,
  rate: int,
  scales: Sequence[tuple[int, int]] = MEL_SCALES,
  floor: float = 0.0,
  power: float = 1.0,
) -> Float[Array, "B"]:
  """Mean |difference| ** power of log10(mel magnitude + floor), summed over the scales.

  DAC has no floor and a power of 1.
  """
  total = jnp.zeros(len(prediction_BT))
  for window, bins in scales:
    filters = mel_filters(rate=rate, window=window, bins=bins)
    a, b = (
      _log(magnitude(wave, window=window, hop=window // 4) @ filters + floor)
      for wave in (prediction_BT, target_BT)
    )
    total += _per_row(jnp.abs(a - b) ** power)
  return total


def stft_distance(
  prediction_BT: Float[Array, "B T"],
  target_BT: Float[Array, "B T"],
  *,
  windows: Sequence[int] = STFT_WINDOWS,
) -> Float[Array, "B"]:
  """Mean |difference| of magnitudes, and of log10 of their squares, summed over the windows."""
  total = jnp.zeros(len(prediction_BT))
  for window in windows:
    a, b = (magnitude(wave, window=window, hop=window // 4) for wave in (prediction_BT, target_BT))
    total += _per_row(jnp.abs(a - b)) + 2 * _per_row(jnp.abs(_log(a) - _log(b)))
  return total


def si_sdr(
  prediction_BT: Float[Array, "B T"], target_BT: Float[Array, "B T"]
) -> Float[Array, "B"]:
  """Scale-invariant signal-to-distortion ratio in dB, with both means removed (Le Roux 2019).

  For a constant target it is far below zero, but never nan.
  """
  a, b = (x - jnp.mean(x, axis=1, keepdims=True) for x in (prediction_BT, target_BT))
  dot, power, own = (jnp.sum(x, axis=1) for x in (a * b, b * b, a * a))
  signal = jnp.square(dot) / (power + _EPS)
  return 10 * jnp.log10((signal + _EPS) / (jnp.maximum(own - signal, 0.0) + _EPS))
