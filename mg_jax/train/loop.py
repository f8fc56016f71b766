"""The one training loop, for every stage.

Parameters come from, in this order: the run's own workdir, another run named for an explicit
resume, a warm start, initialisation. So the same command that started a run also continues it. Step
n is dispatched before the metrics of step n - 1 are read; a checkpoint holds the position of the
data before the next batch is drawn.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core import rng
from mg_jax.core.errors import UserError, refusal
from mg_jax.core.mesh import devices_of
from mg_jax.core.tree import count_params, fingerprint
from mg_jax.core.typing import PyTree
from mg_jax.objectives.base import Objective
from mg_jax.train.checkpoint import Checkpointer, Restored
from mg_jax.train.feed import BatchIterator, Feed
from mg_jax.train.interrupt import Interrupt
from mg_jax.train.optim import OptimConfig, build_optimizers
from mg_jax.train.profile import Meter
from mg_jax.train.report import Reporter
from mg_jax.train.state import TrainState, abstract_state, create_state, replicate
from mg_jax.train.step import StepConfig, build_step
from mg_jax.train.warmstart import WarmStartConfig, fill
from mg_jax.train.watchdog import Watchdog
from mg_jax.train.workdir import locked, prepare
from mg_jax.train.writer import MetricWriter


@dataclasses.dataclass(frozen=True)
class TrainConfig(StepConfig):
  """A run.

  Attributes:
    experiment: name of the experiment; a workdir belongs to one.
    phase: part of a recipe whose batch, learning rate and mesh change on the way. `steps` count
      from the first phase on, and a later one goes on from the state of the one before.
    seed: of initialisation and of every random draw of the steps.
    max_seconds: wall-clock budget over all restarts, 0 for none. It starts when the first step is
      compiled, and steps, evaluations and saving count. Schedules then follow whichever of steps
      and time is further, and the run saves and ends when it is used up.
    checkpoint_every: steps between checkpoints; there is always one at the end.
    keep: latest checkpoints kept, besides those at multiples of `keep_every` (0 for none).
    log_every: steps between lines of metrics.
    max_skipped: steps in a row that the guard may skip before the run is aborted.
    watchdog_seconds: a step after the first that takes longer dumps all stacks and ends the
      process; 0 for none. It has to leave time to compile where batches change their shape.
    restore_fallback: go on from an older checkpoint when the newest is damaged, of `resume` too.
    tensorboard: also write TensorBoard events.
    resume: workdir of another run to take the whole state from.
    warm_start: runs and converted weights to take parameters from. Those of frozen roles are read
      whenever the run goes on, too.
  """

  experiment: str = "experiment"
  phase: int = 1
  seed: int = 0
  max_seconds: float = 0.0
  checkpoint_every: int = 1000
  keep: int = 3
  keep_every: int = 0
  log_every: int = 50
  max_skipped: int = 10
  watchdog_seconds: float = 0.0
  restore_fallback: bool = False
  tensorboard: bool = False
  resume: str = ""
  warm_start: WarmStartConfig = WarmStartConfig()

  def __post_init__(self):
    super().__post_init__()
    if isinstance(self.warm_start, Mapping):  # as a section of a config
      start = configs.build(WarmStartConfig, self.warm_start, where="train.warm_start")
      object.__setattr__(self, "warm_start", start)
    if min(self.checkpoint_every, self.log_every, self.keep, self.max_skipped) < 1:
      raise UserError("checkpoint_every, log_every, keep and max_skipped are at least 1")


@dataclasses.dataclass(frozen=True)
class Hook:
  """Something done at a cadence: an evaluation, a preview.

  Attributes:
    name: for messages.
    every: steps between calls; the end of the run is always one.
    call: gets the state and the steps done; metrics it returns are written.
    start: whether it is also called before the first step, for what a warm start gives by itself.
  """

  name: str
  every: int
  call: Callable[[TrainState, int], Mapping[str, Any] | None]
  start: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
  """How a run ended: all its steps, its time budget, or an interruption that saved it."""

  state: TrainState
  step: int
  status: Literal["finished", "out of time", "interrupted"]
  elapsed: float


def train(
  objective: Objective,
  data: BatchIterator,
  config: TrainConfig,
  workdir: str,
  mesh: Mesh,
  *,
  optim: OptimConfig | Mapping[str, OptimConfig],
  hooks: Sequence[Hook] = (),
  flops: float | None = None,
  description: Mapping[str, Any] | None = None,
  preprocess: Callable[[PyTree], PyTree] | None = None,
) -> Result:
  """Trains until the steps or the time are used up, or somebody asks to stop.

  Args:
    objective: what is trained.
    data: this process's numpy batches; its position is restored with the state.
    config: the run.
    workdir: where checkpoints, metrics and bundles go; made if its parent exists.
    mesh: where it runs; may differ from run to run.
    optim: one config for all roles, or one per role.
    hooks: evaluations and previews.
    flops: analytical FLOPs of a whole step, for the MFU.
    description: the experiment's config, stored with every checkpoint.
    preprocess: done to a batch on its devices before its step, such as frozen encoders.

  Raises:
    UserError: when the workdir cannot be used, a checkpoint does not fit or is damaged, the data
      end early, or too many steps in a row are bad.
  """
  folder = prepare(workdir)
  with locked(folder), contextlib.ExitStack() as stack:
    saver = Checkpointer(
      folder, name=config.experiment, keep=config.keep, keep_every=config.keep_every
    )
    closing = stack.enter_context(contextlib.ExitStack())
    closing.callback(saver.close)
    interrupt = stack.enter_context(Interrupt())
    feed = Feed(data, mesh, preprocess)
    stack.callback(feed.close)
    optimizers = build_optimizers(optim, objective.roles)
    key = jax.random.key(config.seed)
    start = _restore_or_create(objective, optimizers, config, mesh, saver, feed, key)
    writer = MetricWriter(folder, tensorboard=config.tensorboard, resume_step=start.step)
    stack.callback(writer.close)
    writer.say(
      f"{config.experiment}: step {start.step} of {config.steps}, "
      f"{count_params(start.state.params):,} parameters, {devices_of(mesh.size)}, {folder}"
    )
    run = _Run(
      config, mesh, saver, feed, writer, hooks, dict(description or {}), interrupt, start.frozen,
      earlier=start.elapsed,
    )
    step = build_step(objective, optimizers, config, mesh, state=start.state)
    try:
      result = run.go(step, start.state, start.step, rng.stream(key, "train"), flops)
    except Exception as e:
      if isinstance(e, UserError) or not (told := refusal(e)):
        raise
      raise saver.explain(f"{told.file or folder} cannot be written", e) from e
    finally:
      closing.close()  # While an interrupt still waits.
    writer.say(run.sentence(result, folder))
    return result


def _restore_or_create(objective, optimizers, config, mesh, saver, feed, key) -> Restored:
  """The state to start from, with the feed set to its position."""
  if saver.latest is None and not config.resume:
    state = create_state(
      objective, optimizers, mesh, feed.peek(), rng.stream(key, "init"), **config.state_args
    )
    frozen = {}
    if config.warm_start.origins or state.frozen:
      filled, origins = fill(state.params | state.frozen, config.warm_start)
      params = {role: filled[role] for role in state.params}
      ema = None if state.ema is None else jax.tree.map(jax.numpy.copy, params)
      state = state.replace(
        params=params, ema=ema, frozen={role: filled[role] for role in state.frozen}
      )
      frozen = _identify(state.frozen, origins)
    return Restored(state, 0, feed.get_state(), 0.0, {}, frozen)
  target = abstract_state(objective, optimizers, mesh, feed.peek(), **config.state_args)
  wanted = target.replace(frozen={})
  if saver.latest is not None:
    restored = saver.restore(wanted, fallback=config.restore_fallback)
  else:
    other = Checkpointer(config.resume, read_only=True)
    try:
      restored = other.restore(wanted, fallback=config.restore_fallback)
    finally:
      other.close()
  _check_phase(config, restored)
  feed.set_state(restored.data)
  return _restore_frozen(objective, config, restored, target.frozen)


def _restore_frozen(objective, config, restored: Restored, target) -> Restored:
  """With the frozen roles from their origins; refuses others than the run was trained with."""
  if not (target or restored.frozen):
    return restored
  trees, origins = fill(target, config.warm_start, without=objective.roles)
  found = _identify(trees, origins)
  for role in sorted({*found, *restored.frozen}):
    before, now = (kept.get(role, {}) for kept in (restored.frozen, found))
    if before.get("fingerprint") != now.get("fingerprint"):
      raise UserError(
        f"frozen role {role} of step {restored.step} was {_told(before)} and is now {_told(now)}; "
        "give train.warm_start the weights that the run was trained with"
      )
  state = restored.state.replace(frozen=trees)
  return dataclasses.replace(restored, state=state, frozen=found)


def _identify(frozen: Mapping[str, PyTree], origins: Mapping[str, str]) -> dict[str, dict]:
  """What checkpoints say of frozen roles in the place of their weights."""
  return {
    role: {"origin": origins[role], "fingerprint": fingerprint(tree)}
    for role, tree in frozen.items()
  }


def _told(frozen: Mapping[str, str]) -> str:
  return f"{frozen['origin']} ({frozen['fingerprint'][:12]})" if frozen else "not there"


def _check_phase(config: TrainConfig, restored: Restored) -> None:
  """Refuses to leave phases out; one that is over may be asked for again."""
  reached = restored.config.get("train", {}).get("phase", 1)
  if config.phase > reached + 1:
    raise UserError(
      f"phase {config.phase} of {config.experiment} goes on from phase {config.phase - 1}, and "
      f"step {restored.step} is of phase {reached}: run the phases between first"
    )


@dataclasses.dataclass
class _Run:
  """What stays the same while the loop turns, and its clock."""

  config: TrainConfig
  mesh: Mesh
  saver: Checkpointer
  feed: Feed
  writer: MetricWriter
  hooks: Sequence[Hook]
  description: dict[str, Any]
  interrupt: Interrupt
  frozen: dict[str, Any]
  begin: float | None = None
  earlier: float = 0.0
  shared: float = 0.0
  reason: str = ""

  def go(self, step_fn, state: TrainState, step: int, key, flops: float | None) -> Result:
    config, feed = self.config, self.feed
    first = step
    self._call_hooks(state, step, [hook for hook in self.hooks if hook.start and not step])
    meter = Meter(flops=flops, devices=self.mesh.size)
    meter.start(step, feed.wait)
    reporter = Reporter(
      self.saver.folder.parent, self.writer, meter, key=key,
      steps=config.steps, log_every=config.log_every, max_skipped=config.max_skipped,
      every=step_fn.every,
    )
    key = jax.random.wrap_key_data(replicate(np.asarray(jax.random.key_data(key)), self.mesh))
    pending: tuple | None = None

    def drain(*, last: bool = False) -> None:
      nonlocal pending
      if pending is not None:
        (samples, *report), pending = pending, None
        meter.add(samples)
        left = config.max_seconds - self.elapsed() if config.max_seconds else float("inf")
        reporter.report(*report, wait=feed.wait, seconds_left=left, last=last)

    with Watchdog(config.watchdog_seconds).open() as watchdog, contextlib.closing(reporter):
      while True:
        status = self._status(step, first)
        ended = status is not None
        if step > first and (ended or self._due(step)):
          drain(last=ended)
          watchdog.disarm()
          meter.pause(self._visit(state, step, status))
        if ended:
          break
        if step > first:  # the first one compiles
          watchdog.arm(step + 1)
          self.interrupt.unsaved = True
        try:
          batch = next(feed)
        except StopIteration as e:
          raise UserError(f"the data end at step {step} of {config.steps}; repeat them") from e
        clock = self._clock()
        if step == first:
          self.writer.say("compiling the training step")
          begun = time.monotonic()
        with jax.transfer_guard("disallow"):
          state, metrics = step_fn(state, batch, key, clock)
        if step == first:
          self.begin = time.monotonic()
          meter.start(step, feed.wait)
          self.writer.say(f"compiled after {self.begin - begun:.0f} s")
        step += 1
        drain()
        pending = (jax.tree.leaves(batch)[0].shape[0], step, metrics, feed.host)
    if self.saver.latest is None:
      self._save(state, step)
    self.saver.wait()
    return Result(state, step, status, self.elapsed())

  def elapsed(self) -> float:
    """Seconds of the run since its first step was compiled, earlier parts included."""
    return self.earlier + (time.monotonic() - self.begin if self.begin is not None else 0.0)

  def sentence(self, result: Result, folder) -> str:
    """The last line of a run."""
    text = f"{result.status} at step {result.step} of {self.config.steps}"
    if result.status == "interrupted":
      text = f"stopped by {self.reason} at step {result.step}; the same command goes on from there"
    return f"{text}; saved in {folder}"

  def _clock(self) -> jax.Array:
    """The used part of the time budget as a device scalar; 0 where there is none."""
    budget = self.config.max_seconds
    used = self.shared / budget if budget else 0.0
    return replicate(np.asarray(used, np.float32), self.mesh)

  def _status(self, step: int, first: int) -> str | None:
    config = self.config
    if config.max_seconds:
      if jax.process_count() == 1:
        self.shared = self.elapsed()
      elif step == first or step % config.log_every == 0:
        # Every process has to see the same time, or their learning rates would part.
        self.shared = float(multihost_utils.broadcast_one_to_all(np.float32(self.elapsed())))
    if step >= config.steps:
      return "finished"
    if config.max_seconds and self.shared >= config.max_seconds:
      return "out of time"
    self.reason = self.interrupt.reason(step) or ""
    return "interrupted" if self.reason else None

  def _due(self, step: int) -> bool:
    cadences = (self.config.checkpoint_every, *(hook.every for hook in self.hooks))
    return any(step % every == 0 for every in cadences)

  def _visit(self, state: TrainState, step: int, status: str | None) -> float:
    """Saves, and calls the hooks that are due; returns the seconds taken.

    At the end of a run all of them are due, and none when it is interrupted: time may be short.
    """
    begin = time.perf_counter()
    if status or step % self.config.checkpoint_every == 0:
      self._save(state, step)
    hooks = () if status == "interrupted" else self.hooks
    self._call_hooks(state, step, [hook for hook in hooks if status or step % hook.every == 0])
    # What one process does alone is waited for here, where no watchdog is armed.
    multihost_utils.sync_global_devices("visit")
    return time.perf_counter() - begin

  def _call_hooks(self, state: TrainState, step: int, hooks: Sequence[Hook]) -> None:
    for hook in hooks:
      self.writer.say(f"step {step}: {hook.name}")
      begin = time.monotonic()
      metrics = hook.call(state, step) or {}
      if metrics:
        self.writer.write(step, metrics)
      words = "".join(f" | {name} {float(value):.4g}" for name, value in metrics.items())
      self.writer.say(f"step {step}: {hook.name} took {time.monotonic() - begin:.0f} s{words}")

  def _save(self, state: TrainState, step: int) -> None:
    self.saver.save(
      step, state.replace(frozen={}), data=self.feed.get_state(), elapsed=self.elapsed(),
      config=self.description, frozen=self.frozen,
    )  # fmt: skip
