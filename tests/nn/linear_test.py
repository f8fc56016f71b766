"""Linear: value, types, logical names."""

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.sharding import unbox
from mg_jax.nn.linear import Linear


def test_value_with_and_without_bias():
  x = jax.random.normal(jax.random.key(0), (2, 3, 4))
  params = unbox(Linear(5, use_bias=True).init(jax.random.key(1), x))["params"]
  assert set(params) == {"kernel", "bias"}
  params["bias"] = params["bias"] + 2.0
  y = Linear(5, use_bias=True).apply({"params": params}, x)
  np.testing.assert_allclose(y, x @ params["kernel"] + 2.0, atol=1e-5)
  assert set(Linear(5).init(jax.random.key(1), x)["params"]) == {"kernel"}


def test_parameters_are_float32_and_the_result_has_the_compute_type():
  layer = Linear(5, dtype=jnp.bfloat16)
  params = layer.init(jax.random.key(0), jnp.zeros((2, 4)))
  assert unbox(params)["params"]["kernel"].dtype == jnp.float32
  assert layer.apply(params, jnp.zeros((2, 4))).dtype == jnp.bfloat16


def test_logical_names():
  layer = Linear(5, use_bias=True, logical=("embed", "mlp"))
  params = layer.init(jax.random.key(0), jnp.zeros((2, 4)))["params"]
  assert params["kernel"].names == ("embed", "mlp")
  assert params["bias"].names == ("mlp",)
