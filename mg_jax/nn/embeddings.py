"""Embeddings of flow time and of the position of a video token. [MG 3.1.1, 3.1.3]"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import partitioned
from mg_jax.core.typing import Array, Float
from mg_jax.nn.mlp import MLP

# DiT trains on integer times up to 1000 and on this range of periods; flow time is in [0, 1].
TIME_SCALE = 1000.0
MAX_PERIOD = 10_000.0

POSITION_STD = 0.02
TIME_STD = 0.02


def timestep_embedding(t_B: Float[Array, "B"], features: int) -> Float[Array, "B F"]:
  """Cosines, then sines, of t at geometrically spaced frequencies, in float32.

  Args:
    t_B: times in [0, 1].
    features: F, an even number.

  Raises:
    ValueError: on odd features.
  """
  if features % 2:
    raise ValueError(f"timestep_embedding() needs even features, got {features}")
  half = features // 2
  frequencies = jnp.exp(-jnp.log(MAX_PERIOD) * jnp.arange(half, dtype=jnp.float32) / half)
  angles = TIME_SCALE * t_B.astype(jnp.float32)[:, None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nn.Module):
  """An MLP on the sinusoids of t; float32, as all modulation.

  Attributes:
    features: D.
    frequencies: length of the sinusoidal vector.
  """

  features: int
  frequencies: int = 256

  @nn.compact
  def __call__(self, t_B: Float[Array, "B"]) -> Float[Array, "B D"]:
    network = MLP(
      self.features,
      self.features,
      logical=("features", "mlp", "embed"),
      kernel_init=nn.initializers.normal(TIME_STD),
      name="mlp",
    )
    return network(timestep_embedding(t_B, self.frequencies))


class FactorizedPositions(nn.Module):
  """The sum of three learned vectors: one for the frame, one for the row, one for the column.

  Attributes:
    max_thw: sizes of the tables, in tokens.
    features: D.
  """

  max_thw: tuple[int, int, int]
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, grid: tuple[int, int, int]) -> Float[Array, "L D"]:
    """Embeddings of all tokens of a grid, in flattened order.

    Args:
      grid: (T, H, W) in tokens.

    Raises:
      UserError: if the grid exceeds the tables.
    """
    if any(size > most for size, most in zip(grid, self.max_thw, strict=True)):
      raise UserError(
        f"a grid of {grid} tokens exceeds the position tables {self.max_thw}; increase max_thw, or "
        "use fewer or smaller frames"
      )

    def table(name, size):
      init = partitioned(nn.initializers.normal(POSITION_STD), "positions", "embed")
      return self.param(name, init, (size, self.features), jnp.float32).astype(self.dtype)

    frames = table("time", self.max_thw[0])
    rows, columns = table("height", self.max_thw[1]), table("width", self.max_thw[2])
    t, h, w = grid
    sum_THWD = frames[:t, None, None] + rows[:h, None] + columns[:w]
    return sum_THWD.reshape(t * h * w, self.features)
