"""The one training step: gradient, clipping, guard, update and averaging for every role.

`Step(state, batch, key, clock) -> (state, metrics)`, jitted, with the state donated. Roles see the
parameters from before the step, so their order only matters for what they hand on in `carry`. A
step whose loss or gradient is not finite, or which stands out as a spike, leaves parameters,
optimizer and averages bit-unchanged and is counted. So does a role leave its own in the steps in
which it rests (`OptimConfig.every`), which then costs no gradient. The paper names none of them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mg_jax.core import rng
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import use_mesh
from mg_jax.core.sharding import replicated
from mg_jax.core.tree import global_norm
from mg_jax.core.typing import Array, PyTree
from mg_jax.objectives.base import Objective
from mg_jax.train.optim import Optimizer
from mg_jax.train.state import (
  TrainState,
  abstract_batch,
  abstract_key,
  as_abstract,
  shardings_of,
)


@dataclasses.dataclass(frozen=True)
class StepConfig:
  """What one step does besides the objective.

  Attributes:
    steps: length of the run; schedules end there.
    accumulate: microbatches per step; gradients and metrics are their plain mean.
    ema: decay of the averaged weights, 0 for none; it warms up as (1 + n) / (10 + n).
    spike_sigma: skip a step whose loss or gradient norm exceeds the mean of the last
      `spike_window` accepted ones by this many standard deviations; 0 switches this off.
  """

  steps: int = 1000
  accumulate: int = 1
  ema: float = 0.9999
  spike_sigma: float = 0.0
  spike_window: int = 128

  def __post_init__(self):
    if self.steps < 1 or self.accumulate < 1:
      raise UserError(f"steps and accumulate are at least 1, got {self.steps}, {self.accumulate}")
    if not 0.0 <= self.ema < 1.0:
      raise UserError(f"the EMA decay lies in [0, 1), got {self.ema}; use 0 for none")

  @property
  def state_args(self) -> dict[str, int | bool]:
    """What `abstract_state` and `create_state` need to know."""
    return {"ema": self.ema > 0, "window": self.spike_window if self.spike_sigma > 0 else 0}


@dataclasses.dataclass(frozen=True)
class Step:
  """A jitted step that is always traced and run under its mesh.

  Attributes:
    every: {role: n} of the roles that are updated in every n-th step only.
  """

  jitted: jax.stages.Wrapped
  mesh: Mesh
  every: Mapping[str, int]

  def __call__(
    self, state: TrainState, batch: PyTree, key: Array, clock: Array
  ) -> tuple[TrainState, dict[str, Array]]:
    """One update; the given state is donated.

    Args:
      state: as made by `create_state`.
      batch: global arrays, leading dimension split over the mesh.
      key: the key of the run; the step folds in its own number.
      clock: float32 scalar in [0, 1], the part of a wall-clock budget that is used up, or 0.

    Returns:
      The new state, and scalar metrics named "role/metric"; those of a role that rests are NaN.
    """
    with use_mesh(self.mesh):
      return self.jitted(state, batch, key, clock)

  def lower(self, state: TrainState, batch: PyTree) -> jax.stages.Lowered:
    """Lowers the step for shapes alone; `batch` needs global shapes, `state` also shardings."""
    mesh = self.mesh
    clock = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    with use_mesh(mesh):
      return self.jitted.lower(
        state, abstract_batch(as_abstract(batch), mesh), abstract_key(mesh), clock
      )


def build_step(
  objective: Objective,
  optimizers: Mapping[str, Optimizer],
  config: StepConfig,
  mesh: Mesh,
  *,
  state: TrainState,
) -> Step:
  """The step of a run, or of a plan.

  Args:
    objective: what is trained.
    optimizers: one for each of its roles.
    config: accumulation, averaging, guard.
    mesh: where it runs; for a plan, a mesh of a described topology.
    state: a concrete or abstract state, read for its shardings only.
  """
  every = {r: optimizers[r].config.every for r in objective.roles if optimizers[r].config.every > 1}

  def step(state: TrainState, batch: PyTree, key: Array, clock: Array):
    key = rng.stream(key, "step", state.step)
    turns = {role: (state.step + 1) % n == 0 for role, n in every.items()}
    losses, grads, metrics = _gradients(objective, optimizers, config, state, batch, key, turns)
    norms = {role: global_norm(tree) for role, tree in grads.items()}
    signals = jnp.stack([*losses.values(), *norms.values()])
    rests = _rests([*losses, *norms], turns)
    accept = jnp.all(jnp.isfinite(signals) if rests is None else jnp.isfinite(signals) | rests)
    accept &= ~_is_spike(signals, state.history, config.spike_sigma)
    progress = jnp.maximum(state.step / config.steps, clock)

    params, opt_state = {}, {}
    for role in objective.roles:
      optimizer = optimizers[role]
      rate = optimizer.rate(state.step, progress)
      old = state.params[role], state.opt_state[role]

      def update(role=role, optimizer=optimizer, rate=rate, old=old):
        clipped = _clip(grads[role], norms[role], optimizer.config.clip)
        updates, new_opt = optimizer.update(clipped, old[1], old[0])
        new_params = jax.tree.map(lambda p, u: (p - rate * u).astype(p.dtype), old[0], updates)
        return _select(accept, new_params, old[0]), _select(accept, new_opt, old[1])

      params[role], opt_state[role] = _take_turn(turns.get(role), update, lambda old=old: old)
      about = {"grad_norm": norms[role], "lr": rate, "param_norm": global_norm(params[role])}
      if role in turns:
        about = {name: jnp.where(turns[role], x, jnp.nan) for name, x in about.items()}
      metrics[role] |= about

    skipped = 1 - accept.astype(jnp.int32)
    total = state.skipped_total + skipped
    in_row = jnp.where(accept, 0, state.skipped_in_row + 1)
    good_steps = state.step + 1 - total
    new_state = TrainState(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      ema=_average(state.ema, params, config.ema, good_steps, accept, turns),
      skipped_total=total,
      skipped_in_row=in_row,
      history=_remember(state.history, signals, accept if rests is None else accept & ~rests),
      frozen=state.frozen,
    )
    flat = {f"{role}/{name}": value for role in metrics for name, value in metrics[role].items()}
    guard = {"skipped": skipped, "skipped_in_row": in_row, "skipped_total": total}
    return new_state, flat | {f"guard/{name}": value for name, value in guard.items()}

  shardings = shardings_of(state)
  return Step(
    jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated(mesh))), mesh, every
  )


def _gradients(objective, optimizers, config, state, batch, key, turns):
  """Losses, gradients and metrics by role, averaged over the microbatches.

  `turns` tells of some roles whether they step, bool; one that rests has no gradient and NaN for a
  loss.
  """

  def one(batch: PyTree, key: Array):
    losses, grads, metrics, carry = {}, {}, {}, {}
    for role in objective.roles:

      def loss_fn(params: PyTree, role=role, carry=carry):
        params = {**state.params, **state.frozen, role: optimizers[role].stop_frozen(params)}
        loss, aux = objective.loss(
          role, params, batch, rng.stream(key, role), state.step, carry
        )
        return loss.astype(jnp.float32), aux

      def step(loss_fn=loss_fn, role=role):
        return jax.value_and_grad(loss_fn, has_aux=True)(state.params[role])

      def rest(loss_fn=loss_fn, role=role):
        # Only what the loss hands on is used, so the compiler leaves out the others.
        loss, (named, carry) = loss_fn(state.params[role])
        loss, named = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), (loss, named))
        return (loss, (named, carry)), jax.tree.map(jnp.zeros_like, state.params[role])

      (losses[role], (named, carry)), grads[role] = _take_turn(turns.get(role), step, rest)
      metrics[role] = {**named, "loss": losses[role]}
    return losses, grads, metrics

  count = config.accumulate
  if count == 1:
    return one(batch, key)

  def body(total, item):
    index, microbatch = item
    part = one(microbatch, jax.random.fold_in(key, index))
    return jax.tree.map(lambda a, b: a + b / count, total, part), None

  parts = _microbatches(batch, count)
  shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts), key)
  # Sums run in at least float32, whatever the dtype of a metric.
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), shapes
  )
  return jax.lax.scan(body, zeros, (jnp.arange(count), parts))[0]


def _microbatches(batch: PyTree, count: int) -> PyTree:
  """(B, ...) -> (count, B / count, ...). Strided, so each device cuts up its own rows only."""

  def split(x: Array) -> Array:
    if x.shape[0] % count:
      raise UserError(f"a batch of {x.shape[0]} does not divide into accumulate={count} parts")
    return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)

  return jax.tree.map(split, batch)


def _take_turn(turn: Array | None, step: Callable, rest: Callable):
  """What `step` gives, or `rest` where it is not the role's turn; None is always its turn."""
  return step() if turn is None else jax.lax.cond(turn, step, rest)


def _rests(roles: Sequence[str], turns: Mapping[str, Array]) -> Array | None:
  """Of the roles of some signals, which rest, bool (len(roles),); None where none ever does."""
  if not turns:
    return None
  return ~jnp.stack([turns.get(role, jnp.ones((), bool)) for role in roles])


def _clip(grads: PyTree, norm: Array, limit: float) -> PyTree:
  if not limit:
    return grads
  scale = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
  return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)


def _select(accept: Array, new: PyTree, old: PyTree) -> PyTree:
  return jax.tree.map(lambda n, o: jnp.where(accept, n, o), new, old)


def _average(ema, params, decay: float, good_steps: Array, accept: Array, turns):
  if ema is None:
    return None
  warm = jnp.minimum(decay, (1.0 + good_steps) / (10.0 + good_steps))

  def mean(ema, params):
    return _select(accept, jax.tree.map(lambda e, p: e + (1.0 - warm) * (p - e), ema, params), ema)

  steady = {role: tree for role, tree in ema.items() if role not in turns}
  new = mean(steady, {role: params[role] for role in steady})
  for role, turn in turns.items():
    old = ema[role]
    new[role] = jax.lax.cond(turn, mean, lambda old, _: old, old, params[role])
  return new


def _is_spike(signals: Array, history: Array | None, sigma: float) -> Array:
  """Judges only once the window is full; NaN marks its empty places."""
  if history is None:
    return jnp.zeros((), bool)
  limit = jnp.mean(history, axis=1) + sigma * jnp.std(history, axis=1)
  return jnp.any(signals > limit)


def _remember(history: Array | None, signals: Array, accept: Array) -> Array | None:
  """`accept` is one bool, or one for each signal."""
  if history is None:
    return None
  grown = jnp.concatenate([history[:, 1:], signals[:, None]], axis=1)
  return jnp.where(accept if accept.ndim == 0 else accept[:, None], grown, history)
