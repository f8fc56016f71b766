"""Remat policies: same values and gradients, different residuals, unknown names refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mg_jax.core import remat


class Block(nn.Module):
  @nn.compact
  def __call__(self, x_BD):
    y_BD = remat.name(jnp.sin(nn.Dense(8, name="attention")(x_BD)), "attention")
    y_BD = remat.name(jnp.sin(nn.Dense(8, name="mlp")(y_BD)), "mlp")
    return x_BD + nn.Dense(8, name="out")(y_BD)


class Stack(nn.Module):
  policy: str

  @nn.compact
  def __call__(self, x_BD):
    block = remat.remat(Block, self.policy)
    layers = nn.scan(
      lambda module, x, _: (module(x), None),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=2,
    )
    return layers(block(name="layers"), x_BD, None)[0]


def _loss(policy):
  x_BD = jax.random.normal(jax.random.key(1), (4, 8))
  params = Stack("none").init(jax.random.key(0), x_BD)
  return params, lambda p: jnp.sum(Stack(policy).apply(p, x_BD) ** 2)


@pytest.mark.parametrize("policy", ["full", "attention", "mlp"])
def test_gradients_do_not_change(policy):
  params, plain = _loss("none")
  _, wrapped = _loss(policy)
  want, got = jax.grad(plain)(params), jax.grad(wrapped)(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), want, got)


def test_policies_trade_recomputation_for_memory():
  def sines(policy):
    params, loss = _loss(policy)
    return str(jax.make_jaxpr(jax.grad(loss))(params)).count(" = sin ")

  # The two sines of the scanned layer are computed once forward, and again where not kept.
  assert [sines(p) for p in ("none", "mlp", "attention", "full")] == [2, 2, 3, 4]


def test_offload_is_a_policy():
  assert issubclass(remat.remat(Block, "offload"), nn.Module)


def test_none_is_the_module_itself():
  assert remat.remat(Block, "none") is Block


def test_unknown_policy_and_name_are_refused():
  with pytest.raises(ValueError, match="'everything'"):
    remat.remat(Block, "everything")
  with pytest.raises(ValueError, match="'atention'"):
    remat.name(jnp.ones(2), "atention")
