"""The stage "contrastive": a CLIP of frames and captions [MG 3.1.4]."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.data.sources import recipe
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.text.readers import TextConfig
from mg_jax.data.transforms import FrameRow
from mg_jax.models.encoders.clip import CLIP
from mg_jax.models.encoders.streams import caption_reader
from mg_jax.objectives.contrastive import Contrastive
from mg_jax.precompute.clips import report_rejected
from mg_jax.stages.base import (
  Experiment,
  build_section,
  check_model,
  evaluation,
  held_out_batches,
  nothing_to_encode,
  section,
)
from mg_jax.train.evals import RetrievalEvaluator
from mg_jax.train.loop import Hook


class ContrastiveStage:
  """See `stages.base.Stage`."""

  data = DataConfig
  encodes = False

  def objective(self, config, data) -> Contrastive:
    del data
    return build_section(
      Contrastive, config, "objective", model=build_section(CLIP, config, "model")
    )

  def abstract_batch(self, config, data):
    text = section(config, "text")
    length = build_section(TextConfig, text, "text", prefix="text.").length
    rows, shape = data.global_batch, jax.ShapeDtypeStruct
    for name, part in data.parts.items():
      if (part.data.height, part.data.width) != (data.height, data.width):
        raise UserError(
          f"data.mixture.{name} has images of {part.data.height}x{part.data.width}, but those of "
          f"data are {data.height}x{data.width}; give all entries one size"
        )
    batch = {
      "image": shape((rows, data.height, data.width, 3), jnp.uint8),
      "text": {"ids": shape((rows, length), jnp.int32), "mask": shape((rows, length), jnp.bool_)},
    }
    return batch, (1, data.height, data.width)

  def experiment(self, config, data, evals, workdir, mesh) -> Experiment:
    objective = self.objective(config, data)
    reader = caption_reader(section(config, "text"), objective.model)
    check_model(objective, self.abstract_batch(config, data)[0])
    held_out = [
      source
      for part in data.parts.values()
      for source in recipe.open_sources(part.data, "validation", "image").values()
    ]
    row = FrameRow(reader, captions=data.captions, short_length=data.short_length)

    def batches(captions):
      of_kind = dataclasses.replace(row, captions=captions)
      return held_out_batches([(of_kind, source) for source in held_out], evals)()

    hooks = [evaluation(objective, functools.partial(batches, data.captions), evals, mesh)]
    # Of a mix, each kind of caption is judged alone.
    for captions in ("short", "long") if data.captions == "mixed" else (data.captions,):
      recall = RetrievalEvaluator(
        objective.features, functools.partial(batches, captions), mesh, name=captions
      )
      hooks.append(Hook(f"retrieval {captions}", evals.every, recall, start=True))
    report_rejected(recipe.indices(data, ("image",)), workdir)
    return Experiment(objective, recipe.frame_feed(data, row), tuple(hooks))

  def encode(self, config, data, evals, workdir):
    raise nothing_to_encode(config)
