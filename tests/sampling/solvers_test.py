import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.losses import flow
from mg_jax.sampling.solvers import integrate

X0 = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)


@pytest.mark.parametrize("method", ["euler", "midpoint"])
@pytest.mark.parametrize("times", [
  flow.linear_schedule(7), flow.linear_quadratic_schedule(8, 40), flow.linear_quadratic_schedule(),
])
def test_constant_velocity_is_integrated_exactly_to_time_one(method, times):
  drift = jnp.arange(24.0).reshape(2, 3, 4)
  x = integrate(lambda x, t: drift, X0, times, method=method)
  np.testing.assert_allclose(x, X0 + drift, rtol=1e-5, atol=1e-5)


def test_straight_path_recovers_the_data():
  x1 = jnp.flip(X0, 0) * 3
  x = integrate(lambda x, t: flow.velocity(X0, x1), X0, flow.linear_quadratic_schedule())
  np.testing.assert_allclose(x, x1 + flow.SIGMA_MIN * X0, atol=2e-5)


@pytest.mark.parametrize("method,order", [("euler", 1), ("midpoint", 2)])
def test_order_of_convergence(method, order):
  exact = X0 * np.exp(1.0)

  def error(steps):
    x = integrate(lambda x, t: x, X0, flow.linear_schedule(steps), method=method)
    return float(jnp.abs(x - exact).max())

  assert np.log2(error(8) / error(16)) == pytest.approx(order, abs=0.25)


def test_euler_sees_the_time_at_the_start_of_each_step():
  times = np.array([0.0, 0.25, 1.0])
  x = integrate(lambda x, t: jnp.ones_like(x) * t, jnp.zeros((1,)), times)
  assert float(x[0]) == pytest.approx(0.25 * 0.75)


def test_bfloat16_velocity_keeps_a_float32_state():
  x = integrate(lambda x, t: jnp.full_like(x, 1e-3, jnp.bfloat16), X0, flow.linear_schedule(4))
  assert x.dtype == jnp.float32
  np.testing.assert_allclose(x - X0, 1e-3, rtol=1e-2)


def test_it_is_one_loop_in_the_program():
  times = flow.linear_schedule(16)
  text = str(jax.make_jaxpr(lambda x: integrate(lambda x, t: jnp.sin(x), x, times))(X0))
  assert text.count("sin") == 1


def test_unknown_method_is_a_user_error():
  with pytest.raises(UserError, match="midpoint"):
    integrate(lambda x, t: x, X0, flow.linear_schedule(2), method="dopri5")
