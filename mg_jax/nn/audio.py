"""Layers over the time of a waveform, x_BTC, with biases. [MG 6.2]

With `weight_norm` a kernel is a direction and norms, as in DAC (`nn.weight_norm`).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from mg_jax.core.sharding import partitioned
from mg_jax.core.typing import Array, Float
from mg_jax.kernels import conv1d
from mg_jax.nn.weight_norm import kernel_parameter


def _parameters(
  module: nn.Module, init: Callable, shape: tuple[int, ...], *names: str, axis: int = -1
) -> tuple[Array, Array]:
  w = kernel_parameter(
    module, init, shape, names, weight_norm=module.weight_norm, axis=axis
  )
  init = partitioned(nn.initializers.zeros, "conv_out")
  b = module.param("bias", init, (module.features,), jnp.float32)
  return w.astype(module.dtype), b.astype(module.dtype)


class WaveConv(nn.Module):
  """A length-preserving convolution with zero padding.

  Attributes:
    features: output channels.
    kernel: taps, odd.
    dilation: distance between taps.
    gain: ratio of output to input power at initialisation.
    weight_norm: parametrises the kernel as directions and norms of output channels.
  """

  features: int
  kernel: int = 7
  dilation: int = 1
  gain: float = 1.0
  weight_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTC: Float[Array, "B T I"]) -> Float[Array, "B T O"]:
    shape = (self.kernel, x_BTC.shape[-1], self.features)
    init = nn.initializers.variance_scaling(self.gain, "fan_in", "truncated_normal")
    w_KIO, b_O = _parameters(self, init, shape, "kernel", "conv_in", "conv_out")
    return conv1d.wave_conv(x_BTC.astype(self.dtype), w_KIO, dilation=self.dilation) + b_O


class WaveDown(nn.Module):
  """A convolution of kernel 2 `stride` that divides the length by an even `stride`."""

  features: int
  stride: int
  weight_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTC: Float[Array, "B T I"]) -> Float[Array, "B T2 O"]:
    shape = (self.stride, x_BTC.shape[-1], 2, self.features)
    init = nn.initializers.lecun_normal(in_axis=(0, 1, 2))
    w_SIJO, b_O = _parameters(self, init, shape, "kernel", "conv_in", "kernel", "conv_out")
    return conv1d.down_conv(x_BTC.astype(self.dtype), w_SIJO) + b_O


class WaveUp(nn.Module):
  """A transposed convolution of kernel 2 `stride`; multiplies the length by an even `stride`."""

  features: int
  stride: int
  weight_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTC: Float[Array, "B T I"]) -> Float[Array, "B T2 O"]:
    shape = (x_BTC.shape[-1], 2, self.stride, self.features)
    # Each output depends on two taps of every channel, whatever the stride.
    init = nn.initializers.lecun_normal(in_axis=(0, 1), out_axis=3, batch_axis=2)
    names = ("conv_in", "kernel", "kernel", "conv_out")
    # torch normalises transposed convolutions over input channels, and so does DAC.
    w_IJSO, b_O = _parameters(self, init, shape, *names, axis=0)
    return conv1d.up_conv(x_BTC.astype(self.dtype), w_IJSO) + b_O


class Snake(nn.Module):
  """x + sin(alpha x)^2 / alpha with one frequency alpha per channel, initialised to 1."""

  @nn.compact
  def __call__(self, x_BTC: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
    init = partitioned(nn.initializers.ones, "channels")
    return conv1d.snake(x_BTC, self.param("alpha", init, x_BTC.shape[-1:], jnp.float32))
