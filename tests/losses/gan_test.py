"""Adversarial losses by hand, the adaptive weight, and gradients that are known already."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.losses import gan

REAL = jnp.array([[[2.0, 0.5], [-3.0, 9.0]]])  # (B, T, h)
FAKE = jnp.array([[[-2.0, 0.5], [1.0, 9.0]]])


def test_hinges_by_hand():
  assert gan.generator_hinge(FAKE) == -(-2.0 + 0.5 + 1.0 + 9.0) / 4
  # real: 0, 0.5, 4, 0; fake: 0, 1.5, 2, 10
  assert gan.discriminator_hinge(REAL, FAKE) == 0.5 * (4.5 + 13.5) / 4
  only_first = jnp.array([[1.0, 0.0]])
  assert gan.generator_hinge(FAKE, only_first) == 0.75
  assert gan.discriminator_hinge(REAL, FAKE, only_first) == 0.5 * (0.25 + 0.75)


def test_a_sure_discriminator_learns_nothing_more_but_the_generator_does():
  sure = jnp.full((1, 1, 4), 3.0)
  grads = jax.grad(gan.discriminator_hinge, argnums=(0, 1))(sure, -sure)
  assert all(jnp.all(g == 0) for g in grads)
  assert jnp.all(jax.grad(gan.generator_hinge)(-sure) < 0)


@pytest.mark.parametrize(
  "reconstruction, adversarial, wanted",
  [(6.0, 2.0, 3.0), (0.0, 2.0, 0.0), (5.0, 0.0, 1e4), (1e9, 1.0, 1e4)],
)
def test_the_adaptive_weight_is_a_clipped_ratio_of_norms(reconstruction, adversarial, wanted):
  vector = jnp.array([[0.6], [-0.8]])
  got = gan.adaptive_weight(reconstruction * vector, {"kernel": adversarial * vector})
  np.testing.assert_allclose(got, wanted, rtol=1e-4)
  slope = jax.grad(lambda scale: gan.adaptive_weight(scale * vector, vector))(2.0)
  assert slope == 0.0, "the weight is a constant"


def test_a_known_gradient_takes_the_place_of_a_second_pass():
  def features(w):
    return jnp.tanh(w * jnp.arange(1.0, 4.0))

  def loss(x):
    return jnp.sum(x**3)

  w = jnp.float32(0.3)
  value, gradient = jax.value_and_grad(loss)(features(w))
  replaced = lambda w: gan.with_gradient(value, features(w), gradient)  # noqa: E731
  got, want = (jax.value_and_grad(fn)(w) for fn in (replaced, lambda w: loss(features(w))))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_squares_are_summed_over_critics_by_hand():
  real = [jnp.array([1.0, 0.0]), jnp.array([[2.0]])]
  fake = [jnp.array([0.0, 2.0]), jnp.ones((1, 1))]
  assert gan.generator_squares(fake) == (1 + 1) / 2 + 0
  assert gan.discriminator_squares(real, fake) == (0 + 1) / 2 + 1 + (0 + 4) / 2 + 1


def test_features_are_matched_one_by_one_without_moving_the_real():
  real, fake = [jnp.array([1.0, 3.0]), jnp.array([5.0])], [jnp.array([2.0, 0.0]), jnp.array([4.0])]
  assert gan.feature_matching(real, fake) == 2.0 + 1.0
  slopes = jax.grad(gan.feature_matching, argnums=(0, 1))(real, fake)
  assert all(jnp.all(g == 0) for g in slopes[0])
  np.testing.assert_array_equal(slopes[1][0], [0.5, -0.5])
