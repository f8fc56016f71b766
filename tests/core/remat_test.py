"""Remat policies: same values and gradients, other residuals and places, unknown names refused."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mg_jax.core import remat
from mg_jax.core.mesh import make_mesh
from mg_jax.core.topology import tpu_devices


class Block(nn.Module):
  @nn.compact
  def __call__(self, x_BD):
    width = x_BD.shape[-1]
    y_BD = remat.name(jnp.sin(nn.Dense(width, name="attention")(x_BD)), "attention")
    y_BD = remat.name(jnp.sin(nn.Dense(width, name="mlp")(y_BD)), "mlp")
    return x_BD + nn.Dense(width, name="out")(y_BD)


class Stack(nn.Module):
  policy: str
  layers: int = 2

  @nn.compact
  def __call__(self, x_BD):
    block = remat.remat(Block, self.policy)
    layers = nn.scan(
      lambda module, x, _: (module(x), None),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=self.layers,
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


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="the TPU compiler (libtpu) is not installed"
)
def test_offloaded_values_wait_in_the_memory_of_the_host():
  mesh = make_mesh((1, 1, 1, 1), tpu_devices("v5e:2x2"))
  rows, width, layers = 4096, 512, 16

  def compiled(policy):
    stack = Stack(policy, layers=layers)
    place = jax.sharding.NamedSharding(mesh, jax.P())
    x_BD = jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=place)
    params = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      jax.eval_shape(stack.init, jax.random.key(0), x_BD),
    )
    loss = lambda params, x_BD: jnp.sum(stack.apply(params, x_BD) ** 2)  # noqa: E731
    return jax.jit(jax.grad(loss)).lower(params, x_BD).compile().memory_analysis()

  kept, offloaded = compiled("mlp"), compiled("offload")
  named = 2 * layers * rows * width * 4
  assert kept.host_temp_size_in_bytes == 0
  assert offloaded.host_temp_size_in_bytes >= named
  # The peak counts the memory of the host too.
  assert offloaded.temp_size_in_bytes < kept.temp_size_in_bytes / 2


def test_none_is_the_module_itself():
  assert remat.remat(Block, "none") is Block


def test_unknown_policy_and_name_are_refused():
  with pytest.raises(ValueError, match="'everything'"):
    remat.remat(Block, "everything")
  with pytest.raises(ValueError, match="'atention'"):
    remat.name(jnp.ones(2), "atention")
