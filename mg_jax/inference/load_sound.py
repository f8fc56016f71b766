"""From a run of a soundtrack generator to something that makes sound; all of it checked.

The run's config names what is needed: "model", fields of the generator; "codec", the workdir of the
codec's run; "text", "vision", its encoders; "sampling", fields of `SoundSettings`; "latents", a
folder, by default `<workdir>/latents`, whose manifest has the statistics that normalised them and
the fingerprint of the codec that made them.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.data import condition_section
from mg_jax.data.sources.soundtracks import SoundtrackConfig
from mg_jax.inference.export import settle
from mg_jax.inference.load import (
  check_encoders,
  encoded_step,
  load_codec,
  load_generator,
)
from mg_jax.models.encoders.streams import open_streams
from mg_jax.models.encoders.vision import FrozenVision
from mg_jax.models.generator import from_config
from mg_jax.models.inputs import abstract_latents, soundtrack_conditions
from mg_jax.sampling.sound_request import SoundSettings
from mg_jax.sampling.soundtrack import CONTEXT, Soundtrack
from mg_jax.train.runs import latent_statistics, saved_config
from mg_jax.train.workdir import beside, resolve


def load_soundtrack(
  workdir: str | os.PathLike[str],
  *,
  codec: str | os.PathLike[str] | None = None,
  step: int | None = None,
  mesh: Mesh | None = None,
  dtype: str | None = None,
) -> Soundtrack:
  """Loads a soundtrack run with its averaged weights where it kept an average.

  Args:
    workdir: of the run; it may still be training.
    codec: workdir of the codec's run, by default the one the config names; a folder of that name
      beside `workdir` will do when both were moved.
    step: of the generator, by default the newest.
    mesh: the devices that share the work; the generator's weights go straight to their shards.
    dtype: of these weights, by default as saved.

  Raises:
    UserError: when something is missing, damaged, or the codec is not the one whose latents the
      generator learned.
  """
  folder = resolve(workdir)
  run = load_generator(
    folder, _inputs, stage="soundtrack", step=step, mesh=mesh, dtype=dtype
  )
  config = settle(run.config, folder)
  statistics = latent_statistics(config, folder)
  codec_folder = beside(folder, codec or config["codec"])
  # The step that made the latents: the codec's run may have gone on since.
  made = load_codec(codec_folder, step=encoded_step(statistics, codec_folder))
  if made.fingerprint != statistics.get("fingerprint"):
    raise UserError(
      f"the codec in {codec_folder} is not the one that made the latents of {folder}; give that "
      "one, or encode and train again"
    )
  model = from_config(run.config)
  text = open_streams(config["text"], routes=model.routes(), trained=model.text_encoders())
  vision = FrozenVision(config["vision"]) if config["vision"] else None
  check_encoders(
    folder, statistics, text=text.identity(), vision=vision.identity() if vision else ""
  )
  data = configs.build(SoundtrackConfig, run.config["data"], where="data")
  return Soundtrack(
    model=model,
    params=run.params,
    codec=made,
    mean=np.asarray(statistics["mean"], np.float32),
    std=np.asarray(statistics["std"], np.float32),
    settings=configs.build(SoundSettings, run.config["sampling"], where="sampling"),
    text=text.load(mesh),
    side=data.size,
    vision=vision,
    conditions=condition_section.build(config.get("conditions", {})),
    origin=f"step {run.step}, {run.digest[:16]}",
    mesh=mesh,
  )


def _inputs(config: Mapping[str, Any], latent: tuple[int, ...]) -> dict[str, Any]:
  data = configs.build(SoundtrackConfig, config["data"], where="data")
  # Parameters do not depend on the rate either.
  batch = abstract_latents(soundtrack_conditions(config, data, rate=1.0), 1, latent)
  return batch | {CONTEXT: batch["latent"]}


def soundtrack_data(
  workdir: str | os.PathLike[str], *, step: int | None = None
) -> SoundtrackConfig:
  """The data that a run learned from. Raises UserError as `load_soundtrack`."""
  return configs.build(SoundtrackConfig, saved_config(workdir, step=step)["data"], where="data")
