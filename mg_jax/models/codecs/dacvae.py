"""The audio codec: mono sound to 25 latents of 128 channels per second and back [MG 6.2].

The convolutional network of DAC with a Gaussian bottleneck in place of its quantizer, as in the
open DACVAE: four levels of dilated residual units and strided convolutions around Snake
activations. A waveform is padded by reflection to a whole number of latents; decoding drops the
padding. Array for array it is the published network (`models.weights.published`) without the
watermark branch of the decoder, which is not part of the codec. `weight_norm` learns every kernel
as a direction and norms, as DAC does; without it kernels are plain, as for inference. Small codecs
may encode the MDCT of the waveform on a logarithmic scale: there, high and quiet tones, which they
otherwise learn last if at all, are as easy as low and loud ones.

wave (B, T) in [-1, 1] at 48 kHz  <->  latent (B, L, C), L = ceil(T / 1920), C = 128
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import shard
from mg_jax.core.typing import Array, Float
from mg_jax.kernels.spectrum import imdct, mdct
from mg_jax.nn.audio import Snake, WaveConv, WaveDown, WaveUp

DILATIONS = (1, 3, 9)
# Receptive field of the three residual units of a level, samples on each side: kernels of 7 taps.
_UNITS = 3 * sum(DILATIONS)
_STD_FLOOR = 1e-4
# Gain of a residual branch and of the last layer at initialisation. With unit gain, 24 units
# without norms between them generated full-scale noise at first.
_BRANCH_GAIN, _LAST_GAIN = 0.1, 0.01
# MDCT scale: the level below which it is linear, nepers per unit, and the upper bound.
_QUIET, _NEPERS, _LOUDEST = 1e-3, 4.0, 3.0


def _compress(x):
  """Coefficients on a logarithmic scale, with their sign."""
  return jnp.arcsinh(x / _QUIET) / _NEPERS


def _expand(x):
  """The inverse of `_compress`, up to a level above full scale."""
  return _QUIET * jnp.sinh(_NEPERS * jnp.clip(x, -_LOUDEST, _LOUDEST))


class Unit(nn.Module):
  """Residual unit: Snake, dilated convolution, Snake, pointwise convolution."""

  dilation: int
  weight_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTC):
    how = {"weight_norm": self.weight_norm, "dtype": self.dtype}
    c = x_BTC.shape[-1]
    y = Snake(name="snake1")(x_BTC)
    y = WaveConv(c, dilation=self.dilation, name="conv1", **how)(y)
    last = WaveConv(c, kernel=1, gain=_BRANCH_GAIN, name="conv2", **how)
    y = last(Snake(name="snake2")(y))
    return shard(x_BTC + y, "batch", "time", "channels")


class Level(nn.Module):
  """Three residual units before a strided convolution, or after a transposed one (`up`)."""

  features: int
  stride: int
  up: bool = False
  weight_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTC):
    how = {"weight_norm": self.weight_norm, "dtype": self.dtype}

    def units(x):
      for i, dilation in enumerate(DILATIONS):
        x = Unit(dilation, name=f"unit{i}", **how)(x)
      return x

    snake = Snake(name="snake")
    layer = WaveUp if self.up else WaveDown
    resample = layer(self.features, self.stride, name="resample", **how)
    return units(resample(snake(x_BTC))) if self.up else resample(snake(units(x_BTC)))


class DACVAE(nn.Module):
  """Encoder and decoder; call with `method="encode"` or `method="decode"`.

  Attributes:
    channels: width at the sample rate in the encoder; each level doubles it.
    rates: strides of the encoder's levels, even; the decoder has them in reverse.
    hidden: width at the latent rate on both sides of the bottleneck.
    decoder_channels: width at the latent rate in the decoder; each level halves it.
    latent: latent channels C.
    sample_rate: of the waveform in Hz.
    patch: samples per row, even: input and output are an MDCT of this hop, on a logarithmic scale.
      1, the published codec, is the waveform itself.
    weight_norm: learns kernels as directions and norms (`nn.weight_norm`).
  """

  channels: int = 64
  rates: tuple[int, ...] = (2, 8, 10, 12)
  hidden: int = 1024
  decoder_channels: int = 1536
  latent: int = 128
  sample_rate: int = 48_000
  patch: int = 1
  weight_norm: bool = False
  dtype: Any = jnp.float32

  @property
  def hop(self) -> int:
    """Samples per latent."""
    return self.patch * self._rows

  @property
  def _rows(self) -> int:
    return math.prod(self.rates)

  @property
  def _around(self) -> int:
    """Receptive field in rows on each side of the outer convolution, of 7 taps, and of the MDCT."""
    return 3 + (self.patch > 1)

  @property
  def latent_rate(self) -> float:
    """Latents per second."""
    return self.sample_rate / self.hop

  def latent_shape(self, samples: int) -> tuple[int, int]:
    """(L, C) of the latent of a waveform."""
    return math.ceil(samples / self.hop), self.latent

  @property
  def encoder_context(self) -> int:
    """Receptive field of a latent beyond its own samples, on each side, in latents.

    Computed in rows of `patch` samples, as for the decoder.
    """
    first, last = -1, 1  # of a kernel of three
    for rate in reversed(self.rates):
      first = first * rate - rate // 2 - _UNITS
      last = last * rate + 3 * rate // 2 - 1 + _UNITS
    around = self._around
    return math.ceil(max(around - first, last + around - (self._rows - 1)) / self._rows)

  @property
  def decoder_context(self) -> int:
    """Receptive field of a sample beyond its own latent, on each side, in latents."""
    first, last = -self._around, self._rows - 1 + self._around
    for rate in self.rates:
      first, last = first - _UNITS, last + _UNITS
      first, last = -(-(first + rate // 2 - 2 * rate + 1) // rate), (last + rate // 2) // rate
    return max(3 - first, last + 3)

  def setup(self):
    if not self.rates or any(rate < 2 or rate % 2 for rate in self.rates):
      raise UserError(f"the codec has rates {tuple(self.rates)}; give even ones")
    if self.patch != 1 and (self.patch < 2 or self.patch % 2):
      raise UserError(f"the codec has patch {self.patch}; give 1 or an even number")
    if self.decoder_channels % 2 ** len(self.rates):
      raise UserError(
        f"the codec has {self.decoder_channels} decoder_channels; give a multiple of "
        f"{2 ** len(self.rates)}, as each of its levels halves them"
      )
    how = {"weight_norm": self.weight_norm, "dtype": self.dtype}
    conv = lambda c, k: WaveConv(c, kernel=k, **how)  # noqa: E731
    levels = list(enumerate(self.rates, 1))
    self.encoder_in = conv(self.channels, 7)
    self.encoder_levels = [Level(self.channels * 2**i, rate, **how) for i, rate in levels]
    self.encoder_snake = Snake()
    self.encoder_out = conv(self.hidden, 3)
    self.posterior = conv(2 * self.latent, 1)

    self.expand = conv(self.hidden, 1)
    self.decoder_in = conv(self.decoder_channels, 7)
    self.decoder_levels = [
      Level(self.decoder_channels // 2**i, rate, up=True, **how)
      for i, rate in enumerate(reversed(self.rates), 1)
    ]
    self.decoder_snake = Snake()
    self.decoder_out = WaveConv(self.patch, gain=_LAST_GAIN, **how)

  def encode(self, wave_BT: Float[Array, "B T"]):
    """Waveform in [-1, 1] to (mean, logvar), each (B, ceil(T / hop), C)."""
    surplus = -wave_BT.shape[1] % self.hop
    x = jnp.pad(wave_BT, ((0, 0), (0, surplus)), mode="reflect")
    rows = x[..., None] if self.patch == 1 else _compress(mdct(x, hop=self.patch))
    x = self.encoder_in(rows.astype(self.dtype))
    for level in self.encoder_levels:
      x = level(x)
    x = self.posterior(self.encoder_out(self.encoder_snake(x)))
    mean, scale = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return mean, 2 * jnp.log(nn.softplus(scale) + _STD_FLOOR)

  def decode(self, latent_BLC: Float[Array, "B L C"], *, length: int | None = None):
    """Latent to a waveform in [-1, 1] of `length` samples, by default all that it covers.

    Raises:
      UserError: if the latents cover fewer samples.
    """
    whole = latent_BLC.shape[1] * self.hop
    length = whole if length is None else length
    if not 0 < length <= whole:
      raise UserError(f"{latent_BLC.shape[1]} latents cannot be decoded to {length} samples")
    x = self.decoder_in(self.expand(latent_BLC.astype(self.dtype)))
    for level in self.decoder_levels:
      x = level(x)
    rows = self.decoder_out(self.decoder_snake(x)).astype(jnp.float32)
    wave = rows[..., 0] if self.patch == 1 else imdct(_expand(rows))
    return jnp.tanh(wave[:, :length])

  def __call__(self, wave_BT):
    """Reconstruction through the latent mean; used to create the parameters."""
    mean, logvar = self.encode(wave_BT)
    return self.decode(mean, length=wave_BT.shape[1]), mean, logvar
