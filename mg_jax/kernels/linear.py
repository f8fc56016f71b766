"""Matrix products of activations with weights, with their own backward pass.

x (..., D) and w (D, F) give (..., F); more dimensions may be contracted or produced at once, as
in x_BLD with w_DNK. Products accumulate in float32 whatever the inputs are. Autodiff of
"accumulate in float32, then cast" would pass float32 cotangents to the two backward products and
so leave the fast low-precision path; here all three products have operands of the dtype of x.

If devices of a tensor group share a contracted dimension, the compiler all-reduces a product before
any cast. Activations are therefore reduced in their own dtype, which for bfloat16 sends half the
bytes of float32, as other implementations of tensor parallelism do; weight gradients in float32.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mg_jax.core.typing import Array, Float
from mg_jax.kernels.platform import partitioned


def _product(
  a: Array, b: Array, a_dims: tuple[int, ...], b_dims: tuple[int, ...], dtype: Any = jnp.float32
) -> Array:
  dims = ((a_dims, b_dims), ((), ()))
  return lax.dot_general(a, b, dims, preferred_element_type=dtype)


def _activation(a: Array, b: Array, a_dims: tuple[int, ...], b_dims: tuple[int, ...]) -> Array:
  """A product in the dtype of `a`, also reduced in it over a tensor group."""
  dtype = a.dtype if partitioned("tensor") else jnp.float32
  return _product(a, b, a_dims, b_dims, dtype).astype(a.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dense(x: Array, w: Array, contract: int) -> Array:
  tail = tuple(range(x.ndim - contract, x.ndim))
  return _activation(x, w, tail, tuple(range(contract)))


def _forward(x, w, contract):
  return _dense(x, w, contract), (x, w)


def _backward(contract, saved, g):
  x, w = saved
  lead = x.ndim - contract
  dx = _activation(g, w, tuple(range(lead, g.ndim)), tuple(range(contract, w.ndim)))
  if partitioned():
    # Flattening would merge a sharded batch with a sharded length, and gather both.
    batch = tuple(range(lead))
    dw = _product(x, g, batch, batch)
  else:
    # One contracted dimension instead of two saves CPUs a transposed copy of x, which takes 10 to
    # 25 % of the product.
    rows = math.prod(x.shape[:lead])
    dw = _product(x.reshape(rows, -1), g.reshape(rows, -1), (0,), (0,)).reshape(w.shape)
  return dx, dw.astype(w.dtype)


_dense.defvjp(_forward, _backward)


def dense(x: Float[Array, "..."], w: Float[Array, "..."], *, contract: int = 1) -> Array:
  """Contracts the last `contract` dimensions of x with the first `contract` of w.

  Returns:
    Leading dimensions of x followed by the trailing ones of w, in the dtype of x.

  Raises:
    ValueError: if the contracted dimensions differ.
  """
  if x.shape[x.ndim - contract :] != w.shape[:contract]:
    raise ValueError(f"dense() cannot contract {x.shape} with {w.shape} over {contract} axes")
  return _dense(x, w, contract)
