"""From a config to a running experiment: what a command or a notebook calls.

A config has the sections model, objective, data, optim, train, eval and mesh, each the fields of
one dataclass, and `stage`, which says what is trained: "autoencoding" or "flow_matching". The
generator's stage first caches the latents of its data with the autoencoder it names.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mg_jax.core import config as configs
from mg_jax.core import rng
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.sharding import unbox
from mg_jax.data import recipe
from mg_jax.data.pipeline import Feed, evaluation_batches, stack
from mg_jax.data.transforms import LatentRow, VideoRow
from mg_jax.models.generator import Generator
from mg_jax.models.tae import TAE
from mg_jax.objectives.autoencoding import Autoencoding, AutoencodingWeights
from mg_jax.objectives.base import Objective
from mg_jax.objectives.flow_matching import FlowMatching
from mg_jax.train import flops, previews
from mg_jax.train.encode import encode
from mg_jax.train.evals import Evaluator
from mg_jax.train.export import load_role
from mg_jax.train.loop import Hook, Result, TrainConfig, train
from mg_jax.train.optim import OptimConfig
from mg_jax.train.workdir import prepare

LATENTS = "latents"


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """What is measured and shown while training.

  Attributes:
    every: steps between evaluations on held-out clips; the last step always evaluates.
    batch: rows of an evaluation batch.
    limit: most clips of a bucket evaluated.
    previews: clips shown in each preview (mp4 and PNG); 0 for none.
  """

  every: int = 1000
  batch: int = 16
  limit: int = 256
  previews: int = 8


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything the loop needs."""

  objective: Objective
  feed: Feed
  hooks: tuple[Hook, ...]


def run(config: Mapping[str, Any], workdir: str) -> Result:
  """Trains the experiment of a config in a workdir; the same call resumes it.

  Raises:
    UserError: on anything in the config, the data or the workdir that cannot be used.
  """
  config = configs.to_dict(config)
  settings = configs.build(TrainConfig, config["train"], where="train")
  optim = configs.build(OptimConfig, config["optim"], where="optim")
  mesh = make_mesh(config["mesh"])
  prepare(workdir)
  experiment = build(config, workdir, mesh)
  stream = experiment.feed.stream(
    process_index=jax.process_index(), process_count=jax.process_count()
  )
  return train(
    experiment.objective, stream, settings, workdir, mesh, optim=optim, hooks=experiment.hooks,
    flops=step_flops(experiment), description=config,
  )


def build(config: Mapping[str, Any], workdir: str, mesh) -> Experiment:
  """The objective, data and hooks of a config.

  Raises:
    UserError: as `run`.
  """
  stages = {"autoencoding": _autoencoding, "flow_matching": _flow_matching}
  if config["stage"] not in stages:
    raise UserError(f"config stage {config['stage']!r} is unknown; known are {', '.join(stages)}")
  data = configs.build(recipe.DataConfig, config["data"], where="data")
  evals = configs.build(EvalConfig, config["eval"], where="eval")
  return stages[config["stage"]](config, data, evals, workdir, mesh)


def step_flops(experiment: Experiment) -> float:
  """FLOPs of a training step, averaged over the buckets of its feed; recomputation not counted."""
  objective, feed = experiment.objective, experiment.feed
  total = 0.0
  for entry in feed.entries:
    row = entry.transform(0, entry.source[0], _fixed_rng())
    batch = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((feed.global_batch, *x.shape[1:]), x.dtype), stack([row])
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = unbox(jax.eval_shape(objective.init, key, batch))
    for role in objective.roles:

      def loss(tree, batch, key, role=role):
        return objective.loss(role, {**params, role: tree}, batch, key, jnp.int32(0), {})[0]

      total += entry.weight * flops.count(jax.grad(loss), params[role], batch, key)
  return total / sum(entry.weight for entry in feed.entries)


def _fixed_rng():
  import numpy as np

  return np.random.default_rng(0)


def _autoencoding(config, data, evals, workdir, mesh) -> Experiment:
  model = configs.build(TAE, config["model"], where="model")
  model.latent_shape(data.frames, data.height, data.width)
  weights = configs.build(AutoencodingWeights, config["objective"], where="objective")
  objective = Autoencoding(model, weights)
  held_out = recipe.open_sources(data, "validation")

  def batches():
    row = VideoRow(frames=None if data.video_weight else 1)
    for source in held_out.values():
      yield from evaluation_batches(source, row, batch=evals.batch, limit=evals.limit)

  hooks = [_evaluation(objective, batches, evals, mesh)]
  if evals.previews:
    show = previews.Reconstructions(objective, batches, workdir, evals.previews, fps=data.fps)
    hooks.append(Hook("preview", evals.every, show))
  return Experiment(objective, recipe.clip_feed(data), tuple(hooks))


def _flow_matching(config, data, evals, workdir, mesh) -> Experiment:
  model = configs.build(Generator, config["model"], where="model")
  objective = configs.build(FlowMatching, config["objective"], where="objective", model=model)
  if not config["autoencoder"]:
    raise UserError(
      "config autoencoder is empty; train one first (experiments/tae.py) and give its workdir with "
      "--config.autoencoder=DIR"
    )
  tae = load_role(config["autoencoder"], "autoencoder")
  latents = os.path.join(workdir, LATENTS)
  metadata = encode(
    data, configs.build(TAE, tae.config["model"], where="autoencoder"), tae.params, latents,
    origin=config["autoencoder"], batch=evals.batch,
  )
  mean, std = tuple(metadata["mean"]), tuple(metadata["std"])
  kind = next(iter(data.kinds))
  held_out = recipe.latent_sources(latents, "validation", kind)

  def batches():
    row = LatentRow(data.text_length, mean=mean, std=std)
    for source in held_out.values():
      yield from evaluation_batches(source, row, batch=evals.batch, limit=evals.limit)

  hooks = [_evaluation(objective, batches, evals, mesh)]
  if evals.previews:
    show = previews.Samples(config, workdir, held_out, evals.previews)
    hooks.append(Hook("preview", evals.every, show))
  return Experiment(objective, recipe.latent_feed(data, latents, mean, std), tuple(hooks))


def _evaluation(objective, batches, evals: EvalConfig, mesh) -> Hook:
  key = rng.stream(jax.random.key(0), "evaluation")
  return Hook("evaluation", evals.every, Evaluator(objective, batches, mesh, key=key))


def describe(config: Mapping[str, Any]) -> str:
  """The config as JSON, for --dump_config."""
  return json.dumps(configs.to_dict(config), indent=2)
