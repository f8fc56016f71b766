"""Multi-head attention: against einsum, masks, names, remat and meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import remat
from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.sharding import unbox
from mg_jax.nn.attention import Attention


def normal(seed, shape):
  return jax.random.normal(jax.random.key(seed), shape)


def plain(p, x, context, mask):
  q = jnp.einsum("bld,dnk->bnlk", x, p["wq"])
  k, v = (jnp.einsum("bse,enk->bnsk", context, p[name]) for name in ("wk", "wv"))
  scores = jnp.einsum("bnlk,bnsk->bnls", q, k) / q.shape[-1] ** 0.5
  weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -1e9), -1)
  return jnp.einsum("bnls,bnsk,nkd->bld", weights, v, p["wo"])


def test_self_attention():
  x = normal(0, (2, 5, 12))
  module = Attention(heads=3, head_dim=4)
  params = module.init(jax.random.key(1), x)
  want = plain(unbox(params)["params"], x, x, jnp.ones((2, 5), bool))
  np.testing.assert_allclose(module.apply(params, x), want, atol=1e-5)


def test_cross_attention_with_a_mask():
  x, context = normal(0, (2, 5, 12)), normal(1, (2, 7, 6))
  mask = jnp.arange(7) < jnp.array([[7], [3]])
  module = Attention(heads=3, head_dim=4)
  params = module.init(jax.random.key(1), x, context, mask_BS=mask)
  want = plain(unbox(params)["params"], x, context, mask)
  np.testing.assert_allclose(module.apply(params, x, context, mask_BS=mask), want, atol=1e-5)


def test_a_context_of_fewer_rows_serves_rows_that_follow_each_other():
  x, context = normal(0, (6, 5, 12)), normal(1, (2, 7, 6))
  mask = jnp.arange(7) < jnp.array([[7], [3]])
  module = Attention(heads=3, head_dim=4)
  params = module.init(jax.random.key(1), x, context, mask_BS=mask)
  repeated = {"context": jnp.repeat(context, 3, 0), "mask_BS": jnp.repeat(mask, 3, 0)}
  shared = module.apply(params, x, context, mask_BS=mask)
  np.testing.assert_allclose(shared, module.apply(params, x, **repeated), atol=1e-6)


def test_empty_context_adds_nothing():
  x, context = normal(0, (2, 5, 12)), normal(1, (2, 7, 6))
  module = Attention(heads=3, head_dim=4)
  mask = jnp.zeros((2, 7), bool)
  y, _ = module.init_with_output(jax.random.key(1), x, context, mask_BS=mask)
  np.testing.assert_array_equal(y, 0)


def test_qk_norm_makes_queries_and_keys_scale_free():
  x = normal(0, (2, 5, 12))
  module = Attention(heads=3, head_dim=4, qk_norm=True)
  params = unbox(module.init(jax.random.key(1), x))["params"]
  assert params["q_norm"]["scale"].shape == params["k_norm"]["scale"].shape == (4,)
  larger = params | {"wq": 10 * params["wq"], "wk": 10 * params["wk"]}
  apply = lambda p: module.apply({"params": p}, x)  # noqa: E731
  np.testing.assert_allclose(apply(larger), apply(params), atol=1e-3)


def test_logical_names_and_shapes():
  module = Attention(heads=3, head_dim=4)
  params = module.init(jax.random.key(1), normal(0, (1, 2, 12)), normal(0, (1, 2, 6)))["params"]
  assert set(params) == {"wq", "wk", "wv", "wo"}
  assert params["wq"].names == params["wk"].names == ("embed", "heads", "head_dim")
  assert params["wo"].names == ("heads", "head_dim", "embed")
  assert params["wk"].value.shape == (6, 3, 4) and params["wo"].value.shape == (3, 4, 12)


def test_initial_scale_is_that_of_fan_in():
  x = normal(0, (1, 2, 256))
  params = unbox(Attention(heads=8, head_dim=16).init(jax.random.key(1), x))["params"]
  assert float(params["wq"].std()) == pytest.approx(256**-0.5, rel=0.05)
  assert float(params["wo"].std()) == pytest.approx(128**-0.5, rel=0.05)


def test_unknown_kernel_is_refused():
  with pytest.raises(ValueError, match="unknown attention kernel"):
    Attention(heads=1, head_dim=4, kernel="none").init(jax.random.key(0), normal(0, (1, 2, 4)))


def softmaxes(policy):
  """How many score matrices are exponentiated in a forward and backward pass."""
  x = normal(0, (2, 8, 8))
  module = remat.remat(Attention, policy)(heads=2, head_dim=4)
  params = unbox(module.init(jax.random.key(1), x))
  step = jax.value_and_grad(lambda p: jnp.sum(module.apply(p, x)))
  text = jax.jit(step).lower(params).as_text()
  return text.count("stablehlo.exponential")


def test_attention_policy_does_not_run_the_kernel_again():
  assert softmaxes("none") == softmaxes("attention") == 2
  assert softmaxes("full") == 3


def test_gradients_are_the_same_on_a_mesh():
  x, context = normal(0, (4, 8, 8)), normal(1, (4, 6, 8))
  module = Attention(heads=2, head_dim=4)
  params = unbox(module.init(jax.random.key(1), x, context))

  def loss(params, x):
    return jnp.sum(jnp.square(module.apply(params, module.apply(params, x), context)))

  want = jax.jit(jax.value_and_grad(loss))(params, x)
  with use_mesh(make_mesh((1, 2, 2, 2))):
    got = jax.jit(jax.value_and_grad(loss))(params, x)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(jax.device_get(a), b, rtol=1e-4, atol=1e-4)


def test_compute_type():
  module = Attention(heads=2, head_dim=4, dtype=jnp.bfloat16)
  params = module.init(jax.random.key(1), normal(0, (1, 2, 8)))
  assert module.apply(params, normal(0, (1, 2, 8))).dtype == jnp.bfloat16
  assert unbox(params)["params"]["wq"].dtype == jnp.float32
