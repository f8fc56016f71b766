"""Convolution layers over space and over time, with biases. [MG 3.1.1]

Spatial: x_NHWC with frames folded into N. Temporal: x_BTHWC, edge frames replicated.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn

from mg_jax.core.sharding import partitioned
from mg_jax.core.typing import Array, Float
from mg_jax.kernels import conv
from mg_jax.nn.weight_norm import kernel_parameter


def _identity(key, shape, dtype=jnp.float32):
  """The middle tap is the identity over channels, the others are zero."""
  del key
  taps, channels, features = shape
  return jnp.zeros(shape, dtype).at[taps // 2].set(jnp.eye(channels, features, dtype=dtype))


_INIT: dict[str, Callable] = {
  "identity": _identity,
  "normal": nn.initializers.lecun_normal(),
}


def _parameters(
  module: nn.Module, init: Callable, shape: tuple[int, ...], *, weight_norm: bool = False
) -> tuple[Array, Array]:
  names = ("kernel",) * (len(shape) - 2) + ("conv_in", "conv_out")
  w = kernel_parameter(module, init, shape, names, weight_norm=weight_norm)
  init = partitioned(nn.initializers.zeros, "conv_out")
  b = module.param("bias", init, shape[-1:], jnp.float32)
  return w.astype(module.dtype), b.astype(module.dtype)


def _check(module: nn.Module, kernel: int) -> None:
  if module.upsample and (module.stride != 1 or kernel != 3):
    raise ValueError(f"{module.name}: upsampling needs kernel 3 and stride 1")


class SpatialConv(nn.Module):
  """A 2-D convolution with zero padding.

  Attributes:
    features: output channels.
    kernel: side of the kernel, odd or 4, see `kernels.conv.spatial_conv`.
    stride: 1, or 2 with kernel 3, which gives ceil(H / 2) x ceil(W / 2) and pads after the last row
      and column only, or with kernel 4.
    upsample: convolves x repeated twice along height and width, with far fewer products than doing
      so literally. Same parameters.
    kernel_init: initializer of the kernel.
  """

  features: int
  kernel: int = 3
  stride: int = 1
  upsample: bool = False
  kernel_init: Callable = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_NHWC: Float[Array, "N H W I"]) -> Float[Array, "N H2 W2 O"]:
    _check(self, self.kernel)
    shape = (self.kernel, self.kernel, x_NHWC.shape[-1], self.features)
    w_HWIO, b_O = _parameters(self, self.kernel_init, shape)
    x = x_NHWC.astype(self.dtype)
    if self.upsample:
      return conv.nearest2_spatial_conv(x, w_HWIO) + b_O
    return conv.spatial_conv(x, w_HWIO, stride=self.stride) + b_O


class TemporalConv(nn.Module):
  """A 1-D convolution over time.

  Attributes:
    features: output channels.
    kernel: number of frames, odd.
    stride: 1 or 2; gives ceil(T / stride) frames.
    upsample: convolves x with every frame repeated twice. Same parameters.
    kernel_init: "identity" leaves frames as they are, so that an image network inflated by such
      layers acts on each frame as before; "normal" is random.
  """

  features: int
  kernel: int = 3
  stride: int = 1
  upsample: bool = False
  kernel_init: Literal["identity", "normal"] = "normal"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTHWC: Float[Array, "B T H W I"]) -> Float[Array, "B T2 H W O"]:
    _check(self, self.kernel)
    shape = (self.kernel, x_BTHWC.shape[-1], self.features)
    w_TIO, b_O = _parameters(self, _INIT[self.kernel_init], shape)
    x = x_BTHWC.astype(self.dtype)
    if self.upsample:
      return conv.nearest2_temporal_conv(x, w_TIO) + b_O
    return conv.temporal_conv(x, w_TIO, stride=self.stride) + b_O


class PlaneConv(nn.Module):
  """A 2-D convolution with zero padding k // 2, of any odd kernel and any strides.

  Attributes:
    features: output channels.
    kernel: height and width of the kernel, odd.
    strides: of height and width.
    weight_norm: directions and norms of output channels as parameters (`nn.weight_norm`).
  """

  features: int
  kernel: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  weight_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_NHWC: Float[Array, "N H W I"]) -> Float[Array, "N H2 W2 O"]:
    shape = (*self.kernel, x_NHWC.shape[-1], self.features)
    init = nn.initializers.lecun_normal()
    w_HWIO, b_O = _parameters(self, init, shape, weight_norm=self.weight_norm)
    return conv.plane_conv(x_NHWC.astype(self.dtype), w_HWIO, strides=self.strides) + b_O
