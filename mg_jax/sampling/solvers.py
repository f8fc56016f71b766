"""Integration of the velocity field from noise to data, as one `lax.scan` [MG 3.4].

In: a velocity function, x0 of any shape at t = times[0], and the list of times. Out: the sample at
times[-1], in float32 whatever the network computes in. Euler is the paper's solver, which it found
better than midpoint and Dopri5.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.typing import Array


def integrate(
  velocity_fn: Callable,
  x0: Array,
  times: Array | np.ndarray,
  *,
  method: str = "euler",
) -> Array:
  """Solves dx/dt = velocity_fn(x, t) along `times`.

  Args:
    velocity_fn: (x, scalar float32 t) -> dx/dt of the shape of x; called once per step by "euler",
      twice by "midpoint".
    x0: state at times[0].
    times: (steps + 1,) increasing times, see `losses.flow` for the schedules.
    method: "euler" (first order) or "midpoint" (second order).

  Raises:
    UserError: unknown method.
  """
  if method not in ("euler", "midpoint"):
    raise UserError(f'solver method is "{method}"; set it to "euler" or "midpoint".')
  times = jnp.asarray(times, jnp.float32)

  def step(x: Array, interval: tuple[Array, Array]) -> tuple[Array, None]:
    return advance(velocity_fn, x, *interval, method=method), None

  x, _ = jax.lax.scan(step, x0.astype(jnp.float32), (times[:-1], times[1:]))
  return x


def advance(velocity_fn: Callable, x: Array, start: Any, end: Any, *, method: str) -> Array:
  """One step of `integrate`, from x at time `start` to `end`."""
  if method == "euler":
    return x + (end - start) * velocity_fn(x, start).astype(x.dtype)
  # Both evaluations by one copy of the network, which halves what is compiled.
  middle = (start + end) / 2

  def stage(point: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
    t, length = at
    return x + length * velocity_fn(point, t).astype(x.dtype), None

  stages = jnp.stack([start, middle]), jnp.stack([middle - start, end - start])
  return jax.lax.scan(stage, x, stages)[0]
