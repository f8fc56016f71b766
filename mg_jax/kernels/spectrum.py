"""Short-time Fourier transform of waveforms, and mel filters over its magnitudes. [MG 6.2]

The usual one of audio networks: periodic Hann windows, frames centred on multiples of the hop, the
ends of the sound reflected, no scaling. Frames are put together from blocks of one hop, so that
neither they nor their gradient need a gather.

wave (B, T) -> (B, 1 + T // hop, 1 + window // 2, 2), real and imaginary
"""

import functools

import jax.numpy as jnp
import numpy as np

from mg_jax.core.typing import Array, Float

# Below sqrt(_FLOOR) a magnitude has a gradient of nearly none, in place of an infinite one.
_FLOOR = 1e-14
_LINEAR_HZ, _BREAK_HZ = 200 / 3, 1000.0  # a mel of Slaney, and where his scale turns logarithmic
_LOG_STEP = np.log(6.4) / 27


def stft(
  wave_BT: Float[Array, "B T"], *, window: int, hop: int
) -> Float[Array, "B frames bins 2"]:
  """Spectrum of frames of `window` samples that start a hop apart.

  Raises:
    ValueError: when the window is odd or no multiple of the hop.
  """
  if window % 2 or hop < 1 or window % hop:
    raise ValueError(f"stft() takes even windows of whole hops, got {window} and {hop}")
  count, parts = 1 + wave_BT.shape[1] // hop, window // hop
  wave = jnp.pad(wave_BT.astype(jnp.float32), ((0, 0), (window // 2, window // 2)), mode="reflect")
  blocks = wave[:, : (count + parts - 1) * hop].reshape(len(wave), count + parts - 1, hop)
  frames = jnp.concatenate([blocks[:, i : i + count] for i in range(parts)], axis=-1)
  bins = jnp.fft.rfft(frames * _hann(window))
  return jnp.stack([bins.real, bins.imag], axis=-1)


def magnitude(
  wave_BT: Float[Array, "B T"], *, window: int, hop: int
) -> Float[Array, "B frames bins"]:
  """Absolute values of `stft`, with a finite gradient in silence too."""
  return jnp.sqrt(jnp.sum(jnp.square(stft(wave_BT, window=window, hop=hop)), axis=-1) + _FLOOR)


@functools.lru_cache(maxsize=32)
def _hann(window: int) -> np.ndarray:
  return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)


def _hertz(mel: np.ndarray) -> np.ndarray:
  knee = _BREAK_HZ / _LINEAR_HZ
  bent = _BREAK_HZ * np.exp(_LOG_STEP * (mel - knee))
  return np.where(mel < knee, _LINEAR_HZ * mel, bent)


def _mel(hertz: float) -> float:
  if hertz < _BREAK_HZ:
    return hertz / _LINEAR_HZ
  return _BREAK_HZ / _LINEAR_HZ + np.log(hertz / _BREAK_HZ) / _LOG_STEP


@functools.lru_cache(maxsize=32)
def mel_filters(*, rate: int, window: int, bins: int) -> np.ndarray:
  """Triangles of unit area from 0 Hz to half the rate, evenly spaced in Slaney's mel.

  Those of librosa's default. A filter between two bins of the spectrum is all zero.

  Returns:
    float32 (1 + window // 2, bins).
  """
  edges = _hertz(np.linspace(0.0, _mel(rate / 2), bins + 2))
  hertz = np.linspace(0.0, rate / 2, 1 + window // 2)[:, None]
  rise = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
  fall = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
  area = (edges[2:] - edges[:-2]) / 2
  return (np.maximum(0.0, np.minimum(rise, fall)) / area).astype(np.float32)
