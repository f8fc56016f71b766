"""The one sampler: a velocity field integrated from noise to data, whole or window by window.

Latents are (B, T, H, W, C); sound is (B, L, 1, 1, C). Everything here is pure and meant for `jit`,
under a mesh or not. A field is called with

  x (R, t, h, w, C), t (scalar), window (R,), beside {name: (R, t, h, w, ...)}

where `window` numbers the window that each row is of (0 without windows) and `beside` holds arrays
of the latent's size, cut like x. Rows are batch-major: row b * w + i is window i of sample b.

Known latents are held in one of two ways. *Clean* ones are data from the first step on, as the
tokens of a "clean" route are trained [MG 5.1]. The others follow their path from noise to data, as
the context of the sound model is trained [MG 6.2]; its velocity is constant, so that the solver
stays on it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mg_jax.core.typing import Array, Bool, Float
from mg_jax.losses import flow
from mg_jax.sampling.solvers import advance
from mg_jax.sampling.windows import Windows

Beside = Mapping[str, Array]
Field = Callable[[Array, Array, Array, Beside], Array]


@struct.dataclass
class Known:
  """Latents that are given.

  Attributes:
    latent: normalised; what stands where `mask` is False does not matter.
    mask: True where known.
    clean: how they are held, see the module.
  """

  latent: Float[Array, "#B T H W C"]
  mask: Bool[Array, "#B T H W"]
  clean: bool = struct.field(pytree_node=False, default=True)


@struct.dataclass
class Segment:
  """What a segment of an autoregression takes over from the one before it.

  After every step the state is mixed with `states`, those of the segment before at that time:
  x <- weight * x + (1 - weight) * states [MG 6.2].
  """

  states: Float[Array, "S B T H W C"]
  weight: Float[Array, "T"]


def sample(
  field: Field,
  noise: Float[Array, "B T H W C"],
  times: Array | np.ndarray,
  *,
  method: str = "euler",
  known: Known | None = None,
  beside: Beside | None = None,
  windows: Windows | None = None,
  rows: int = 1,
  multiple: int = 1,
) -> Float[Array, "B T H W C"]:
  """The latent at times[-1].

  Windows share one joint state (MultiDiffusion): all of them start a step from it, and merging the
  states that they reach is merging their velocities, so this is the solver on the field
  sum_j m_j v_j, at the half step of "midpoint" too. Windows of which everything is known are not
  evaluated.

  Args:
    field: see the module.
    noise: the state at times[0].
    times: (steps + 1,) increasing times, see `losses.flow`.
    method: as for `solvers.integrate`.
    known: latents that are given.
    beside: arrays (B, T, H, W, ...), or of one row for all, that the field reads beside x.
    windows: overlapping windows; None for one call of the field a step.
    rows: of a call; as many windows are evaluated together as fit, at least one of each sample.
    multiple: the rows of a call are a multiple of this, so that they divide over devices; repeated
      windows fill it.
  """
  return follow(
    field, noise, times, method=method, known=known, beside=beside, windows=windows, rows=rows,
    multiple=multiple,
  )[0]  # fmt: skip


def follow(
  field: Field,
  noise: Float[Array, "B T H W C"],
  times: Array | np.ndarray,
  *,
  segment: Segment | None = None,
  known: Known | None = None,
  method: str = "euler",
  beside: Beside | None = None,
  windows: Windows | None = None,
  rows: int = 1,
  multiple: int = 1,
) -> tuple[Float[Array, "B T H W C"], Array | None]:
  """As `sample`, and with a `segment` also the states after every step, (S, B, T, H, W, C)."""
  x = noise.astype(jnp.float32)
  slope, mask = None, None
  if known is not None:
    mask = known.mask[..., None]
    slope = jnp.zeros_like(x) if known.clean else flow.velocity(x, known.latent)
    x = jnp.where(mask, known.latent, x) if known.clean else x
  beside = {
    name: jnp.broadcast_to(array, (x.shape[0], *array.shape[1:]))
    for name, array in (beside or {}).items()
  }
  whole = _merged(field, known, beside, windows, rows, multiple)

  def held(x: Array, t: Array) -> Array:
    v = whole(x, t)
    return v if mask is None else jnp.where(mask, slope, v)

  def step(x: Array, at: Any) -> tuple[Array, Array | None]:
    start, end, states = at
    reached = advance(held, x, start, end, method=method)
    if states is None:
      return reached, None
    weight = segment.weight[:, None, None, None]
    mixed = weight * reached + (1 - weight) * states
    reached = mixed if mask is None else jnp.where(mask, reached, mixed)
    return reached, reached

  times = jnp.asarray(times, jnp.float32)
  states = None if segment is None else segment.states
  x, trail = jax.lax.scan(step, x, (times[:-1], times[1:], states))
  return x if known is None else jnp.where(mask, known.latent, x), trail


def _merged(
  field: Field, known: Known | None, beside: Beside, windows: Windows | None, rows: int,
  multiple: int,
) -> Callable[[Array, Array], Array]:
  """The field of the whole latent, (x, t) -> dx/dt."""

  def alone(x: Array, t: Array) -> Array:
    evaluate = lambda x: field(x, t, jnp.zeros(x.shape[0], jnp.int32), beside).astype(x.dtype)  # noqa: E731
    if known is None or known.clean:
      return evaluate(x)
    return jax.lax.cond(jnp.all(known.mask), jnp.zeros_like, evaluate, x)

  if windows is None:
    return alone

  def whole(x: Array, t: Array) -> Array:
    together = max(1, min(len(windows), rows // x.shape[0]))
    together += -together % (multiple // math.gcd(multiple, x.shape[0]))
    count = -(-len(windows) // together) * together
    number = np.minimum(np.arange(count), len(windows) - 1).reshape(-1, together)
    valid = (np.arange(count) < len(windows)).reshape(-1, together)

    def evaluate(out: Array, group: Any) -> Array:
      window_w, valid_w = group
      taken = {name: windows.take(array, window_w) for name, array in beside.items()}
      number_R = jnp.tile(window_w, x.shape[0])
      v = field(windows.take(x, window_w), t, number_R, taken)
      return windows.add(out, v.astype(x.dtype), window_w, valid_w.astype(x.dtype))

    def step(out: Array, group: Any) -> tuple[Array, None]:
      if known is None:
        return evaluate(out, group), None
      free = ~windows.take(known.mask, group[0])
      return jax.lax.cond(jnp.any(free), evaluate, lambda out, _: out, out, group), None

    return jax.lax.scan(step, jnp.zeros_like(x), (jnp.asarray(number), jnp.asarray(valid)))[0]

  return whole


@dataclasses.dataclass(frozen=True)
class Autoregression:
  """Window after window along time, each solved to the end [MG 6.2].

  A window knows the one before it in two ways. Its context holds the frames that both have, as they
  ended. And after every step those frames are mixed with where they were at that time in the window
  before, with w_n = n / n_ctx: the first of them stay old, the last are almost free. What both
  windows have is taken from the later one.

  Attributes:
    solve: (noise, known, context, segment, window number) -> (x, states), all of one window's size:
      `follow`, compiled once for all windows.
    select: beam search: (candidates of a window, its number) -> which of them, (N,), go on in each
      place, with the past and the noise of it; None lets every one go on.
  """

  solve: Callable[..., tuple[Array, Array]]
  select: Callable[[Array, int], np.ndarray] | None = None

  def __call__(
    self, noise: Float[Array, "B T H W C"], known: Known, *, starts_J: np.ndarray, window: int,
    steps: int,
  ) -> Float[Array, "B T H W C"]:
    """The whole at the last time.

    Args:
      noise: of the whole.
      known: latents that are given, held on their path.
      starts_J: first frames of the windows, as `windows.starts` gives them.
      window: frames of one.
      steps: of the solver.
    """
    made, done = jnp.zeros_like(noise), 0
    shape = (noise.shape[0], window, *noise.shape[2:])
    states = jnp.zeros((steps, *shape), noise.dtype)
    for j, first in enumerate(starts_J.tolist()):
      part, shared = slice(first, first + window), max(0, done - first)
      mask, latent = known.mask[:, part], known.latent[:, part]
      solved = ~mask & (jnp.arange(first, first + window) < done)[:, None, None]
      context = jnp.where(solved[..., None], made[:, part], jnp.where(mask[..., None], latent, 0))
      weight = jnp.where(jnp.arange(window) < shared, jnp.arange(window) / max(shared, 1), 1.0)
      given = Known(latent, mask, clean=False)
      x, states = self.solve(noise[:, part], given, context, Segment(states, weight), j)
      made, done = made.at[:, part].set(x), first + window
      if self.select is not None:
        parents = np.asarray(self.select(x, j))
        made, states = made[parents], states[:, parents]
        noise = noise.at[:, :done].set(noise[parents, :done])
      if j + 1 < len(starts_J):
        # What the next window shares comes to its front; what is rolled around has weight 0.
        states = jnp.roll(states, -(int(starts_J[j + 1]) - first), axis=2)
    return made


def best(scores_N: np.ndarray, *, keep: int) -> np.ndarray:
  """Which candidates (N,) go on where: the best `keep` of them in turn, those before them first."""
  order = np.argsort(-np.asarray(scores_N), kind="stable")[:keep]
  return order[np.arange(len(scores_N)) % keep]
