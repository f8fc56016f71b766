"""The T5 encoder: buckets, padding, gradients, one set of parameters for every program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.sharding import batch_sharding, state_shardings, unbox
from mg_jax.models.encoders.t5 import T5Encoder, relative_buckets

FIELDS = {"vocab": 32, "width": 16, "layers": 2, "heads": 2, "head_dim": 8, "mlp_dim": 24}


@pytest.fixture(scope="module")
def batch():
  ids = jax.random.randint(jax.random.key(0), (3, 12), 2, 32)
  mask = jnp.arange(12)[None] < jnp.array([12, 5, 0])[:, None]
  return ids, mask


@pytest.fixture(scope="module")
def params(batch):
  return unbox(jax.jit(T5Encoder(**FIELDS).init)(jax.random.key(1), *batch))


def test_buckets_tell_sides_apart_and_saturate():
  table = relative_buckets(200, buckets=32, max_distance=128)
  assert table[0, 0] == 0 and table[5, 4] == 1 and table[4, 5] == 17
  assert table[150, 10] == table[199, 0] == 15  # beyond max_distance: one bucket
  assert table.min() == 0 and table.max() == 31


def test_padding_is_neither_read_nor_written(batch, params):
  ids, mask = batch
  model = T5Encoder(**FIELDS)
  other = jnp.where(mask, ids, (ids + 7) % 32)
  out, same = (jax.jit(model.apply)(params, i, mask) for i in (ids, other))
  np.testing.assert_array_equal(out, same)
  assert not np.any(out[1, 5:]) and np.all(np.any(out[1, :5], axis=-1))
  assert np.isfinite(out).all() and not np.any(out[2])


def test_words_depend_on_their_order(batch, params):
  ids, mask = batch
  model = T5Encoder(**FIELDS)
  forward = jax.jit(model.apply)(params, ids[:1], mask[:1])
  backward = jax.jit(model.apply)(params, ids[:1, ::-1], mask[:1])[:, ::-1]
  assert np.abs(forward - backward).max() > 1e-2


def test_features_start_near_unit_size_and_every_parameter_learns(batch, params):
  ids, mask = batch
  model = T5Encoder(**FIELDS)
  out = jax.jit(model.apply)(params, ids, mask)
  assert 0.5 < jnp.std(out[0]) < 2

  target = jax.random.normal(jax.random.key(2), out.shape)
  loss = lambda p: jnp.mean((model.apply(p, ids, mask) - target) ** 2)  # noqa: E731
  grads = jax.jit(jax.grad(loss))(params)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(grad).all() and np.any(grad), path


def test_remat_changes_no_value(batch, params):
  ids, mask = batch

  def grads(policy):
    again = T5Encoder(**FIELDS, remat=policy)
    return jax.jit(jax.grad(lambda p: jnp.sum(again.apply(p, ids, mask) ** 2)))(params)

  for a, b in zip(*map(jax.tree.leaves, (grads("none"), grads("full"))), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_eight_devices_agree_with_one(awaken):
  ids = jax.random.randint(jax.random.key(0), (4, 12), 2, 32)
  mask = jnp.arange(12)[None] < jnp.array([12, 5, 1, 9])[:, None]
  model = T5Encoder(**FIELDS)
  boxed = jax.eval_shape(model.init, jax.random.key(1), ids, mask)
  params = awaken(boxed)
  step = jax.value_and_grad(lambda p, ids, mask: jnp.sum(jnp.sin(model.apply(p, ids, mask))))
  one = jax.jit(step)(params, ids, mask)
  mesh = make_mesh((1, 2, 2, 2))
  with use_mesh(mesh):
    placed = jax.device_put(params, state_shardings(boxed, mesh))
    many = jax.jit(step)(placed, *jax.device_put((ids, mask), batch_sharding(mesh)))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
    assert np.linalg.norm(np.asarray(a) - np.asarray(b)) <= 1e-5 * np.linalg.norm(a)
