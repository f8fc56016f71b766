"""The one conversion between stored pixels, uint8 0..255, and those of models, float32 -1..1."""

import jax.numpy as jnp

from mg_jax.core.typing import Array


def from_uint8(pixels: Array) -> Array:
  """float32 in [-1, 1] from pixels of any shape."""
  return jnp.asarray(pixels, jnp.float32) / 127.5 - 1.0


def to_uint8(values: Array) -> Array:
  """uint8 from values of any shape, clipped to [-1, 1] and rounded."""
  return jnp.round((jnp.clip(values, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
