"""The generator: trained text streams, precomputed features, nulls, first gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.models import conditioning
from mg_jax.models.generator import Generator

DIT = {
  "channels": 3,
  "patch": (1, 2, 2),
  "width": 16,
  "layers": 2,
  "heads": 2,
  "mlp_dim": 24,
  "max_thw": (4, 4, 4),
  "routes": {
    "text": {"kind": "cross", "features": 8},
    "ul2": {"kind": "cross", "features": 6},
  },
}
TEXT = {"vocab": 16, "width": 8, "layers": 1, "heads": 2, "head_dim": 4, "mlp_dim": 8}


@pytest.fixture(scope="module")
def batch():
  mask = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
  cond = {
    "text": {"ids": jnp.where(mask, 5, 0).at[:, 1].set(3), "mask": mask},
    "ul2": {
      "features": jax.random.normal(jax.random.key(1), (2, 3, 6)),
      "mask": jnp.ones((2, 3), bool),
    },
  }
  return jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 3)), jnp.array([0.2, 0.7]), cond


@pytest.fixture(scope="module")
def model():
  return Generator(dit=DIT, encoders={"text": TEXT})


@pytest.fixture(scope="module")
def params(model, batch):
  return unbox(jax.jit(model.init)(jax.random.key(0), *batch))


def test_encoding_once_equals_encoding_inside(model, params, batch, awaken):
  params, (x, t, cond) = awaken(params), batch
  features = model.apply(params, cond, method="encode")
  assert features["ul2"] is cond["ul2"] and "ids" not in features["text"]
  inside, once = (jax.jit(model.apply)(params, x, t, c) for c in (cond, features))
  np.testing.assert_array_equal(inside, once)


def test_the_text_encoder_learns_through_the_velocity(model, params, batch, awaken):
  target = jnp.ones_like(batch[0])
  loss = lambda p: jnp.mean((model.apply(p, *batch) - target) ** 2)  # noqa: E731
  grads = jax.jit(jax.grad(loss))(awaken(params))
  assert set(grads["params"]) == {"dit", "encoder_text"}
  for path, grad in jax.tree_util.tree_leaves_with_path(grads["params"]):
    assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)


def test_velocity_is_zero_at_init_and_the_head_learns_first(model, params, batch):
  assert not np.any(jax.jit(model.apply)(params, *batch))
  loss = lambda p: jnp.mean((model.apply(p, *batch) - 1) ** 2)  # noqa: E731
  grads = jax.jit(jax.grad(loss))(params)["params"]
  assert np.any(grads["dit"]["head"]["kernel"])
  assert not np.any(grads["dit"]["patch"]["kernel"])


def test_null_text_is_no_token(model, params, batch, awaken):
  params, (x, t, cond) = awaken(params), batch
  routes = model.routes()
  null = conditioning.null_like(cond, routes=routes)
  empty = dict(cond)
  empty["text"] = {
    "ids": jnp.full((2, 4), 7), "mask": jnp.zeros((2, 4), bool),
  }
  empty["ul2"] = {"features": jnp.full((2, 3, 6), 4.0), "mask": jnp.zeros((2, 3), bool)}
  np.testing.assert_array_equal(
    jax.jit(model.apply)(params, x, t, null), jax.jit(model.apply)(params, x, t, empty)
  )
  dropped = conditioning.drop(cond, {n: jnp.array([False, True]) for n in cond}, routes=routes)
  out = jax.jit(model.apply)(params, x, t, dropped)
  np.testing.assert_allclose(
    out[0], jax.jit(model.apply)(params, x, t, null)[0], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    out[1], jax.jit(model.apply)(params, x, t, cond)[1], rtol=1e-5, atol=1e-6
  )


def test_ids_without_an_encoder_are_a_user_error(model, params, batch):
  x, t, cond = batch
  with pytest.raises(UserError, match="ul2.*no encoder"):
    jax.jit(model.apply)(params, x, t, cond | {"ul2": cond["text"]})


def test_a_misspelt_field_is_a_user_error(batch):
  model = Generator(dit=DIT | {"widht": 3}, encoders={"text": TEXT})
  with pytest.raises(UserError, match="width"):
    jax.jit(model.init)(jax.random.key(0), *batch)
