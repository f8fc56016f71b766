"""The contrastive loss against its definition, and the cap on its scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.losses.contrastive import capped, contrastive_loss


def _pairs(size=6, width=5, seed=0):
  rng = np.random.default_rng(seed)
  pair = rng.standard_normal((2, size, width)).astype(np.float32)
  return pair / np.linalg.norm(pair, axis=-1, keepdims=True)


def _loss(image, text, log_scale, **valid):
  return contrastive_loss(jnp.asarray(image), jnp.asarray(text), jnp.float32(log_scale), **valid)


def _definition(image, text, log_scale):
  """Mean over both directions of -log softmax at the own partner, row by row."""
  logits = np.exp(log_scale) * image.astype(np.float64) @ text.T
  total = 0.0
  for table in (logits, logits.T):
    for i, row in enumerate(table):
      total += np.log(np.sum(np.exp(row))) - row[i]
  return total / (2 * len(image))


@pytest.mark.parametrize("log_scale", [0.0, 2.6592, 4.6])
def test_the_loss_is_its_definition(log_scale):
  image, text = _pairs()
  np.testing.assert_allclose(
    _loss(image, text, log_scale), _definition(image, text, log_scale), rtol=2e-5
  )


def test_neither_side_goes_before_the_other():
  image, text = _pairs()
  both = [_loss(*pair, 2.0) for pair in ((image, text), (text, image))]
  np.testing.assert_allclose(both[0], both[1], rtol=1e-6)


def test_features_that_say_nothing_cost_the_logarithm_of_the_batch():
  same = jnp.ones((8, 4)) / 2
  np.testing.assert_allclose(_loss(same, same, 3.0), np.log(8), rtol=1e-6)


def test_rows_that_fill_up_are_neither_asked_nor_offered():
  image, text = _pairs(8)
  valid = np.arange(8) < 5
  image[5:], text[5:] = image[0], text[0]
  loss = _loss(image, text, 2.0, valid_B=jnp.asarray(valid))
  np.testing.assert_allclose(loss, _definition(image[:5], text[:5], 2.0), rtol=2e-5)
  assert np.isfinite(_loss(image, text, 2.0, valid_B=jnp.zeros(8, bool)))


def test_beyond_the_cap_a_value_has_no_effect_and_only_comes_back():
  limit = float(np.log(100.0))
  value, slope = jax.value_and_grad(lambda x: 3.0 * capped(x, limit))(jnp.float32(5.0))
  # Descent would lower it, so it may; where descent would raise it further, it stays.
  np.testing.assert_allclose([value, slope], [3 * limit, 3.0], rtol=1e-6)
  assert jax.grad(lambda x: -3.0 * capped(x, limit))(jnp.float32(5.0)) == 0.0
  below = jax.value_and_grad(lambda x: -3.0 * capped(x, limit))(jnp.float32(4.0))
  assert below == (-12.0, -3.0)
