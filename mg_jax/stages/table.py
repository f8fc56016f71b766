"""What each stage of the config's `stage` trains: objective, data and hooks of a run.

"autoencoding" and "wave_autoencoding" train codecs of video and of sound, "contrastive" a CLIP,
"flow_matching" a generator on the latents of one, "soundtrack" one of sound. Each is a function of
the config in `STAGES`.
"""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core import rng
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import use_mesh
from mg_jax.core.tree import flatten_paths
from mg_jax.data.pipeline import Feed, evaluation_batches
from mg_jax.data.sources import recipe, sound_recipe, soundtracks
from mg_jax.data.sources.soundtracks import SoundtrackConfig, SoundtrackRow
from mg_jax.data.transforms import FrameRow, LatentRow, VideoRow
from mg_jax.inference.load import load_codec
from mg_jax.models.codecs import perceptual
from mg_jax.models.codecs.chunking import ChunkedCodec
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.discriminators import PatchDiscriminator
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.codecs.wave_critics import WaveCritics
from mg_jax.models.encoders.clip import CLIP
from mg_jax.models.encoders.streams import Streams, caption_reader, open_streams
from mg_jax.models.encoders.vision import FrozenVision
from mg_jax.models.generator import Generator
from mg_jax.objectives.autoencoding import Autoencoding, AutoencodingWeights
from mg_jax.objectives.base import Objective
from mg_jax.objectives.contrastive import Contrastive
from mg_jax.objectives.flow_matching import FlowMatching
from mg_jax.objectives.sound_flow import SoundFlow
from mg_jax.objectives.wave_autoencoding import WaveAutoencoding, WaveWeights
from mg_jax.precompute.clips import encode, pinned_step, report_rejected
from mg_jax.precompute.sounds import check_vision, encode_sound
from mg_jax.precompute.statistics import LatentStatistics
from mg_jax.sampling.pipeline import Settings
from mg_jax.stages import previews, sound_previews
from mg_jax.train.evals import Evaluator, RetrievalEvaluator
from mg_jax.train.loop import Hook, TrainConfig
from mg_jax.train.runs import Role, load_role
from mg_jax.train.state import abstract_params
from mg_jax.train.workdir import latents_folder

_log = logging.getLogger(__name__)
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """What is measured and shown while training.

  Attributes:
    every: steps between evaluations on held-out clips; the last step always evaluates.
    start: whether to evaluate before the first step too: what a warm start gives by itself.
    batch: rows of an evaluation batch.
    limit: most clips of a bucket evaluated.
    previews: clips shown in each preview (mp4 and PNG); 0 for none.
  """

  every: int = 1000
  start: bool = False
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


def section(config: Mapping[str, Any], name: str) -> Any:
  """A part of the config. Raises UserError where there is none."""
  if name not in config:
    raise UserError(f"the config has no {name!r}; there are {', '.join(sorted(config))}")
  return config[name]


def build_section(cls, config: Mapping[str, Any], name: str, *, prefix: str = "", **extra: Any):
  """The dataclass that a section holds the fields of, see `core.config.build`."""
  return configs.build(cls, section(config, name), where=prefix + name, **extra)


def _autoencoding(config, data, evals, workdir, mesh) -> Experiment:
  model = build_section(TAE, config, "model")
  weights = build_section(AutoencodingWeights, config, "objective")
  objective = Autoencoding(
    model, weights, perceptual=_perceptual(weights), discriminator=_discriminator(config, weights)
  )
  frames = data.frames if data.video_weight else 1
  shape = (data.global_batch, frames, data.height, data.width, 3)
  _check_model(objective, {"video": jax.ShapeDtypeStruct(shape, jnp.uint8)})
  batches = held_out_clips(data, evals)
  hooks = _codec_hooks(objective, batches, config, evals, workdir, mesh)
  if evals.previews:
    show = previews.Reconstructions(objective, batches, workdir, evals.previews, fps=data.fps)
    hooks.append(Hook("preview", evals.every, show))
  report_rejected(recipe.indices(data, data.kinds), workdir)
  return Experiment(objective, recipe.clip_feed(data), tuple(hooks))


def held_out_clips(
  data: recipe.DataConfig, evals: EvalConfig
) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
  """What starts a pass over the held-out batches of an autoencoder: clips, or single frames."""
  sources = recipe.open_sources(data, "validation", next(iter(data.kinds)))
  row = VideoRow(frames=None if data.video_weight else 1)

  def batches():
    for source in sources.values():
      yield from evaluation_batches(source, row, batch=evals.batch, limit=evals.limit)

  return batches


def _wave_autoencoding(config, data, evals, workdir, mesh) -> Experiment:
  objective = wave_objective(config, data)
  shape = (data.global_batch, data.samples("train"))
  _check_model(objective, {"wave": jax.ShapeDtypeStruct(shape, jnp.int16)})
  source = sound_recipe.open_source(data, "validation")
  row = sound_recipe.WaveRow(data.samples("validation"), shift=False)

  def batches():
    return evaluation_batches(source, row, batch=evals.batch, limit=evals.limit)

  hooks = _codec_hooks(objective, batches, config, evals, workdir, mesh)
  if evals.previews:
    show = sound_previews.SoundReconstructions(objective, batches, workdir, evals.previews)
    hooks.append(Hook("preview", evals.every, show))
  report_rejected([sound_recipe.scan(data, "train")], workdir)
  return Experiment(objective, sound_recipe.wave_feed(data), tuple(hooks))


def wave_objective(
  config: Mapping[str, Any], data: sound_recipe.SoundConfig
) -> WaveAutoencoding:
  """The objective of an audio codec's config.

  Raises:
    UserError: the codec and its data are of different rates.
  """
  model = build_section(DACVAE, config, "model")
  if model.sample_rate != data.rate:
    raise UserError(
      f"model.sample_rate is {model.sample_rate} and data.rate {data.rate}; make them equal"
    )
  weights = build_section(WaveWeights, config, "objective")
  critics = WaveCritics()
  # Configs without an adversarial loss need no such section.
  if weights.adversarial:
    check_dtypes(section(config, "critics"))
    critics = build_section(WaveCritics, config, "critics")
  return WaveAutoencoding(model, weights, critics)


def _codec_hooks(objective, batches, config, evals, workdir, mesh) -> list[Hook]:
  last = build_section(TrainConfig, config, "train").steps
  return [
    _evaluation(objective, batches, evals, mesh),
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


def _discriminator(config, weights: AutoencodingWeights) -> PatchDiscriminator:
  # Configs without an adversarial loss need no such section.
  if not weights.gan:
    return PatchDiscriminator()
  fields = section(config, "discriminator")
  check_dtypes(fields)
  return build_section(PatchDiscriminator, config, "discriminator")


def _flow_matching(config, data, evals, workdir, mesh) -> Experiment:
  model = build_section(Generator, config, "model")
  objective = build_section(FlowMatching, config, "objective", model=model)
  text = text_streams(config, model)
  tae, autoencoder = trained_autoencoder(config, workdir)
  # Before the clips are encoded, which may take long.
  params = _check_generator(
    objective, autoencoder, data, text, build_section(Settings, config, "sampling"), mesh
  )
  latents, metadata = encode_latents(config, workdir, data, evals, text, tae, autoencoder)
  row = LatentRow(
    text.readers, mean=tuple(metadata["mean"]), std=tuple(metadata["std"]), cached=text.cached,
    camera=data.camera_tags,
  )
  held_out = recipe.latent_sources(
    latents, "validation", next(iter(data.kinds)), limit=data.bad_limit
  )

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


def _soundtrack(config, data, evals, workdir, mesh) -> Experiment:
  model = build_section(Generator, config, "model")
  objective = build_section(SoundFlow, config, "objective", model=model)
  text, vision = text_streams(config, model), open_vision(config, model, data)
  codec, step = trained_codec(config, workdir)
  rows, latents = data.global_batch, round(data.seconds * codec.model.latent_rate)
  # Before the sound is encoded, which may take long.
  _check_model(objective, {
    "latent": jax.ShapeDtypeStruct((rows, latents, 1, 1, codec.model.latent), jnp.float32),
    **text.abstract(rows, model.routes()),
    **abstract_sound(model, data, rows, latents),
  })  # fmt: skip
  folder = latents_folder(config, workdir)
  metadata = encode_sound(
    data, codec, folder, origin=config["codec"], step=step, text=text, vision=vision,
    workdir=workdir,
  )
  row = SoundtrackRow(
    text.readers, latents, metadata["rate"], float(data.fps), data.size,
    features=vision.features if vision else 0, mean=tuple(metadata["mean"]),
    std=tuple(metadata["std"]), cached=text.cached,
  )  # fmt: skip
  held_out = soundtracks.record_sources(folder, "validation")
  still = dataclasses.replace(row, shift=False)

  def batches():
    for source in held_out.values():
      yield from evaluation_batches(source, still, batch=evals.batch, limit=evals.limit)

  live = tuple(name for name in text.frozen if name not in text.cached)
  preprocess = _FrozenText(text.load(mesh, names=live)) if live else None
  hooks = (_evaluation(objective, batches, evals, mesh, preprocess),)
  feed = soundtracks.soundtrack_feed(data, folder, row)
  return Experiment(objective, feed, hooks, preprocess)


def open_vision(
  config: Mapping[str, Any], model: Generator, data: SoundtrackConfig
) -> FrozenVision | None:
  """The frozen tower that sees a soundtrack's video; None where the generator trains one.

  Raises:
    UserError: there is none, or both, or it does not fit the data or the generator.
  """
  routes = model.routes()
  if "video" not in routes:
    raise UserError("config model.dit.routes has no video, which soundtracks are made for")
  vision = FrozenVision(config["vision"]) if section(config, "vision") else None
  tower = dict(model.encoders.get("video", {}))
  check_vision(vision, tower, routes["video"][0].features, data.size)
  return vision


def abstract_sound(
  model: Generator, data: SoundtrackConfig, rows: int, latents: int
) -> dict[str, Any]:
  """Shapes of what a batch of soundtracks has beside latents and text."""
  shape = jax.ShapeDtypeStruct
  if "video" in model.encoders:
    frames = SoundtrackRow({}, latents, latents / data.seconds, float(data.fps), data.size).frames
    video = {
      "image": shape((rows, frames, data.size, data.size, 3), jnp.uint8),
      "at": shape((rows, latents), jnp.int32),
      "mask": shape((rows, latents), jnp.bool_),
    }
  else:
    video = shape((rows, latents, model.routes()["video"][0].features), jnp.float16)
  return {"length": shape((rows,), jnp.int32), "video": video}


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
  step = load_role(origin, "autoencoder", step=step).step
  return load_codec(origin, step=step), step


def _encode_clips(config, workdir, data, evals) -> tuple[str, dict]:
  text = text_streams(config, build_section(Generator, config, "model"))
  made_by = trained_autoencoder(config, workdir)
  return encode_latents(config, workdir, data, evals, text, *made_by)


def _encode_soundtracks(config, workdir, data, evals) -> tuple[str, dict]:
  del evals
  model = build_section(Generator, config, "model")
  text, vision = text_streams(config, model), open_vision(config, model, data)
  codec, step = trained_codec(config, workdir)
  folder = latents_folder(config, workdir)
  return folder, encode_sound(
    data, codec, folder, origin=config["codec"], step=step, text=text, vision=vision,
    workdir=workdir,
  )


def text_streams(config: Mapping[str, Any], model: Generator) -> Streams:
  """What reads a generator's captions."""
  return open_streams(
    section(config, "text"), routes=model.routes(), trained=model.text_encoders()
  )


class _FrozenText:
  """Runs the frozen encoders whose features are not cached, between the feed and the step."""

  def __init__(self, text: Streams):
    self._params, self._run = text.params, jax.jit(text.encode)

  def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    return self._run(self._params, batch)


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
  tae = load_role(origin, "autoencoder", step=step)
  return tae, build_section(TAE, tae.config, "model")


def encode_latents(
  config, workdir, data, evals, text, tae: Role, autoencoder: TAE
) -> tuple[str, dict]:
  """The folder of a generator's cached latents, and what its manifest says of them."""
  folder = latents_folder(config, workdir)
  return folder, encode(
    data, autoencoder, tae.params, folder, origin=config["autoencoder"], step=tae.step, text=text,
    batch=evals.batch, workdir=workdir,
  )


def _contrastive(config, data, evals, workdir, mesh) -> Experiment:
  model = build_section(CLIP, config, "model")
  objective = build_section(Contrastive, config, "objective", model=model)
  reader = caption_reader(section(config, "text"), model)
  tokens = (data.global_batch, reader.config.length)
  shapes = {
    "image": jax.ShapeDtypeStruct((data.global_batch, data.height, data.width, 3), jnp.uint8),
    "text": {
      "ids": jax.ShapeDtypeStruct(tokens, jnp.int32), "mask": jax.ShapeDtypeStruct(tokens, bool)
    },
  }  # fmt: skip
  _check_model(objective, shapes)
  held_out = recipe.open_sources(data, "validation", "image")
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
  report_rejected(recipe.indices(data, ("image",)), workdir)
  return Experiment(objective, recipe.frame_feed(data, row), tuple(hooks))


def _evaluation(objective, batches, evals: EvalConfig, mesh, preprocess=None) -> Hook:
  key = rng.stream(jax.random.key(0), "evaluation")
  evaluator = Evaluator(objective, batches, mesh, key=key, preprocess=preprocess)
  return Hook("evaluation", evals.every, evaluator, start=evals.start)


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
    params = abstract_params(objective, batch)
  except (ArithmeticError, AssertionError, IndexError, TypeError, ValueError) as e:
    first = next(iter(str(e).splitlines()), "")
    raise UserError(f"config model makes no network ({type(e).__name__}: {first})") from e
  for path, leaf in flatten_paths(params).items():
    if not math.prod(leaf.shape):
      raise UserError(f"config model makes no network ({path} is of shape {leaf.shape})")
  return params


def check_dtypes(fields: Any) -> None:
  """Raises UserError on a dtype that models do not have, anywhere in a section."""
  for name, value in fields.items():
    if isinstance(value, Mapping):
      check_dtypes(value)
    elif name == "dtype" and value not in DTYPES:
      raise UserError(f"the config has dtype {value!r}; known are {', '.join(DTYPES)}")


@dataclasses.dataclass(frozen=True)
class Stage:
  """The schema of a stage's "data", and what builds its experiment.

  `build(config, data, evals, workdir, mesh)` gets the whole config, and the sections "data" and
  "eval" of it built; `encode(config, workdir, data, evals)` computes what a generator learns from
  and returns its folder and the manifest's metadata.
  """

  data: type
  build: Callable[..., Experiment]
  encode: Callable[..., tuple[str, dict]] | None = None


STAGES = {
  "autoencoding": Stage(recipe.DataConfig, _autoencoding),
  "wave_autoencoding": Stage(sound_recipe.SoundConfig, _wave_autoencoding),
  "contrastive": Stage(recipe.DataConfig, _contrastive),
  "flow_matching": Stage(recipe.DataConfig, _flow_matching, _encode_clips),
  "soundtrack": Stage(SoundtrackConfig, _soundtrack, _encode_soundtracks),
}
