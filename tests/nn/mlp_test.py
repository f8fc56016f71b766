"""SwiGLU and MLP against their formulas, and where their weights live."""

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.sharding import unbox
from mg_jax.nn.mlp import MLP, SwiGLU


def test_swiglu():
  x = jax.random.normal(jax.random.key(0), (2, 3, 4))
  params = SwiGLU(6).init(jax.random.key(1), x)
  p = unbox(params)["params"]
  assert set(p) == {"w1", "w2", "w3"} and all(set(layer) == {"kernel"} for layer in p.values())

  def plain(p, x):
    return (jax.nn.silu(x @ p["w1"]["kernel"]) * (x @ p["w3"]["kernel"])) @ p["w2"]["kernel"]

  got, pull = jax.vjp(lambda p, x: SwiGLU(6).apply({"params": p}, x), p, x)
  want, pull_plain = jax.vjp(plain, p, x)
  ct = jax.random.normal(jax.random.key(2), x.shape)
  for a, b in zip(*map(jax.tree.leaves, ((got, pull(ct)), (want, pull_plain(ct)))), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_swiglu_splits_its_inner_width():
  params = SwiGLU(6).init(jax.random.key(1), jnp.zeros((2, 4)))["params"]
  assert params["w1"]["kernel"].names == params["w3"]["kernel"].names == ("embed", "mlp")
  assert params["w2"]["kernel"].names == ("mlp", "embed")


def test_swiglu_initialisers():
  module = SwiGLU(6, kernel_init=jax.nn.initializers.ones, out_init=jax.nn.initializers.zeros)
  p = unbox(module.init(jax.random.key(1), jnp.zeros((2, 4))))["params"]
  assert float(p["w1"]["kernel"].min()) == float(p["w3"]["kernel"].min()) == 1
  assert float(jnp.abs(p["w2"]["kernel"]).max()) == 0


def test_swiglu_output_is_named():
  text = str(jax.make_jaxpr(SwiGLU(6).init_with_output)(jax.random.key(0), jnp.zeros((2, 4))))
  assert "name=mlp" in text


def test_mlp():
  x = jax.random.normal(jax.random.key(0), (2, 4))
  params = MLP(6, 3).init(jax.random.key(1), x)
  p = jax.tree.map(lambda leaf: leaf + 0.1, unbox(params)["params"])
  hidden = jax.nn.silu(x @ p["w1"]["kernel"] + p["w1"]["bias"])
  want = hidden @ p["w2"]["kernel"] + p["w2"]["bias"]
  np.testing.assert_allclose(MLP(6, 3).apply({"params": p}, x), want, atol=1e-5)
