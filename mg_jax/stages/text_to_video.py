"""The stage "flow_matching": images and video from text [MG 3]."""

import contextlib
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import use_mesh
from mg_jax.data.conditions import Condition
from mg_jax.data.media.files import Kind
from mg_jax.data.sources import recipe
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.sources.mixture import groups, held_out
from mg_jax.inference.export import settle
from mg_jax.models import patches
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.generator import from_config
from mg_jax.models.inputs import abstract_latents, open_conditions, text_streams
from mg_jax.objectives.flow_matching import FlowMatching
from mg_jax.precompute.clips import encode
from mg_jax.precompute.latents import pinned_step
from mg_jax.sampling.settings import Settings
from mg_jax.stages import previews
from mg_jax.stages.base import (
  Experiment,
  build_section,
  check_model,
  evaluation,
  held_out_batches,
  latent_rows,
  section,
)
from mg_jax.stages.live_text import live_text
from mg_jax.train.loop import Hook
from mg_jax.train.runs import Role, load_role
from mg_jax.train.workdir import latents_folder


class TextToVideoStage:
  """See `stages.base.Stage`."""

  data = DataConfig
  encodes = True

  def objective(self, config, data) -> FlowMatching:
    del data
    return build_section(FlowMatching, config, "objective", model=from_config(config))

  def abstract_batch(self, config, data):
    """Of images or of clips, whichever batch has more tokens of pictures and text."""
    dit, batches = config["model"]["dit"], []
    read = sum(fields["length"] for fields in config["text"].values())
    for name, kind, _ in groups(data):
      clip, rows = largest_clip(data.parts[name].data, kind), data.rows(kind)
      latent = TAE(latent=dit["channels"], parent=None).latent_shape(*clip)
      tokens = math.prod(patches.grid(latent[:3], tuple(dit["patch"])))
      batches.append((rows * (tokens + read), rows, latent, clip))
    _, rows, latent, clip = max(batches)
    return abstract_latents(open_conditions(config), rows, latent), clip

  def experiment(self, config, data, evals, workdir, mesh) -> Experiment:
    config = settle(config)
    objective = self.objective(config, data)
    text = text_streams(config, objective.model)
    conditions = open_conditions(config, text)
    tae, autoencoder = trained_autoencoder(config, workdir)
    # Before the clips are encoded, which may take long.
    params = _check_generator(
      objective, autoencoder, data, conditions, build_section(Settings, config, "sampling"), mesh
    )
    latents, metadata = _encode(config, workdir, data, evals, text, conditions, tae, autoencoder)
    rows = latent_rows(data, conditions, metadata, camera=data.camera_tags)
    shown = [
      (rows[name], source)
      for name, kind in held_out(data).items()
      for source in recipe.latent_sources(
        pathlib.Path(latents) / name, "validation", kind, limit=data.bad_limit
      ).values()
    ]
    batches = held_out_batches(shown, evals)
    preprocess = live_text(text, mesh)
    hooks = [evaluation(objective, batches, evals, mesh, preprocess)]
    if evals.previews:
      sources = [source for _, source in shown]
      show = previews.Samples(config, workdir, sources, evals.previews, params=params)
      hooks.append(Hook("preview", evals.every, show))
    return Experiment(objective, recipe.latent_feed(data, latents, rows), tuple(hooks), preprocess)

  def encode(self, config, data, evals, workdir):
    config = settle(config)
    text = text_streams(config, from_config(config))
    made_by = trained_autoencoder(config, workdir)
    conditions = open_conditions(config, text)
    return _encode(config, workdir, data, evals, text, conditions, *made_by)


def largest_clip(data: DataConfig, kind: Kind = "video") -> tuple[int, int, int]:
  """(frames, height, width) of the bucket with the most pixels."""
  return max(((b.frames, b.height, b.width) for b in data.buckets(kind)), key=math.prod)


def trained_autoencoder(config: Mapping[str, Any], workdir: str) -> tuple[Role, TAE]:
  """The run that makes a generator's latents, at the step it began with.

  Raises:
    UserError: when the config names none.
  """
  if not section(config, "autoencoder"):
    raise UserError(
      "config autoencoder is empty; train one first (experiments/tae.py) and give its workdir with "
      "--config.autoencoder=DIR"
    )
  origin = config["autoencoder"]
  step = pinned_step(latents_folder(config, workdir), origin)
  tae = load_role(origin, "autoencoder", step=step, stage="autoencoding")
  return tae, build_section(TAE, tae.config, "model")


def _encode(
  config, workdir, data, evals, text, conditions, tae: Role, autoencoder: TAE
) -> tuple[str, dict]:
  """The folder of a generator's cached latents, and what its manifest says of them."""
  folder = latents_folder(config, workdir)
  return folder, encode(
    data, autoencoder, tae.params, folder, origin=config["autoencoder"], step=tae.step, text=text,
    conditions=conditions, batch=evals.batch, workdir=workdir,
  )  # fmt: skip


def _check_generator(
  objective: FlowMatching, autoencoder: TAE, data: DataConfig,
  conditions: Mapping[str, Condition], sampling: Settings, mesh: Mesh,
) -> Any:
  """Shapes of the generator's parameters.

  Raises:
    UserError: where it cannot take the latents of the data on this mesh, or those it is to sample.
  """
  rows = data.global_batch
  # Samples are made on one device.
  sizes = [((sampling.frames, sampling.height, sampling.width), contextlib.nullcontext())]
  for name, kind, _ in groups(data):
    part = data.parts[name].data
    if part.durations == "single":
      sizes.append((largest_clip(part, kind), use_mesh(mesh)))
  for (frames, height, width), place in sizes:
    latent = autoencoder.latent_shape(frames, height, width)
    try:
      with place:
        params = check_model(objective, abstract_latents(conditions, rows, latent))
    except UserError as e:
      raise UserError(f"{frames} frames of {height}x{width} do not fit the model: {e}") from e
  return params["model"]
