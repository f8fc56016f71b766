"""The stage "autoencoding": the temporal autoencoder and the image autoencoder [MG 3.1.1]."""

import dataclasses
import logging
import math

import jax
import jax.numpy as jnp

from mg_jax.data.sources import recipe
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.sources.mixture import groups, held_out
from mg_jax.data.transforms import VideoRow
from mg_jax.models.codecs import perceptual
from mg_jax.models.codecs.discriminators import PatchDiscriminator
from mg_jax.models.codecs.tae import TAE
from mg_jax.objectives.autoencoding import Autoencoding, AutoencodingWeights
from mg_jax.precompute.clips import report_rejected
from mg_jax.precompute.statistics import LatentStatistics
from mg_jax.stages import previews
from mg_jax.stages.base import (
  Batches,
  EvalConfig,
  Experiment,
  build_section,
  check_dtypes,
  check_model,
  evaluation,
  held_out_batches,
  nothing_to_encode,
  section,
)
from mg_jax.train.loop import Hook, TrainConfig

_log = logging.getLogger(__name__)


class VideoCodec:
  """See `stages.base.Stage`."""

  data = DataConfig
  encodes = False

  def objective(self, config, data) -> Autoencoding:
    del data
    weights = build_section(AutoencodingWeights, config, "objective")
    critic = PatchDiscriminator()
    # Configs without an adversarial loss need no such section.
    if weights.gan:
      check_dtypes(section(config, "discriminator"))
      critic = build_section(PatchDiscriminator, config, "discriminator")
    return Autoencoding(build_section(TAE, config, "model"), weights, discriminator=critic)

  def abstract_batch(self, config, data):
    del config
    frames, rows, shape = 1, data.global_batch, jax.ShapeDtypeStruct
    read = [(data.parts[name].data, kind) for name, kind, _ in groups(data)]
    if "video" in data.kinds:
      frames = max(data.lengths or [part.frames for part, kind in read if kind == "video"])
    sides = max(((part.height, part.width) for part, _ in read), key=math.prod)
    clip = (frames, *sides)
    batch = {"video": shape((rows, *clip, 3), jnp.uint8), "frames": shape((rows,), jnp.int32)}
    return batch, clip

  def experiment(self, config, data, evals, workdir, mesh) -> Experiment:
    objective = self.objective(config, data)
    objective = dataclasses.replace(objective, perceptual=_perceptual(objective.weights))
    check_model(objective, self.abstract_batch(config, data)[0])
    batches = held_out_clips(data, evals)
    hooks = codec_hooks(objective, batches, config, evals, workdir, mesh)
    if evals.previews:
      show = previews.Reconstructions(objective, batches, workdir, evals.previews, fps=data.fps)
      hooks.append(Hook("preview", evals.every, show))
    report_rejected(recipe.indices(data), workdir)
    return Experiment(objective, recipe.clip_feed(data), tuple(hooks))

  def encode(self, config, data, evals, workdir):
    raise nothing_to_encode(config)


def held_out_clips(data: DataConfig, evals: EvalConfig) -> Batches:
  """What starts a pass over the held-out batches of an autoencoder: clips, or single frames."""
  shown = [
    (VideoRow(frames=None if kind == "video" else 1), source)
    for name, kind in held_out(data).items()
    for source in recipe.open_sources(data.parts[name].data, "validation", kind).values()
  ]
  return held_out_batches(shown, evals)


def codec_hooks(objective, batches: Batches, config, evals, workdir, mesh) -> list[Hook]:
  """Held-out losses and, at the end, statistics of latents."""
  last = build_section(TrainConfig, config, "train").steps
  return [
    evaluation(objective, batches, evals, mesh),
    Hook("statistics", last, LatentStatistics(objective, batches, workdir, mesh)),
  ]


def _perceptual(weights: AutoencodingWeights) -> perceptual.LPIPS | None:
  if weights.lpips_files:
    return perceptual.load(weights.lpips_files)
  if weights.lpips:
    _log.warning(
      "objective.lpips has a weight, but objective.lpips_files names no weights of it: training "
      "goes without this term"
    )
  return None
