import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.losses import reconstruction as losses


def test_kl_of_a_unit_gaussian_is_zero_and_matches_the_formula():
  zeros = jnp.zeros((2, 3))
  assert losses.kl(zeros, zeros) == 0.0
  mean, logvar = jnp.array([[0.5]]), jnp.array([[-1.0]])
  np.testing.assert_allclose(losses.kl(mean, logvar), 0.5 * (0.25 + np.exp(-1) - 1 + 1), rtol=1e-6)


def test_outlier_penalty_by_hand():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 2, 8, 8, 4)).astype(np.float32)
  x[0, 1, 3, 5] += 40.0  # one spot in the second frame
  total = 0.0
  for frame in x[0]:
    mean, std = frame.mean((0, 1)), frame.std((0, 1))
    distance = np.linalg.norm(frame - mean, axis=-1)
    total += np.maximum(distance - 3.0 * np.linalg.norm(std), 0.0).mean()
  np.testing.assert_allclose(losses.outlier_penalty(jnp.asarray(x)), total / 2, rtol=1e-4)


def test_outlier_penalty_ignores_ordinary_latents_and_pulls_spots_in():
  x = jax.random.normal(jax.random.key(0), (1, 1, 8, 8, 4))
  assert losses.outlier_penalty(x) == 0.0
  spotted = x.at[0, 0, 2, 2].add(30.0)
  gradient = jax.grad(losses.outlier_penalty)(spotted)
  assert jnp.all(gradient[0, 0, 2, 2] > 0)


def test_outlier_penalty_has_a_finite_gradient_on_constant_latents():
  assert jnp.all(jnp.isfinite(jax.grad(losses.outlier_penalty)(jnp.ones((1, 1, 4, 4, 2)))))


def test_the_penalty_acts_where_the_rate_counts_and_statistics_are_per_frame():
  x = np.random.default_rng(0).normal(size=(2, 3, 8, 8, 4)).astype(np.float32)
  x[1, 2] = 50.0 + 9.0 * x[1, 2]  # another offset and spread is no outlier
  assert losses.outlier_rate(jnp.asarray(x)).max() == 0.0
  x[0, 1, 3, 5] += 40.0
  rate = np.asarray(losses.outlier_rate(jnp.asarray(x)))
  assert rate[0, 1] == 1 / 64 and rate.sum() == 1 / 64
  # No distance is beyond sqrt(63) |Std| in a frame of 64 positions.
  assert losses.outlier_rate(jnp.asarray(x), radius=8.0).max() == 0.0


@pytest.mark.parametrize("name", ["l1", "mse", "kl", "outlier"])
def test_frames_without_weight_do_not_count(name):
  x, y = (jax.random.normal(jax.random.key(k), (2, 3, 4, 4, 2)) for k in (0, 1))
  x = x.at[..., 0, 0, :].add(20.0)
  weight = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
  kept = lambda a: a.reshape(6, 1, 4, 4, 2)[np.array([0, 1, 3])]  # noqa: E731
  if name == "outlier":
    got, want = losses.outlier_penalty(x, weight), losses.outlier_penalty(kept(x))
  else:
    fn = getattr(losses, name)
    got, want = fn(x, y, weight), fn(kept(x), kept(y))
  assert want > 0
  np.testing.assert_allclose(got, want, rtol=1e-5)
  if name == "l1":
    assert losses.l1(x, y, jnp.zeros((2, 3))) == 0.0


@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_psnr_is_twenty_log_of_range_over_rmse(noise):
  rng = np.random.default_rng(1)
  target = rng.uniform(-1, 1, (3, 2, 8, 8, 3)).astype(np.float32)
  prediction = np.clip(target + noise * rng.normal(size=target.shape), -1, 1).astype(np.float32)
  rmse = np.sqrt(np.mean(np.square(target - prediction), axis=(1, 2, 3, 4)))
  wanted = 20 * np.log10(2.0 / rmse)
  got = losses.psnr(jnp.asarray(prediction), jnp.asarray(target))
  np.testing.assert_allclose(got, wanted, rtol=1e-5)
