"""Embeddings of time and of positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.nn.embeddings import FactorizedPositions, TimeEmbedding, timestep_embedding


def test_timestep_embedding_is_cosines_then_sines():
  y = timestep_embedding(jnp.array([0.0, 0.25]), 8)
  np.testing.assert_allclose(y[0], [1, 1, 1, 1, 0, 0, 0, 0], atol=1e-6)
  frequencies = 10_000.0 ** (-np.arange(4) / 4)
  np.testing.assert_allclose(y[1, :4], np.cos(250 * frequencies), atol=1e-4)
  np.testing.assert_allclose(y[1, 4:], np.sin(250 * frequencies), atol=1e-4)


def test_timestep_embedding_refuses_odd_sizes():
  with pytest.raises(ValueError, match="even features"):
    timestep_embedding(jnp.zeros((1,)), 7)


def test_timestep_embedding_is_float32_for_low_precision_times():
  t = jnp.array([0.5], jnp.bfloat16)
  np.testing.assert_array_equal(
    timestep_embedding(t, 8), timestep_embedding(t.astype(jnp.float32), 8)
  )


def test_time_embedding_tells_times_apart():
  module = TimeEmbedding(16)
  y, params = module.init_with_output(jax.random.key(0), jnp.array([0.0, 0.001, 1.0]))
  assert y.shape == (3, 16) and y.dtype == jnp.float32
  assert unbox(params)["params"]["mlp"]["w1"]["kernel"].shape == (256, 16)
  distances = jnp.abs(y[:, None] - y[None]).max(-1) + jnp.eye(3)
  assert float(distances.min()) > 1e-5


def positions(grid, **kw):
  module = FactorizedPositions((4, 3, 5), 6)
  return module.init_with_output(jax.random.key(0), grid, **kw)


def test_positions_are_sums_in_token_order():
  y, params = positions((2, 3, 4))
  p = unbox(params)["params"]
  assert {k: v.shape for k, v in p.items()} == {"time": (4, 6), "height": (3, 6), "width": (5, 6)}
  want = [p["time"][t] + p["height"][h] + p["width"][w] for t, h, w in np.ndindex(2, 3, 4)]
  np.testing.assert_allclose(y, np.stack(want), atol=1e-6)


def test_positions_start_small():
  tables = FactorizedPositions((64, 64, 64), 64).init(jax.random.key(0), (1, 1, 1))
  for table in jax.tree.leaves(tables):
    assert float(table.std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("grid", [(5, 1, 1), (1, 4, 1), (1, 1, 6)], ids=str)
def test_a_grid_beyond_the_tables_is_refused(grid):
  with pytest.raises(UserError, match="exceeds the position tables"):
    positions(grid)
