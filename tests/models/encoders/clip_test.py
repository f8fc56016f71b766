"""The towers of CLIP: what a token may see, where they are pooled, sharding, wrong sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.sharding import batch_sharding, state_shardings
from mg_jax.models.encoders.clip import CLIP, TextTower, VisionTower, normalise, unit

TEXT = TextTower(
  vocab=20, length=9, width=16, layers=2, heads=2, mlp_dim=24, projection=8, end=19
)
VISION = VisionTower(size=16, patch=8, width=16, layers=2, heads=4, mlp_dim=24, projection=8)


@pytest.fixture(scope="module")
def batch():
  ids = jnp.array([[3, 4, 5, 19, 6, 19, 0, 0], [7, 8, 9, 10, 11, 12, 13, 19]])
  mask = jnp.array([[1] * 6 + [0] * 2, [1] * 8], bool)
  return jax.random.normal(jax.random.key(0), (2, 16, 16, 3)), ids, mask


@pytest.fixture(scope="module")
def params(batch, awaken):
  model = CLIP(TEXT, VISION)
  return {"params": awaken(jax.eval_shape(model.init, jax.random.key(0), *batch))["params"]}


def _read(params, ids, mask):
  return CLIP(TEXT, VISION).apply(params, ids, mask, method="encode_text")


def _without_effect(path):
  """A bias of all keys moves all scores of a query alike, which the softmax takes out."""
  return "['key']['bias']" in jax.tree_util.keystr(path)


def test_a_word_sees_what_comes_before_it_and_no_padding(batch, params):
  _, ids, mask = batch
  whole = _read(params, ids, mask)
  later = _read(params, ids.at[1, 5].set(2), mask)
  np.testing.assert_array_equal(whole.tokens[1, :5], later.tokens[1, :5])
  assert np.abs(whole.tokens[1, 5:] - later.tokens[1, 5:]).max() > 1e-3
  padded = _read(params, ids.at[0, 6:].set(5), mask)
  np.testing.assert_array_equal(whole.tokens[0, :6], padded.tokens[0, :6])
  np.testing.assert_array_equal(whole.pooled, padded.pooled)


def test_text_is_pooled_at_its_first_end(batch, params):
  _, ids, mask = batch
  pooled = _read(params, ids, mask).pooled
  np.testing.assert_array_equal(pooled[0], _read(params, ids.at[0, 4].set(9), mask).pooled[0])
  assert np.abs(pooled[0] - _read(params, ids.at[0, 2].set(9), mask).pooled[0]).max() > 1e-3


def test_logits_are_scaled_cosines(batch, params):
  image, ids, mask = batch
  model = CLIP(TEXT, VISION)
  seen = unit(model.apply(params, image, method="encode_image").pooled)
  cosines = seen @ unit(_read(params, ids, mask).pooled).T
  scale = np.exp(params["params"]["logit_scale"])
  np.testing.assert_allclose(model.apply(params, *batch), scale * cosines, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(seen, axis=-1), 1, rtol=1e-6)
  assert not np.isnan(unit(jnp.zeros((2, 3)))).any()


def test_every_parameter_learns(batch, params):
  target = jax.random.normal(jax.random.key(2), (2, 2))
  loss = lambda p: jnp.sum(CLIP(TEXT, VISION).apply(p, *batch) * target)  # noqa: E731
  for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
    if not _without_effect(path):
      assert np.isfinite(grad).all() and np.abs(grad).max() > 1e-6, path


def test_eight_devices_agree_with_one(batch, params):
  model = CLIP(TEXT, VISION)
  boxed = jax.eval_shape(model.init, jax.random.key(0), *batch)
  batch = jax.tree.map(lambda x: jnp.concatenate([x, x[::-1]]), batch)
  step = jax.value_and_grad(lambda p, *b: jnp.sum(jnp.sin(model.apply(p, *b))))
  one = jax.jit(step)(params, *batch)
  mesh = make_mesh((1, 2, 2, 2))
  with use_mesh(mesh):
    placed = jax.device_put(params, state_shardings(boxed, mesh))
    many = jax.jit(step)(placed, *jax.device_put(batch, batch_sharding(mesh)))
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(many), strict=True
  ):
    if not _without_effect(path):
      assert np.linalg.norm(np.asarray(a) - np.asarray(b)) <= 1e-5 * np.linalg.norm(a), path


def test_sizes_that_do_not_fit_are_told(batch, params):
  image, ids, mask = batch
  with pytest.raises(UserError, match="16 tokens exceeds the 9"):
    _read(params, jnp.tile(ids, 2), jnp.tile(mask, 2))
  with pytest.raises(UserError, match="8x8, the tower takes 16x16"):
    CLIP(TEXT, VISION).apply(params, image[:, :8, :8], method="encode_image")
  with pytest.raises(UserError, match="3 heads"):
    VISION.clone(heads=3).init(jax.random.key(0), image)


def test_normalised_pixels_of_the_mean_are_zero():
  grey = jnp.full((1, 2, 2, 3), 0.5)
  out = normalise(grey)
  assert out.shape == grey.shape and 0 < float(out[0, 0, 0, 0]) < float(out[0, 0, 0, 2])
