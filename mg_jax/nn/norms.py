"""Normalisations over channels, which come last; statistics are float32 whatever the input is."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import partitioned
from mg_jax.core.typing import Array, Float


def _vector(module: nn.Module, name: str, init: Callable, size: int) -> Array:
  return module.param(name, partitioned(init, "norm"), (size,), jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _rms_norm(x: Array, scale_D: Array, eps: float, dtype: Any) -> Array:
  return _rms_forward(x, scale_D, eps, dtype)[0]


def _rms_forward(x, scale_D, eps, dtype):
  x32 = x.astype(jnp.float32)
  inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
  return (x32 * inverse * scale_D).astype(dtype), (x, scale_D, inverse)


def _rms_backward(eps, dtype, saved, g):
  # Autodiff would save several arrays of the size of x; this needs x and one number per row.
  x, scale_D, inverse = saved
  x32, g = x.astype(jnp.float32), g.astype(jnp.float32)
  normal = x32 * inverse
  along = jnp.mean(g * scale_D * normal, axis=-1, keepdims=True)
  dx = inverse * (g * scale_D - normal * along)
  return dx.astype(x.dtype), jnp.sum(g * normal, axis=tuple(range(x.ndim - 1)))


_rms_norm.defvjp(_rms_forward, _rms_backward)


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last dimension. [MG Table 9]"""

  eps: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    scale_D = _vector(self, "scale", nn.initializers.ones, x.shape[-1])
    return _rms_norm(x, scale_D, self.eps, self.dtype)


class LayerNorm(nn.Module):
  """(x - mean) / std * scale + bias over the last dimension.

  Attributes:
    scale_init: with zeros, the module's output starts at zero.
  """

  eps: float = 1e-5
  scale_init: Callable = nn.initializers.ones
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    scale_D = _vector(self, "scale", self.scale_init, x.shape[-1])
    bias_D = _vector(self, "bias", nn.initializers.zeros, x.shape[-1])
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return (x * jax.lax.rsqrt(variance + self.eps) * scale_D + bias_D).astype(self.dtype)


class GroupNorm(nn.Module):
  """Normalises groups of channels over all dimensions except the first and the last.

  Frames folded into the first dimension are therefore normalised separately.

  Raises:
    UserError: if the groups do not divide the channels.
  """

  groups: int = 32
  eps: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "N *S C"]) -> Float[Array, "N *S C"]:
    n, channels = x.shape[0], x.shape[-1]
    if channels % self.groups:
      raise UserError(
        f"GroupNorm {'/'.join(self.path)}: {self.groups} groups do not divide {channels} channels; "
        "change groups or the width"
      )
    scale_C = _vector(self, "scale", nn.initializers.ones, channels)
    bias_C = _vector(self, "bias", nn.initializers.zeros, channels)
    space = tuple(range(1, x.ndim - 1))
    wide = lambda a_NC: a_NC.reshape(n, *(1 for _ in space), channels)  # noqa: E731

    def group_mean(sum_NC, count):
      mean = sum_NC.reshape(n, self.groups, -1).sum(axis=-1, keepdims=True) / count
      return jnp.broadcast_to(mean, (n, self.groups, channels // self.groups)).reshape(n, channels)

    # Sums per channel first, then groups: reducing a (group, channel) view of x itself is far
    # slower on CPUs. Both sums in one pass, around a value near the mean, since E[x^2] - E[x]^2
    # cancels if the mean is large.
    first_NC = x.reshape(n, -1, channels)[:, 0].astype(jnp.float32)
    near_NC = jax.lax.stop_gradient(group_mean(first_NC, channels // self.groups))
    y = x.astype(jnp.float32) - wide(near_NC)
    count = x.size // n // self.groups
    mean_NC = group_mean(jnp.sum(y, axis=space), count)
    square_NC = group_mean(jnp.sum(jnp.square(y), axis=space), count)
    variance_NC = jnp.maximum(square_NC - jnp.square(mean_NC), 0)
    gain_NC = scale_C * jax.lax.rsqrt(variance_NC + self.eps)
    return (y * wide(gain_NC) + wide(bias_C - mean_NC * gain_NC)).astype(self.dtype)
