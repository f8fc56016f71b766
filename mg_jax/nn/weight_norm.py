"""Weight normalisation: a kernel as a direction and a learned norm (arXiv 1602.07868).

As torch's `weight_norm`, with one norm for each index along one axis of the kernel: the output
channels of a convolution, the input channels of a transposed one. DAC trains with it [MG 6.2].
`scale` keeps every axis of `direction`, with size 1 where the norm is taken, so the two arrays
alone define the kernel.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from mg_jax.core.sharding import partitioned
from mg_jax.core.typing import Array


def kernel_parameter(
  module: nn.Module,
  init: Callable,
  shape: tuple[int, ...],
  names: tuple[str, ...],
  *,
  weight_norm: bool,
  axis: int = -1,
) -> Array:
  """The float32 kernel of a layer: its parameter `kernel`, or with weight norm two parameters.

  Those are `direction`, initialised as the kernel would be, and `scale`, its norm, so that both
  parametrisations compute the same before training.

  Args:
    module: owner of the parameters.
    init: initializer of the plain kernel.
    shape: shape of the kernel.
    names: logical axes of the kernel.
    weight_norm: whether the kernel is two parameters.
    axis: axis of the kernel that has separate norms.
  """
  if not weight_norm:
    return module.param("kernel", partitioned(init, *names), shape, jnp.float32)
  direction = module.param("direction", partitioned(init, *names), shape, jnp.float32)
  axis %= len(shape)
  kept = tuple(name if i == axis else None for i, name in enumerate(names))
  reduced = tuple(size if i == axis else 1 for i, size in enumerate(shape))
  scale = module.param("scale", partitioned(lambda _: norms(direction, reduced), *kept))
  return fold(direction, scale)


def norms(direction: Array, shape: tuple[int, ...]) -> Array:
  """Euclidean norms over the axes that have size 1 in `shape`, the shape of the result."""
  axes = tuple(i for i, size in enumerate(shape) if size == 1)
  return jnp.sqrt(jnp.sum(jnp.square(direction), axis=axes, keepdims=True))


def fold(direction: Array, scale: Array) -> Array:
  """The kernel given by a direction and its scale."""
  return direction * (scale / norms(direction, scale.shape))
