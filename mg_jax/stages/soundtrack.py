"""The stage "soundtrack": sound for video and text [MG 6.2]."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.data.sources import soundtracks
from mg_jax.data.sources.soundtracks import SoundtrackConfig
from mg_jax.inference.export import settle
from mg_jax.inference.load import load_codec
from mg_jax.models.codecs.chunking import ChunkedCodec
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.encoders.vision import FrozenVision
from mg_jax.models.generator import Generator, from_config
from mg_jax.models.inputs import (
  abstract_latents,
  soundtrack_conditions,
  text_streams,
)
from mg_jax.objectives.sound_flow import SoundFlow
from mg_jax.precompute.latents import pinned_step
from mg_jax.precompute.sounds import check_vision, encode_sound
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
from mg_jax.train.runs import pick_step
from mg_jax.train.workdir import latents_folder


class SoundtrackStage:
  """See `stages.base.Stage`."""

  data = SoundtrackConfig
  encodes = True

  def objective(self, config, data) -> SoundFlow:
    del data
    return build_section(SoundFlow, config, "objective", model=from_config(config))

  def abstract_batch(self, config, data, *, rate: float | None = None):
    """As the stage's; `rate` is latents a second, by default those of the published codec."""
    rate = DACVAE(parent=None).latent_rate if rate is None else rate
    rows, latents = data.global_batch, round(data.seconds * rate)
    shape = (latents, 1, 1, config["model"]["dit"]["channels"])
    conditions = soundtrack_conditions(config, data, rate=rate)
    batch = abstract_latents(conditions, rows, shape)
    return batch | {"length": jax.ShapeDtypeStruct((rows,), jnp.int32)}, (latents, 1, 1)

  def experiment(self, config, data, evals, workdir, mesh) -> Experiment:
    config = settle(config)
    objective = self.objective(config, data)
    model = objective.model
    text, vision = text_streams(config, model), open_vision(config, model, data)
    codec, step = trained_codec(config, workdir)
    rate = codec.model.latent_rate
    # Before the sound is encoded, which may take long.
    batch, (latents, _, _) = self.abstract_batch(config, data, rate=rate)
    real = jax.ShapeDtypeStruct((*batch["latent"].shape[:-1], codec.model.latent), jnp.float32)
    check_model(objective, batch | {"latent": real})
    folder = latents_folder(config, workdir)
    metadata = encode_sound(
      data, codec, folder, origin=config["codec"], step=step, text=text, vision=vision,
      conditions=soundtrack_conditions(config, data, rate=rate), workdir=workdir,
    )  # fmt: skip
    found = soundtrack_conditions(config, data, rate=metadata["rate"], text=text)
    rows = latent_rows(data, found, metadata, latents=latents)
    shown = [
      (dataclasses.replace(row, shift=False), source)
      for name, row in rows.items()
      for source in soundtracks.record_sources(
        pathlib.Path(folder) / name, "validation"
      ).values()
    ]
    batches = held_out_batches(shown, evals)
    preprocess = live_text(text, mesh)
    hooks = (evaluation(objective, batches, evals, mesh, preprocess),)
    feed = soundtracks.soundtrack_feed(data, folder, rows, rate=metadata["rate"])
    return Experiment(objective, feed, hooks, preprocess)

  def encode(self, config, data, evals, workdir):
    del evals
    config = settle(config)
    model = from_config(config)
    text, vision = text_streams(config, model), open_vision(config, model, data)
    codec, step = trained_codec(config, workdir)
    folder = latents_folder(config, workdir)
    conditions = soundtrack_conditions(config, data, rate=codec.model.latent_rate)
    return folder, encode_sound(
      data, codec, folder, origin=config["codec"], step=step, text=text, vision=vision,
      conditions=conditions, workdir=workdir,
    )  # fmt: skip


def open_vision(
  config: Mapping[str, Any], model: Generator, data: SoundtrackConfig
) -> FrozenVision | None:
  """The frozen tower that encodes a soundtrack's video; None where the generator trains one.

  Raises:
    UserError: there is none, or both, or it does not fit the data or the generator.
  """
  routes = model.routes()
  if "video" not in routes:
    raise UserError("config model.dit.routes has no video, which soundtracks are made for")
  vision = FrozenVision(config["vision"]) if section(config, "vision") else None
  tower = model.vision_encoders().get("video", {})
  check_vision(vision, tower, routes["video"][0].features, data.size)
  return vision


def trained_codec(config: Mapping[str, Any], workdir: str) -> tuple[ChunkedCodec, int]:
  """The codec that makes a soundtrack generator's latents, and the step of its run.

  Raises:
    UserError: when the config names none.
  """
  if not section(config, "codec"):
    raise UserError(
      "config codec is empty; train one first (experiments/dacvae.py) and give its workdir with "
      "--config.codec=DIR"
    )
  origin = config["codec"]
  step = pinned_step(latents_folder(config, workdir), origin, name="codec")
  step = pick_step(origin, step)
  return load_codec(origin, step=step), step
