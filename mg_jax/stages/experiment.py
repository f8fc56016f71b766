"""From a config to a running experiment: what a command or a notebook calls.

A config has the sections model, objective, data, optim, train, eval and mesh, each the fields of
one dataclass, and `stage`, which says what is trained, see `stages.table`. An autoencoder with an
adversarial loss has one more, "discriminator" or, of sound, "critics", and its "optim" has a
section for each of the two roles. CLIPs and generators have `text`, the streams that read captions,
and a generator's "autoencoder" too, the run that makes its latents: it first caches the latents of
its data, and the features of frozen text encoders. A generator of soundtracks has "codec" in its
place and "vision", the folder of a frozen CLIP whose tower encodes the frames.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import batch_axes, batch_share, devices_of, make_mesh
from mg_jax.data.condition_section import pinned
from mg_jax.data.pipeline import stack
from mg_jax.objectives.base import Objective
from mg_jax.stages.base import (
  EvalConfig,
  Experiment,
  build_section,
  check_dtypes,
  nothing_to_encode,
  section,
)
from mg_jax.stages.table import stage_of
from mg_jax.train import flops
from mg_jax.train.checkpoint import FOLDER as CHECKPOINTS
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.loop import Result, TrainConfig, train
from mg_jax.train.optim import OptimConfig, build_optimizers
from mg_jax.train.state import abstract_key, abstract_params
from mg_jax.train.workdir import is_remote, locked, prepare, resolve

_log = logging.getLogger(__name__)


def run(config: Mapping[str, Any], workdir: str) -> Result:
  """Trains the experiment of a config in a workdir; the same call resumes it.

  Raises:
    UserError: on anything in the config, the data or the workdir that cannot be used.
  """
  config = configs.to_dict(config)
  if "conditions" in config:
    # The config that is saved keeps what the run trains with.
    config["conditions"] = pinned(config["conditions"])
  settings = build_section(TrainConfig, config, "train")
  optim = optim_config(config)
  mesh = _mesh(config)
  folder = resolve(workdir)
  if not settings.resume and not _started(folder):
    _check_start(settings)
  if not is_remote(folder):
    # `prepare` reports a folder that cannot be created.
    with contextlib.suppress(OSError):
      folder.parent.mkdir(parents=True, exist_ok=True)
  with locked(prepare(folder)):
    if (folder / CHECKPOINTS).exists():
      # A workdir of another experiment is refused before latents are written into it.
      Checkpointer(folder, name=settings.experiment).close()
    # Else a slow process might find the checkpoints that a fast one has just begun.
    multihost_utils.sync_global_devices("workdir")
    experiment = build(config, workdir, mesh)
  piece, pieces = batch_share(mesh)
  stream = experiment.feed.stream(process_index=piece, process_count=pieces)
  return train(
    experiment.objective, stream, settings, workdir, mesh, optim=optim, hooks=experiment.hooks,
    flops=step_flops(experiment, optim), description=config, preprocess=experiment.preprocess,
  )


def _started(folder: Any) -> bool:
  """Whether a workdir holds a checkpoint."""
  if not (folder / CHECKPOINTS).exists():
    return False
  reader = Checkpointer(folder, read_only=True)
  try:
    return reader.latest is not None
  finally:
    reader.close()


def _check_start(settings: TrainConfig) -> None:
  """Refuses to begin a run that has to go on from another one with random parameters."""
  name = settings.experiment
  if settings.phase > 1:
    raise UserError(
      f"phase {settings.phase} of {name} goes on from phase {settings.phase - 1}, and the workdir "
      "holds no checkpoint: give the workdir of that run, or copy its state into a new one with "
      "--config.train.resume=DIR"
    )
  for field, start in settings.warm_start.sections.items():
    if start.workdir or not (start.after or start.required):
      continue
    how = f"give its run with --config.{field}.workdir=DIR"
    if not start.required:
      _log.warning("%s starts from random parameters; to start from %s, %s", name, start.after, how)
      continue
    raise UserError(
      f"{name} starts from {start.after or 'another run'}, and config {field} names none: {how}, "
      f"or a folder of converted weights; --config.{field}.required=false starts from random "
      "parameters"
    )


def build(config: Mapping[str, Any], workdir: str, mesh: Mesh) -> Experiment:
  """The objective, data and hooks of a config.

  Raises:
    UserError: as `run`.
  """
  section(config, "stage")
  stage = stage_of(config)
  data = build_section(stage.data, config, "data")
  evals = build_section(EvalConfig, config, "eval")
  ways = batch_axes(mesh)
  parts = build_section(TrainConfig, config, "train").accumulate
  times = f" times accumulate={parts}" if parts > 1 else ""
  _check_rows("data.global_batch", data.global_batch, ways * parts, f"{devices_of(ways)}{times}")
  _check_rows("eval.batch", evals.batch, ways, devices_of(ways))
  check_dtypes(section(config, "model"))
  return stage.experiment(config, data, evals, workdir, mesh)


def _check_rows(name: str, rows: int, count: int, what: str) -> None:
  if rows % count:
    near = max(1, round(rows / count)) * count
    raise UserError(
      f"{name} is {rows}, which does not divide over {what} of the mesh; the nearest that does is "
      f"{near}"
    )


def step_flops(
  experiment: Experiment, optim: OptimConfig | Mapping[str, OptimConfig] | None = None
) -> float:
  """FLOPs of a training step, averaged over the buckets of its feed; recomputation not counted.

  `optim` tells which roles step every n-th time only; a step has the n-th part of theirs.
  """
  objective, feed = experiment.objective, experiment.feed
  optimizers = build_optimizers(optim or OptimConfig(), objective.roles)
  total, key = 0.0, abstract_key()
  for entry in feed.entries:
    row = entry.transform(0, entry.source[0], np.random.default_rng(0))
    batch = jax.tree.map(
      lambda x, rows=feed.global_batch * entry.rows: jax.ShapeDtypeStruct(
        (rows, *x.shape[1:]), x.dtype
      ),
      stack([row]),
    )
    if experiment.preprocess:
      batch = jax.eval_shape(experiment.preprocess, batch)
    params, carry = abstract_params(objective, batch), {}
    for role in objective.roles:
      loss, args = role_loss(objective, role), (params, batch, key, carry)
      scalar = lambda *args, loss=loss: loss(*args)[0]  # noqa: E731
      count = flops.count_training(scalar, params[role], *args)
      total += entry.weight * count / optimizers[role].config.every
      _, (_, carry) = jax.eval_shape(loss, params[role], *args)
  return total / sum(entry.weight for entry in feed.entries)


def role_loss(objective: Objective, role: str) -> Callable:
  """(tree of the role, params, batch, key, carry) -> (loss, aux), to differentiate in its first."""

  def loss(tree, params, batch, key, carry):
    return objective.loss(role, {**params, role: tree}, batch, key, jnp.int32(0), carry)

  return loss


def encode_data(config: Mapping[str, Any], workdir: str) -> tuple[str, dict[str, int]]:
  """Computes what a generator's run would compute first: latents, and features of frozen encoders.

  Several processes share the work, and a run resumes where one stopped. Training finds the result
  in `<workdir>/latents`, or where config latents says.

  Returns:
    The folder, and how many clips each split has.

  Raises:
    UserError: as `run`.
  """
  config = configs.to_dict(config)
  stage = stage_of(config)
  if not stage.encodes:
    raise nothing_to_encode(config)
  data = build_section(stage.data, config, "data")
  evals = build_section(EvalConfig, config, "eval")
  with locked(prepare(resolve(workdir))):
    folder, metadata = stage.encode(config, data, evals, workdir)
  return folder, metadata["clips"]


def optim_config(config: Mapping[str, Any]) -> OptimConfig | dict[str, OptimConfig]:
  """One for all roles, or one for each role that has a section of its own."""
  optim = section(config, "optim")
  if not optim or not all(isinstance(value, Mapping) for value in optim.values()):
    return build_section(OptimConfig, config, "optim")
  return {role: build_section(OptimConfig, optim, role, prefix="optim.") for role in optim}


def _mesh(config: Mapping[str, Any]) -> Mesh:
  shape = section(config, "mesh")
  if not isinstance(shape, list) or not all(type(size) is int for size in shape):
    raise UserError(f"config mesh is {shape!r}; give four whole numbers such as (-1, 1, 1, 1)")
  return make_mesh(shape)


def describe(config: Mapping[str, Any]) -> str:
  """The config as JSON, for --dump_config."""
  return json.dumps(configs.to_dict(config), indent=2)
