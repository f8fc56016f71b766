"""Norms against their definitions, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.nn.norms import GroupNorm, LayerNorm, RMSNorm


def normal(seed, shape, mean=0.0):
  return mean + jax.random.normal(jax.random.key(seed), shape)


def fresh(module, x):
  """Parameters away from their initial values, so that each of them counts."""
  params = unbox(module.init(jax.random.key(0), x))
  leaves, tree = jax.tree.flatten(params)
  return jax.tree.unflatten(tree, [normal(i, leaf.shape) for i, leaf in enumerate(leaves)])


def assert_same(module, plain, x, *, atol=1e-5):
  params, ct = fresh(module, x), normal(9, x.shape)
  got, pull = jax.vjp(module.apply, params, x)
  want, pull_plain = jax.vjp(plain, params, x)
  pairs = zip(
    jax.tree.leaves((got, pull(ct))), jax.tree.leaves((want, pull_plain(ct))), strict=True
  )
  for a, b in pairs:
    np.testing.assert_allclose(a, b, atol=atol * max(1.0, float(jnp.abs(b).max())))


def test_rms_norm():
  def plain(params, x):
    return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * params["params"]["scale"]

  assert_same(RMSNorm(), plain, normal(1, (2, 3, 8)))


def test_layer_norm():
  assert_same(LayerNorm(), nn.LayerNorm(epsilon=1e-5).apply, normal(1, (2, 3, 8), mean=3.0))


def test_layer_norm_can_start_at_zero():
  x = normal(1, (2, 8))
  module = LayerNorm(scale_init=nn.initializers.zeros)
  np.testing.assert_array_equal(module.apply(module.init(jax.random.key(0), x), x), 0)


@pytest.mark.parametrize("shape", [(2, 4, 5, 8), (3, 2, 3, 2, 12), (2, 7, 4)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm(shape, groups):
  plain = nn.GroupNorm(groups, epsilon=1e-6, use_fast_variance=False).apply
  assert_same(GroupNorm(groups), plain, normal(1, shape, mean=2.0))


def test_group_norm_survives_a_large_mean():
  x = normal(1, (2, 64, 4))
  module = GroupNorm(2)
  params = module.init(jax.random.key(0), x)
  np.testing.assert_allclose(module.apply(params, x + 1e3), module.apply(params, x), atol=2e-3)


def test_group_norm_keeps_the_first_dimension_apart():
  x = normal(1, (3, 4, 4, 8))
  params = fresh(GroupNorm(2), x)
  moved = GroupNorm(2).apply(params, x.at[0].mul(5.0))
  np.testing.assert_array_equal(moved[1:], GroupNorm(2).apply(params, x)[1:])


def test_group_norm_refuses_groups_that_do_not_divide():
  with pytest.raises(UserError, match="3 groups do not divide 8 channels"):
    GroupNorm(3).init(jax.random.key(0), jnp.zeros((1, 2, 8)))


@pytest.mark.parametrize("module", [RMSNorm, LayerNorm, lambda **k: GroupNorm(2, **k)])
def test_statistics_are_float32_in_bfloat16(module):
  x = normal(1, (2, 256, 8), mean=1.0).astype(jnp.bfloat16)
  low = module(dtype=jnp.bfloat16)
  params = low.init(jax.random.key(0), x)
  y = low.apply(params, x)
  assert y.dtype == jnp.bfloat16
  wide = module().apply(params, x.astype(jnp.float32))
  np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))
  assert unbox(params)["params"]["scale"].dtype == jnp.float32
