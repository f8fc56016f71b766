"""The dense layer: x (..., D) to (..., features), parameters `kernel` (D, features) and `bias`."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from mg_jax.core.sharding import partitioned
from mg_jax.core.typing import Array, Float
from mg_jax.kernels.linear import dense


class Linear(nn.Module):
  """x @ kernel (+ bias), without bias by default [MG Table 9].

  Attributes:
    features: size of the last dimension of the result.
    use_bias: adds a bias initialised to zero.
    logical: axis names of the kernel; the bias takes the second.
    kernel_init: initializer of the kernel.
    dtype: of the product and of the result.
  """

  features: int
  use_bias: bool = False
  logical: tuple[str | None, str | None] = ("embed", "features")
  kernel_init: Callable = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
    init = partitioned(self.kernel_init, *self.logical)
    w_DF = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
    y = dense(x.astype(self.dtype), w_DF.astype(self.dtype))
    if self.use_bias:
      init = partitioned(nn.initializers.zeros, self.logical[1])
      y = y + self.param("bias", init, (self.features,), jnp.float32).astype(self.dtype)
    return y
