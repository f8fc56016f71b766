import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.losses import flow


def _pair(shape=(3, 2, 4, 4, 5)):
  rng = np.random.default_rng(0)
  return rng.normal(size=shape), rng.normal(size=shape)


def test_velocity_is_the_finite_difference_of_the_path():
  x0, x1 = _pair()
  t, step = np.array([0.05, 0.5, 0.9]), 1e-3
  with jax.enable_x64(True):
    ahead = flow.interpolate(jnp.asarray(x0), jnp.asarray(x1), jnp.asarray(t + step))
    behind = flow.interpolate(jnp.asarray(x0), jnp.asarray(x1), jnp.asarray(t - step))
    slope = (ahead - behind) / (2 * step)
    target = flow.velocity(jnp.asarray(x0), jnp.asarray(x1))
    assert slope.dtype == jnp.float64
    np.testing.assert_allclose(slope, target, atol=1e-11)


def test_path_starts_at_noise_and_ends_at_data():
  x0, x1 = (jnp.asarray(x, jnp.float32) for x in _pair())
  np.testing.assert_array_equal(flow.interpolate(x0, x1, jnp.zeros(3)), x0)
  np.testing.assert_allclose(
    flow.interpolate(x0, x1, jnp.ones(3)), x1 + flow.SIGMA_MIN * x0, atol=1e-6
  )


def test_path_gives_each_sample_its_own_time():
  x0, x1 = (jnp.asarray(x, jnp.float32) for x in _pair())
  t = jnp.array([0.0, 0.3, 1.0])
  together = flow.interpolate(x0, x1, t)
  for i in range(3):
    alone = flow.interpolate(x0[i : i + 1], x1[i : i + 1], t[i : i + 1])
    np.testing.assert_allclose(together[i], alone[0], atol=1e-6)


@pytest.mark.parametrize("spacing", ["random", "stratified"])
@pytest.mark.parametrize("mean,std", [(0.0, 1.0), (-0.5, 0.7)])
def test_times_are_logit_normal(spacing, mean, std):
  size = 4096
  t = flow.sample_time(jax.random.key(1), (size,), mean=mean, std=std, spacing=spacing)
  assert ((t > 0) & (t < 1)).all()
  logit = np.sort(np.log(np.float64(t)) - np.log1p(-np.float64(t)))
  expected = np.asarray(jax.scipy.stats.norm.cdf(logit, mean, std))
  distance = np.abs(expected - (np.arange(size) + 0.5) / size).max()
  assert distance < 1.63 / np.sqrt(size)  # Kolmogorov-Smirnov at 1 %
  if spacing == "stratified":
    assert distance < 2 / size


def test_one_stratified_time_over_many_keys_is_logit_normal():
  keys = jax.random.split(jax.random.key(2), 2048)
  t = jax.vmap(lambda key: flow.sample_time(key, (4,), spacing="stratified")[1])(keys)
  logit = np.sort(np.log(np.float64(t)) - np.log1p(-np.float64(t)))
  expected = np.asarray(jax.scipy.stats.norm.cdf(logit))
  assert np.abs(expected - (np.arange(2048) + 0.5) / 2048).max() < 1.63 / np.sqrt(2048)


def test_time_spacing_must_be_known():
  with pytest.raises(UserError, match="stratified"):
    flow.sample_time(jax.random.key(0), (2,), spacing="sobol")


def test_linear_quadratic_goldens():
  t = flow.linear_quadratic_schedule()
  assert len(t) == 51 and t[0] == 0 and t[50] == 1
  assert t[25] == pytest.approx(0.1, abs=1e-15)
  assert t[26] == pytest.approx(0.10528, abs=1e-12)
  assert t[40] == pytest.approx(0.448, abs=1e-12)
  assert t[49] == pytest.approx(0.93328, abs=1e-12)
  long = flow.linear_quadratic_schedule(50, 1000)
  assert long[25] == pytest.approx(0.025, abs=1e-15)
  assert long[50] - long[49] == pytest.approx(0.0755, abs=5e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9, 13, 20, 50, 125])
@pytest.mark.parametrize("ratio", [1, 2, 5, 20])
def test_linear_quadratic_is_monotone_with_equal_slope_at_the_joint(steps, ratio):
  n = ratio * steps
  t = flow.linear_quadratic_schedule(steps, n)
  assert t.shape == (steps + 1,) and t[0] == 0 and t[-1] == 1
  assert (np.diff(t) > 0).all()
  half = steps // 2
  np.testing.assert_allclose(t[: half + 1], np.arange(half + 1) / n)
  if steps - half > 2:  # the quadratic through the joint and two points has slope 1/n at the joint
    slope = -1.5 * t[half] + 2 * t[half + 1] - 0.5 * t[half + 2]
    assert slope == pytest.approx(1 / n, rel=1e-9)
  if ratio == 1:
    np.testing.assert_allclose(t, flow.linear_schedule(steps), atol=1e-12)


@pytest.mark.parametrize("call", [
  lambda: flow.linear_schedule(0),
  lambda: flow.linear_quadratic_schedule(0),
  lambda: flow.linear_quadratic_schedule(50, 49),
])
def test_impossible_schedules_are_user_errors(call):
  with pytest.raises(UserError):
    call()


def test_loss_is_the_mean_square_per_sample():
  pred, target = _pair((2, 3, 4))
  loss = flow.flow_loss(jnp.asarray(pred), jnp.asarray(target), per_sample=True)
  np.testing.assert_allclose(loss, ((pred - target) ** 2).mean((1, 2)), rtol=1e-5)
  mean = flow.flow_loss(jnp.asarray(pred), jnp.asarray(target))
  np.testing.assert_allclose(mean, ((pred - target) ** 2).mean(), rtol=1e-5)


def test_weighted_loss_ignores_masked_tokens_and_empty_samples():
  pred, target = _pair((3, 4, 2))
  mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
  poisoned = np.where(mask[..., None], pred, 1e3)
  loss = flow.flow_loss(
    jnp.asarray(poisoned), jnp.asarray(target), weight=jnp.asarray(mask), per_sample=True
  )
  square = (pred - target) ** 2
  np.testing.assert_allclose(loss, [square[0, :2].mean(), square[1].mean(), 0.0], rtol=1e-5)


def test_loss_is_computed_in_float32():
  pred = jnp.full((1, 4), 100.0, jnp.bfloat16)
  target = jnp.full((1, 4), 99.5, jnp.bfloat16)
  loss = flow.flow_loss(pred, target)
  assert loss.dtype == jnp.float32 and loss == pytest.approx(0.25)
