"""Flow matching: path, velocity, time sampler, time schedules and loss [MG 3.1.2, 3.4].

Time runs from noise (t = 0) to data (t = 1), here and everywhere else. Samples are arrays of any
rank with the batch first; times are `t_B`, one per sample. Schedules are host-side float64 arrays
of `steps + 1` times.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError

SIGMA_MIN = 1e-5  # [MG 3.1.2] standard deviation of the path around the data point at t = 1
TIME_MEAN = 0.0  # [MG 3.1.2] mean of the logit-normal's underlying normal
TIME_STD = 1.0  # [MG 3.1.2]
STEPS = 50  # [MG 3.4] Euler steps of the final model
LINEAR_STEPS = 250  # [MG 3.4] the linear schedule that those 50 steps emulate


def _expand(a: jax.Array, x: jax.Array) -> jax.Array:
  """Appends trailing axes to `a` until it has the rank of `x`."""
  return jnp.reshape(a, a.shape + (1,) * (x.ndim - a.ndim)).astype(x.dtype)


def interpolate(x0: jax.Array, x1: jax.Array, t_B: jax.Array) -> jax.Array:
  """Point of the optimal-transport path, X_t = t X_1 + (1 - (1 - SIGMA_MIN) t) X_0 [MG 3.1.2].

  Args:
    x0: noise, (B, ...).
    x1: data, the same shape.
    t_B: times in [0, 1], one per sample.
  """
  t = _expand(t_B, x1)
  return t * x1 + (1 - (1 - SIGMA_MIN) * t) * x0


def velocity(x0: jax.Array, x1: jax.Array) -> jax.Array:
  """Training target dX_t/dt = X_1 - (1 - SIGMA_MIN) X_0; it does not depend on t [MG 3.1.2]."""
  return x1 - (1 - SIGMA_MIN) * x0


def sample_time(
  key: jax.Array,
  shape: tuple[int, ...],
  *,
  mean: float = TIME_MEAN,
  std: float = TIME_STD,
  spacing: str = "random",
) -> jax.Array:
  """Logit-normal times in (0, 1): the sigmoid of N(mean, std) [MG 3.1.2].

  "stratified" spaces the quantiles of a batch evenly from one shared random offset, modulo 1 (the
  low-discrepancy sampler of Kingma et al. 2021, variational diffusion models): each time keeps the
  logit-normal distribution, and the batch mean of the loss has less variance.

  Raises:
    UserError: spacing is neither "random" nor "stratified".
  """
  if spacing == "random":
    normal = jax.random.normal(key, shape)
  elif spacing == "stratified":
    size = int(np.prod(shape))
    quantile = jnp.mod(jax.random.uniform(key) + jnp.arange(size) / size, 1.0)
    tiny = float(np.finfo(np.float32).eps)  # the normal quantiles of 0 and 1 are infinite
    normal = jax.scipy.special.ndtri(jnp.clip(quantile, tiny, 1 - tiny)).reshape(shape)
  else:
    raise UserError(f'time spacing is "{spacing}"; set it to "random" or "stratified".')
  return jax.nn.sigmoid(mean + std * normal)


def linear_schedule(steps: int) -> np.ndarray:
  """`steps + 1` equally spaced times from 0 to 1.

  Raises:
    UserError: fewer than one step.
  """
  if steps < 1:
    raise UserError(f"a schedule of {steps} steps is empty; use at least 1 step.")
  return np.arange(steps + 1) / steps


def linear_quadratic_schedule(steps: int = STEPS, n: int = LINEAR_STEPS) -> np.ndarray:
  """`steps + 1` times: half of them `n`-step linear, the rest quadratic [MG 3.4].

  The paper prints no formula. With h = steps // 2 and k = 1 .. steps - h,

    t_i = i / n,   t_{h+k} = h / n + k / n + a k^2,   a = (1 - steps / n) / (steps - h)^2,

  which keeps the slope 1 / n at the joint and ends at 1. `n` linear steps are emulated.
  The paper's ratio is n = 5 * steps (t = 0.1 half-way), which is the value to pass if `steps` is
  small: n = 250 at 8 steps is legal, but half of the steps then cover only the first 1.6 % of the
  path. n = steps is the linear schedule.

  Raises:
    UserError: fewer than one step, or n < steps, where the quadratic half would have to slow down.
  """
  if steps < 1:
    raise UserError(f"a schedule of {steps} steps is empty; use at least 1 step.")
  if n < steps:
    raise UserError(
      f"a linear-quadratic schedule of {steps} steps cannot emulate n = {n}; raise n to {steps}."
    )
  half = steps // 2
  rest = steps - half
  k = np.arange(1, rest + 1)
  curvature = (1 - steps / n) / rest**2
  times = np.concatenate([np.arange(half + 1) / n, (half + k) / n + curvature * k**2])
  times[-1] = 1.0
  return times


def flow_loss(
  pred: jax.Array,
  target: jax.Array,
  *,
  weight: jax.Array | None = None,
  per_sample: bool = False,
) -> jax.Array:
  """Mean squared error of the velocity, in float32 [MG 3.1.2].

  Args:
    pred: predicted velocity, (B, ..., C).
    target: the same shape.
    weight: bool or non-negative weights of shape pred.shape[:k], k >= 1; False removes an element.
      Each sample is a weighted mean over its own elements, so a sample with few kept tokens counts
      as much as any other. A sample without any weight has loss 0.
    per_sample: returns (B,) rather than the mean over the batch.
  """
  error = jnp.square(pred.astype(jnp.float32) - target.astype(jnp.float32))
  axes = tuple(range(1, error.ndim))
  if weight is None:
    loss_B = jnp.mean(error, axes)
  else:
    weight = _expand(weight, error)
    total = jnp.sum(jnp.broadcast_to(weight, error.shape), axes)
    loss_B = jnp.sum(error * weight, axes) / jnp.where(total > 0, total, 1.0)
  return loss_B if per_sample else jnp.mean(loss_B)
