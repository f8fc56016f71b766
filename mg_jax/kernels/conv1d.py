"""Convolutions over time of a waveform, and the Snake activation between them. [MG 6.2]

x_BTC with zero padding everywhere. Strided layers have kernels of two strides: input blocks of one
stride are multiplied by the kernel in one matrix product, and each output sums the results of two
neighbouring blocks. Results have the dtype of x, weight gradients accumulate in float32.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from mg_jax.core.typing import Array, Float
from mg_jax.kernels.conv import over_batch
from mg_jax.kernels.linear import dense

_LAYOUT = ("NWC", "WIO", "NWC")

# pi as a sum of two float32 numbers; the first has so few digits that small multiples of it are
# exact.
_PI = (3.140625, math.pi - 3.140625)
# Minimax polynomial of sin(r) / r in r^2, for |r| <= pi / 2: error below 1e-8 before rounding.
_SINE = (
  0.9999999764737639, -0.16666647559281492, 0.008332898540077013, -0.00019800818496843318,
  2.5903278707869403e-06,
)  # fmt: skip
_ALPHA_FLOOR = 1e-9


def sine(z: Array) -> Array:
  """sin(z) in float32, to 2e-7 for |z| < 1000; beyond, as accurate as z itself, and at most 1.

  Uses products and sums only: XLA's own sine is not vectorised on CPUs, where this makes the whole
  codec twice as fast. Not differentiable: see `snake`.
  """
  turns = jnp.round(z * (1 / math.pi))
  r = (z - turns * _PI[0]) - turns * _PI[1]
  # The remainder of a large z is lost in rounding, and powers of it would overflow.
  r = jnp.clip(r, -math.pi / 2, math.pi / 2)
  square = r * r
  y = functools.reduce(lambda total, c: total * square + c, reversed(_SINE)) * r
  # Odd half turns change the sign.
  return y * (1 - 2 * jnp.abs(turns - 2 * jnp.round(turns * 0.5)))


@jax.custom_vjp
def snake(x_BTC: Float[Array, "B T C"], alpha_C: Float[Array, "C"]) -> Float[Array, "B T C"]:
  """x + sin(alpha x)^2 / alpha, computed in float32, returned in the dtype of x."""
  x, alpha = x_BTC.astype(jnp.float32), alpha_C.astype(jnp.float32)
  return (x + jnp.square(sine(alpha * x)) / (alpha + _ALPHA_FLOOR)).astype(x_BTC.dtype)


def _snake_backward(saved, g):
  x, alpha, g32 = (a.astype(jnp.float32) for a in (*saved, g))
  floored = alpha + _ALPHA_FLOOR
  z = alpha * x
  double = sine(2 * z)
  dx = g32 * (1 + double * (alpha / floored))
  dalpha = g32 * (x * double - jnp.square(sine(z)) / floored) / floored
  # A product with ones: CPUs would compute the sines inside a sum over rows one by one, which took
  # 24 times as long on 8 channels and 3 times on 64.
  ones, rows = jnp.ones(dalpha.shape[:2], jnp.float32), ((0, 1), (0, 1))
  dalpha = lax.dot_general(ones, dalpha, (rows, ((), ())), precision=lax.Precision.HIGHEST)
  return dx.astype(g.dtype), dalpha.astype(saved[1].dtype)


snake.defvjp(lambda x, alpha: (snake(x, alpha), (x, alpha)), _snake_backward)


def _lax_conv(x: Array, w: Array, dilation: int) -> Array:
  pad = w.shape[0] // 2 * dilation

  def local(x, w):
    return lax.conv_general_dilated(
      x, w, (1,), ((pad, pad),), rhs_dilation=(dilation,), dimension_numbers=_LAYOUT
    )

  return over_batch(local, x, w, whole=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, w: Array, dilation: int) -> Array:
  return _lax_conv(x, w, dilation)


def _conv_backward(dilation, saved, g):
  x, w = saved

  def weight_gradient(x, g):
    # XLA's own, which on CPUs took 0.3 to 0.8 times as long as one product per tap.
    pad = w.shape[0] // 2 * dilation
    conv = functools.partial(
      lax.conv_general_dilated, window_strides=(1,), padding=((pad, pad),),
      rhs_dilation=(dilation,), dimension_numbers=_LAYOUT,
    )  # fmt: skip
    x, g = x.astype(jnp.float32), g.astype(jnp.float32)
    shape = jax.ShapeDtypeStruct(w.shape, jnp.float32)
    return jax.linear_transpose(lambda w: conv(x, w), shape)(g)[0]

  dw = over_batch(weight_gradient, x, g, whole=0, total=True).astype(w.dtype)
  return _lax_conv(g, jnp.swapaxes(w[::-1], 1, 2), dilation), dw


_conv.defvjp(lambda x, w, dilation: (_conv(x, w, dilation), (x, w)), _conv_backward)


def wave_conv(
  x_BTC: Float[Array, "B T I"], w_KIO: Float[Array, "K I O"], *, dilation: int = 1
) -> Float[Array, "B T O"]:
  """Convolution of the same length, taps `dilation` apart.

  Raises:
    ValueError: on an even kernel.
  """
  if w_KIO.shape[0] % 2 == 0:
    raise ValueError(f"wave_conv() takes odd kernels, got {w_KIO.shape[0]}")
  if w_KIO.shape[0] == 1:
    return dense(x_BTC, w_KIO[0])
  return _conv(x_BTC, w_KIO, dilation)


def down_conv(
  x_BTC: Float[Array, "B T I"], w_SIJO: Float[Array, "S I 2 O"]
) -> Float[Array, "B T2 O"]:
  """Stride S, kernel 2 S, half a stride of zeros on both sides: (B, T / S, O).

  Args:
    x_BTC: T a multiple of S.
    w_SIJO: tap j S + s of the kernel is at [s, :, j].

  Raises:
    ValueError: if S is odd or does not divide T.
  """
  (b, length, c), stride = x_BTC.shape, w_SIJO.shape[0]
  if length % stride or stride % 2:
    raise ValueError(f"down_conv() takes even strides that divide, got {stride} for {length}")
  x = jnp.pad(x_BTC, ((0, 0), (stride // 2, stride // 2), (0, 0)))
  y = dense(x.reshape(b, length // stride + 1, stride, c), w_SIJO, contract=2)
  return y[:, :-1, 0] + y[:, 1:, 1]


def up_conv(
  x_BTC: Float[Array, "B T I"], w_IJSO: Float[Array, "I 2 S O"]
) -> Float[Array, "B T2 O"]:
  """The transpose of `down_conv`: (B, T S, O), with half a stride cut off at both ends.

  Args:
    x_BTC: any length.
    w_IJSO: tap j S + s of the kernel is at [:, j, s].

  Raises:
    ValueError: on an odd stride.
  """
  stride = w_IJSO.shape[2]
  if stride % 2:
    raise ValueError(f"up_conv() takes even strides, got {stride}")
  y = dense(x_BTC, w_IJSO)
  y = jnp.pad(y[:, :, 0], ((0, 0), (0, 1), (0, 0), (0, 0))) + jnp.pad(
    y[:, :, 1], ((0, 0), (1, 0), (0, 0), (0, 0))
  )
  return y.reshape(y.shape[0], -1, y.shape[-1])[:, stride // 2 : -stride // 2]
