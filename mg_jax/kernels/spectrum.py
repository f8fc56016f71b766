"""Short-time Fourier transform of waveforms, mel filters over its magnitudes, MDCT. [MG 6.2]

The usual one of audio networks: periodic Hann windows, frames centred on multiples of the hop,
reflected ends, no scaling. Frames are assembled from blocks of one hop, so that neither they nor
their gradient need a gather.

wave (B, T) -> (B, 1 + T // hop, 1 + window // 2, 2), real and imaginary
"""

import functools

import jax.numpy as jnp
import numpy as np

from mg_jax.core.typing import Array, Float

# Below sqrt(_FLOOR) the gradient of a magnitude is almost zero, instead of infinite.
_FLOOR = 1e-14
_LINEAR_HZ, _BREAK_HZ = 200 / 3, 1000.0  # one mel of Slaney; where the scale turns logarithmic
_LOG_STEP = np.log(6.4) / 27


def stft(
  wave_BT: Float[Array, "B T"], *, window: int, hop: int
) -> Float[Array, "B frames bins 2"]:
  """Spectrum of frames of `window` samples that start a hop apart.

  Raises:
    ValueError: if the window is odd or not a multiple of the hop.
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
  """Absolute values of `stft`, whose gradient is finite in silence too."""
  return jnp.sqrt(jnp.sum(jnp.square(stft(wave_BT, window=window, hop=hop)), axis=-1) + _FLOOR)


def mdct(wave_BT: Float[Array, "B T"], *, hop: int) -> Float[Array, "B rows hop"]:
  """Modified discrete cosine transform: T / hop rows, which `imdct` inverts.

  Frames of two hops under a sine window, each centred on the hop of its row (Princen and Bradley
  1986). The waveform is zero-padded, so half a hop at either end comes back attenuated.

  Raises:
    ValueError: if hop is odd or does not divide the waveform's length.
  """
  if hop < 2 or hop % 2 or wave_BT.shape[1] % hop:
    raise ValueError(f"mdct() takes whole even hops; got {wave_BT.shape[1]} samples, hop {hop}")
  padded = jnp.pad(wave_BT, ((0, 0), (hop // 2, hop // 2)))
  blocks = padded.reshape(len(wave_BT), -1, hop)
  return jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=-1) @ _cosines(hop)


def imdct(rows_BRC: Float[Array, "B rows hop"]) -> Float[Array, "B T"]:
  """The inverse of `mdct`."""
  hop = rows_BRC.shape[-1]
  left, right = jnp.split(rows_BRC @ _cosines(hop).T, 2, axis=-1)
  blocks = jnp.pad(left, ((0, 0), (0, 1), (0, 0))) + jnp.pad(right, ((0, 0), (1, 0), (0, 0)))
  return blocks.reshape(len(blocks), -1)[:, hop // 2 : -(hop // 2)]


@functools.lru_cache(maxsize=8)
def _cosines(hop: int) -> np.ndarray:
  """(2 hop, hop): windowed cosines, orthonormal together with those of the neighbouring frames."""
  n, k = np.arange(2 * hop)[:, None] + 0.5, np.arange(hop) + 0.5
  cosines = np.cos(np.pi / hop * (n + hop / 2) * k)
  return (np.sqrt(2 / hop) * np.sin(np.pi * n / (2 * hop)) * cosines).astype(np.float32)


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
  """Triangles of unit area from 0 Hz to half the sample rate, evenly spaced on Slaney's mel scale.

  As librosa's default. A filter that falls between two bins of the spectrum is all zero.

  Returns:
    float32 (1 + window // 2, bins).
  """
  edges = _hertz(np.linspace(0.0, _mel(rate / 2), bins + 2))
  hertz = np.linspace(0.0, rate / 2, 1 + window // 2)[:, None]
  rise = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
  fall = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
  area = (edges[2:] - edges[:-2]) / 2
  return (np.maximum(0.0, np.minimum(rise, fall)) / area).astype(np.float32)
