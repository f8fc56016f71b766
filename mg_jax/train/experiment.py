"""From a config to a running experiment: what a command or a notebook calls.

A config has the sections model, objective, data, optim, train, eval and mesh, each the fields of
one dataclass, and `stage`, which says what is trained: "autoencoding", "flow_matching" or
"contrastive". An autoencoder with an adversarial loss has one more, "discriminator", and its
"optim" has a section for each of the two roles. The latter two stages have `text`, the streams that
read captions, and a generator's "autoencoder" too, the run that makes its latents: it first caches
the latents of its data, and the features of frozen text encoders.
"""

import contextlib
import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core import rng
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import batch_axes, batch_share, make_mesh, use_mesh
from mg_jax.core.sharding import unbox
from mg_jax.data import recipe
from mg_jax.data.pipeline import Feed, evaluation_batches, stack
from mg_jax.data.transforms import FrameRow, LatentRow, VideoRow
from mg_jax.models import perceptual
from mg_jax.models.clip import CLIP
from mg_jax.models.discriminators import PatchDiscriminator
from mg_jax.models.generator import Generator
from mg_jax.models.streams import Streams, caption_reader, open_streams
from mg_jax.models.tae import TAE
from mg_jax.objectives.autoencoding import Autoencoding, AutoencodingWeights
from mg_jax.objectives.base import Objective
from mg_jax.objectives.contrastive import Contrastive
from mg_jax.objectives.flow_matching import FlowMatching
from mg_jax.sampling.pipeline import Settings
from mg_jax.train import flops, previews
from mg_jax.train.checkpoint import FOLDER as CHECKPOINTS
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.encode import encode, pinned_step
from mg_jax.train.evals import Evaluator, RetrievalEvaluator
from mg_jax.train.export import Role, latents_folder, load_role
from mg_jax.train.loop import Hook, Result, TrainConfig, train
from mg_jax.train.optim import OptimConfig
from mg_jax.train.state import abstract_key
from mg_jax.train.statistics import LatentStatistics
from mg_jax.train.workdir import is_remote, locked, prepare, resolve

_log = logging.getLogger(__name__)
DTYPES = ("float32", "bfloat16", "float16")


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

  def __post_init__(self):
    if min(self.every, self.batch, self.limit) < 1 or self.previews < 0:
      raise UserError("eval.every, eval.batch and eval.limit are at least 1, eval.previews 0")


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything the loop needs; `preprocess` is done to a batch on its devices before each step."""

  objective: Objective
  feed: Feed
  hooks: tuple[Hook, ...]
  preprocess: Callable[[Any], Any] | None = None


def run(config: Mapping[str, Any], workdir: str) -> Result:
  """Trains the experiment of a config in a workdir; the same call resumes it.

  Raises:
    UserError: on anything in the config, the data or the workdir that cannot be used.
  """
  config = configs.to_dict(config)
  settings = _build(TrainConfig, config, "train")
  optim = optim_config(config)
  if settings.warm_start.required and not settings.warm_start.origin:
    raise UserError(
      "config train.warm_start is empty; this stage grows a finished one: give its run with "
      "--config.train.warm_start.workdir=DIR, or published weights with .weights=DIR"
    )
  mesh = _mesh(config)
  folder = resolve(workdir)
  if not is_remote(folder):
    # What cannot be made is told by `prepare`.
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
    flops=step_flops(experiment), description=config, preprocess=experiment.preprocess,
  )


def build(config: Mapping[str, Any], workdir: str, mesh: Mesh) -> Experiment:
  """The objective, data and hooks of a config.

  Raises:
    UserError: as `run`.
  """
  stages = {
    "autoencoding": _autoencoding, "flow_matching": _flow_matching, "contrastive": _contrastive,
  }  # fmt: skip
  if _section(config, "stage") not in stages:
    raise UserError(f"config stage {config['stage']!r} is unknown; known are {', '.join(stages)}")
  data = _build(recipe.DataConfig, config, "data")
  evals = _build(EvalConfig, config, "eval")
  ways = batch_axes(mesh)
  parts = _build(TrainConfig, config, "train").accumulate
  times = f" times accumulate={parts}" if parts > 1 else ""
  _check_rows("data.global_batch", data.global_batch, ways * parts, f"{ways} devices{times}")
  _check_rows("eval.batch", evals.batch, ways, f"{ways} devices")
  _check_dtypes(_section(config, "model"))
  return stages[config["stage"]](config, data, evals, workdir, mesh)


def _check_rows(name: str, rows: int, count: int, what: str) -> None:
  if rows % count:
    near = max(1, round(rows / count)) * count
    raise UserError(
      f"{name} is {rows}, which does not divide over {what} of the mesh; the nearest that does is "
      f"{near}"
    )


def step_flops(experiment: Experiment) -> float:
  """FLOPs of a training step, averaged over the buckets of its feed; recomputation not counted."""
  objective, feed = experiment.objective, experiment.feed
  total, key = 0.0, abstract_key()
  for entry in feed.entries:
    row = entry.transform(0, entry.source[0], np.random.default_rng(0))
    batch = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((feed.global_batch, *x.shape[1:]), x.dtype), stack([row])
    )
    if experiment.preprocess:
      batch = jax.eval_shape(experiment.preprocess, batch)
    params, carry = abstract_params(objective, batch), {}
    for role in objective.roles:
      loss, args = role_loss(objective, role), (params, batch, key, carry)
      scalar = lambda *args, loss=loss: loss(*args)[0]  # noqa: E731
      total += entry.weight * flops.count_training(scalar, params[role], *args)
      _, (_, carry) = jax.eval_shape(loss, params[role], *args)
  return total / sum(entry.weight for entry in feed.entries)


def abstract_params(objective: Objective, batch: Any) -> dict[str, Any]:
  """Shapes of the parameters of every role, unboxed, for a batch or its shapes."""
  return unbox(jax.eval_shape(objective.init, abstract_key(), batch))


def role_loss(objective: Objective, role: str) -> Callable:
  """(tree of the role, params, batch, key, carry) -> (loss, aux), to differentiate in its first."""

  def loss(tree, params, batch, key, carry):
    return objective.loss(role, {**params, role: tree}, batch, key, jnp.int32(0), carry)

  return loss


def _autoencoding(config, data, evals, workdir, mesh) -> Experiment:
  model = _build(TAE, config, "model")
  weights = _build(AutoencodingWeights, config, "objective")
  objective = Autoencoding(
    model, weights, perceptual=_perceptual(weights), discriminator=_discriminator(config, weights)
  )
  frames = data.frames if data.video_weight else 1
  shape = (data.global_batch, frames, data.height, data.width, 3)
  _check_model(objective, {"video": jax.ShapeDtypeStruct(shape, jnp.uint8)})
  batches = held_out_clips(data, evals)
  last = _build(TrainConfig, config, "train").steps
  hooks = [
    _evaluation(objective, batches, evals, mesh),
    Hook("statistics", last, LatentStatistics(objective, batches, workdir, mesh)),
  ]
  if evals.previews:
    show = previews.Reconstructions(objective, batches, workdir, evals.previews, fps=data.fps)
    hooks.append(Hook("preview", evals.every, show))
  return Experiment(objective, recipe.clip_feed(data), tuple(hooks))


def held_out_clips(
  data: recipe.DataConfig, evals: EvalConfig
) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
  """What starts a pass over the held-out batches of an autoencoder: clips, or single frames."""
  sources = recipe.open_sources(data, "validation")
  row = VideoRow(frames=None if data.video_weight else 1)

  def batches():
    for source in sources.values():
      yield from evaluation_batches(source, row, batch=evals.batch, limit=evals.limit)

  return batches


def _perceptual(weights: AutoencodingWeights) -> perceptual.LPIPS | None:
  if weights.lpips_files:
    return perceptual.load(weights.lpips_files)
  if weights.lpips:
    _log.warning(
      "objective.lpips has a weight, but objective.lpips_files names no weights of it: training "
      "goes without this term"
    )
  return None


def _discriminator(config, weights: AutoencodingWeights) -> PatchDiscriminator:
  # Configs without an adversarial loss need no such section.
  if not weights.gan:
    return PatchDiscriminator()
  fields = _section(config, "discriminator")
  _check_dtypes(fields)
  return _build(PatchDiscriminator, config, "discriminator")


def _flow_matching(config, data, evals, workdir, mesh) -> Experiment:
  model = _build(Generator, config, "model")
  objective = _build(FlowMatching, config, "objective", model=model)
  text = _streams(config, model)
  tae, autoencoder = _autoencoder(config, workdir)
  # Before the clips are encoded, which may take long.
  params = _check_generator(
    objective, autoencoder, data, text, _build(Settings, config, "sampling"), mesh
  )
  latents, metadata = _encode(config, workdir, data, evals, text, tae, autoencoder)
  row = LatentRow(
    text.readers, mean=tuple(metadata["mean"]), std=tuple(metadata["std"]), cached=text.cached,
    camera=data.camera_tags,
  )
  held_out = recipe.latent_sources(latents, "validation", next(iter(data.kinds)))

  def batches():
    for source in held_out.values():
      yield from evaluation_batches(source, row, batch=evals.batch, limit=evals.limit)

  live = tuple(name for name in text.frozen if name not in text.cached)
  preprocess = _FrozenText(text.load(mesh, names=live)) if live else None
  hooks = [_evaluation(objective, batches, evals, mesh, preprocess)]
  if evals.previews:
    show = previews.Samples(config, workdir, held_out, evals.previews, params=params)
    hooks.append(Hook("preview", evals.every, show))
  return Experiment(objective, recipe.latent_feed(data, latents, row), tuple(hooks), preprocess)


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
  if _section(config, "stage") != "flow_matching":
    raise UserError(f"stage {config['stage']!r} trains on clips; a generator's data is encoded")
  data, evals = _build(recipe.DataConfig, config, "data"), _build(EvalConfig, config, "eval")
  text = _streams(config, _build(Generator, config, "model"))
  with locked(prepare(resolve(workdir))):
    folder, metadata = _encode(config, workdir, data, evals, text, *_autoencoder(config, workdir))
  return folder, metadata["clips"]


def _streams(config: Mapping[str, Any], model: Generator) -> Streams:
  trained = config["model"].get("encoders", {})
  return open_streams(_section(config, "text"), routes=model.routes(), trained=trained)


class _FrozenText:
  """Runs the frozen encoders whose features are not cached, between the feed and the step."""

  def __init__(self, text: Streams):
    self._params, self._run = text.params, jax.jit(text.encode)

  def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    return self._run(self._params, batch)


def _autoencoder(config: Mapping[str, Any], workdir: str) -> tuple[Role, TAE]:
  if not _section(config, "autoencoder"):
    raise UserError(
      "config autoencoder is empty; train one first (experiments/tae.py) and give its workdir with "
      "--config.autoencoder=DIR"
    )
  origin = config["autoencoder"]
  step = pinned_step(latents_folder(config, workdir), origin)
  tae = load_role(origin, "autoencoder", step=step)
  return tae, _build(TAE, tae.config, "model")


def _encode(config, workdir, data, evals, text, tae: Role, autoencoder: TAE) -> tuple[str, dict]:
  folder = latents_folder(config, workdir)
  return folder, encode(
    data, autoencoder, tae.params, folder, origin=config["autoencoder"], step=tae.step, text=text,
    batch=evals.batch,
  )


def _contrastive(config, data, evals, workdir, mesh) -> Experiment:
  del workdir  # Nothing is kept there but the run.
  model = _build(CLIP, config, "model")
  objective = _build(Contrastive, config, "objective", model=model)
  reader = caption_reader(_section(config, "text"), model)
  tokens = (data.global_batch, reader.config.length)
  shapes = {
    "image": jax.ShapeDtypeStruct((data.global_batch, data.height, data.width, 3), jnp.uint8),
    "text": {
      "ids": jax.ShapeDtypeStruct(tokens, jnp.int32), "mask": jax.ShapeDtypeStruct(tokens, bool)
    },
  }  # fmt: skip
  _check_model(objective, shapes)
  held_out = recipe.open_sources(data, "validation")
  row = FrameRow(reader, captions=data.captions, short_length=data.short_length)

  def batches(captions):
    of_kind = dataclasses.replace(row, captions=captions)
    for source in held_out.values():
      yield from evaluation_batches(source, of_kind, batch=evals.batch, limit=evals.limit)

  hooks = [_evaluation(objective, functools.partial(batches, data.captions), evals, mesh)]
  # Of a mix, each kind of caption is judged alone.
  for captions in ("short", "long") if data.captions == "mixed" else (data.captions,):
    recall = RetrievalEvaluator(
      objective.features, functools.partial(batches, captions), mesh, name=captions
    )
    hooks.append(Hook(f"retrieval {captions}", evals.every, recall, start=True))
  return Experiment(objective, recipe.frame_feed(data, row), tuple(hooks))


def _evaluation(objective, batches, evals: EvalConfig, mesh, preprocess=None) -> Hook:
  key = rng.stream(jax.random.key(0), "evaluation")
  evaluator = Evaluator(objective, batches, mesh, key=key, preprocess=preprocess)
  return Hook("evaluation", evals.every, evaluator)


def _check_generator(
  objective: FlowMatching, autoencoder: TAE, data: recipe.DataConfig, text: Streams,
  sampling: Settings, mesh: Mesh,
) -> Any:
  """Shapes of the generator's parameters.

  Raises:
    UserError: where it cannot take the latents of the data on this mesh, or those it is to sample.
  """
  rows = data.global_batch
  streams = text.abstract(rows, objective.model.routes())
  # Samples are made on one device.
  sizes = [((sampling.frames, sampling.height, sampling.width), contextlib.nullcontext())]
  if data.durations == "single":
    clip = data.frames if data.video_weight else 1, data.height, data.width
    sizes.append((clip, use_mesh(mesh)))
  for (frames, height, width), place in sizes:
    latent = autoencoder.latent_shape(frames, height, width)
    try:
      with place:
        params = _check_model(
          objective, {"latent": jax.ShapeDtypeStruct((rows, *latent), jnp.float32), **streams}
        )
    except UserError as e:
      raise UserError(f"{frames} frames of {height}x{width} do not fit the model: {e}") from e
  return params["model"]


def _check_model(objective: Objective, batch: Any) -> dict[str, Any]:
  """The shapes of its parameters. Numbers that make no network fail in here, in many ways."""
  try:
    return abstract_params(objective, batch)
  except (ArithmeticError, AssertionError, IndexError, TypeError, ValueError) as e:
    first = next(iter(str(e).splitlines()), "")
    raise UserError(f"config model makes no network ({type(e).__name__}: {first})") from e


def _check_dtypes(fields: Any) -> None:
  for name, value in fields.items():
    if isinstance(value, Mapping):
      _check_dtypes(value)
    elif name == "dtype" and value not in DTYPES:
      raise UserError(f"the config has dtype {value!r}; known are {', '.join(DTYPES)}")


def optim_config(config: Mapping[str, Any]) -> OptimConfig | dict[str, OptimConfig]:
  """One for all roles, or one for each role that has a section of its own."""
  optim = _section(config, "optim")
  if not optim or not all(isinstance(value, Mapping) for value in optim.values()):
    return _build(OptimConfig, config, "optim")
  return {role: _build(OptimConfig, optim, role, prefix="optim.") for role in optim}


def _mesh(config: Mapping[str, Any]) -> Mesh:
  shape = _section(config, "mesh")
  if not isinstance(shape, list) or not all(type(size) is int for size in shape):
    raise UserError(f"config mesh is {shape!r}; give four whole numbers such as (-1, 1, 1, 1)")
  return make_mesh(shape)


def _section(config: Mapping[str, Any], name: str) -> Any:
  if name not in config:
    raise UserError(f"the config has no {name!r}; there are {', '.join(sorted(config))}")
  return config[name]


def _build(cls, config: Mapping[str, Any], name: str, *, prefix: str = "", **extra: Any):
  return configs.build(cls, _section(config, name), where=prefix + name, **extra)


def describe(config: Mapping[str, Any]) -> str:
  """The config as JSON, for --dump_config."""
  return json.dumps(configs.to_dict(config), indent=2)
