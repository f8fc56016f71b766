"""The training step of any experiment as a program to plan, at its largest batch.

No data is opened and no file of weights is read, so a loss whose network comes from files (LPIPS)
is left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.tree import count_params
from mg_jax.core.typing import PyTree
from mg_jax.data.media.files import Kind
from mg_jax.data.sources.recipe import DataConfig
from mg_jax.data.text.readers import TextConfig
from mg_jax.kernels.platform import platform
from mg_jax.models import patches, zoo
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.discriminators import PatchDiscriminator
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.encoders.clip import CLIP
from mg_jax.models.generator import Generator
from mg_jax.objectives.autoencoding import Autoencoding, AutoencodingWeights
from mg_jax.objectives.base import Objective
from mg_jax.objectives.contrastive import Contrastive
from mg_jax.objectives.flow_matching import FlowMatching
from mg_jax.objectives.sound_flow import SoundFlow
from mg_jax.plan.program import Program, check_divides, device_bytes, row_bytes, section
from mg_jax.stages.experiment import optim_config, role_loss
from mg_jax.stages.table import STAGES, abstract_sound, wave_objective
from mg_jax.train import flops
from mg_jax.train.loop import TrainConfig
from mg_jax.train.optim import Optimizer, build_optimizers
from mg_jax.train.state import abstract_key, abstract_params, abstract_state
from mg_jax.train.step import build_step


def training(config: Mapping[str, Any], mesh: Mesh) -> Program:
  """The step of a config on a mesh.

  Raises:
    UserError: on a stage without a model, and on sizes that do not divide over the mesh.
  """
  objective, batch, clip = abstract_training(config)
  settings = configs.build(TrainConfig, section(config, "train"), where="train")
  rows, dit = jax.tree.leaves(batch)[0].shape[0], config["model"].get("dit", {})
  tokens = latent_tokens(dit, batch["latent"].shape[1:4]) if dit else 0
  check_divides(mesh, rows=rows, accumulate=settings.accumulate, tokens=tokens,
                heads=dit.get("heads", 0))  # fmt: skip
  optimizers = build_optimizers(optim_config(config), objective.roles)
  state = abstract_state(objective, optimizers, mesh, batch, **settings.state_args)
  step = build_step(objective, optimizers, settings, mesh, state=state)
  params = abstract_params(objective, batch)
  model, hardware = training_flops(objective, params, batch, optimizers)
  blocks = zoo.block_parameters(params)
  draws = getattr(objective, "draws", 1)
  formula = rows * draws * (6 * blocks * tokens + 12 * dit["layers"] * dit["width"] * tokens**2) \
    if dit else None  # fmt: skip
  return Program(
    lower=lambda: step.lower(state, batch),
    held={
      "params": device_bytes(state.params), "optimizer": device_bytes(state.opt_state),
      "ema": 0 if state.ema is None else device_bytes(state.ema), "batch": row_bytes(batch, mesh),
    },
    clip=clip, rows=rows, samples=rows, tokens=tokens, parameters=count_params(params),
    block_parameters=blocks, model_flops=model, hardware_flops=hardware, formula_flops=formula,
    accumulate=settings.accumulate,
  )  # fmt: skip


def abstract_training(
  config: Mapping[str, Any],
) -> tuple[Objective, dict[str, Any], tuple[int, int, int]]:
  """(objective, shapes of its largest batch, (frames, height, width) of a sample).

  For sound, latents are frames of one pixel each; for its codec, samples are.
  """
  stages = {
    "flow_matching": _flow_matching, "autoencoding": _autoencoding, "contrastive": _contrastive,
    "soundtrack": _soundtrack, "wave_autoencoding": _wave_autoencoding,
  }  # fmt: skip
  if config.get("stage") not in stages or not config.get("model"):
    raise UserError(
      f"stage {config.get('stage')!r} has no model to plan; give a config of experiments/ whose "
      f"stage is one of {', '.join(stages)}"
    )
  kind = STAGES[config["stage"]].data
  data = configs.build(kind, section(config, "data"), where="data")
  return stages[config["stage"]](config, data)


def _flow_matching(config, data):
  """The batch of images or of clips, whichever has more tokens of video and text."""
  dit, batches = config["model"]["dit"], []
  read = sum(fields["length"] for fields in config["text"].values())
  for kind in data.kinds:
    clip, rows = largest_clip(data, kind), data.rows(kind)
    latent = TAE(latent=dit["channels"], parent=None).latent_shape(*clip)
    batches.append((rows * (latent_tokens(dit, latent[:3]) + read), rows, latent, clip))
  _, rows, latent, clip = max(batches)
  return generator_objective(config), abstract_clips(config, rows, latent), clip


def _soundtrack(config, data):
  model = configs.build(Generator, config["model"], where="model")
  objective = configs.build(SoundFlow, config["objective"], where="objective", model=model)
  rows, latents = data.global_batch, round(data.seconds * DACVAE(parent=None).latent_rate)
  batch = abstract_clips(config, rows, (latents, 1, 1, config["model"]["dit"]["channels"]))
  return objective, batch | abstract_sound(model, data, rows, latents), (latents, 1, 1)


def generator_objective(config: Mapping[str, Any]) -> FlowMatching:
  """The objective of a generator's config."""
  model = configs.build(Generator, config["model"], where="model")
  return configs.build(FlowMatching, config["objective"], where="objective", model=model)


def _autoencoding(config, data):
  weights = configs.build(AutoencodingWeights, config["objective"], where="objective")
  critic = config["discriminator"] if weights.gan else {}
  objective = Autoencoding(
    configs.build(TAE, config["model"], where="model"), weights,
    discriminator=configs.build(PatchDiscriminator, critic, where="discriminator"),
  )  # fmt: skip
  frames = max(data.lengths or (data.frames,)) if data.video_weight else 1
  clip = (frames, data.height, data.width)
  rows, shape = data.global_batch, jax.ShapeDtypeStruct
  batch = {"video": shape((rows, *clip, 3), jnp.uint8), "frames": shape((rows,), jnp.int32)}
  return objective, batch, clip


def _wave_autoencoding(config, data):
  samples = data.samples("train")
  batch = {"wave": jax.ShapeDtypeStruct((data.global_batch, samples), jnp.int16)}
  return wave_objective(config, data), batch, (samples, 1, 1)


def _contrastive(config, data):
  model = configs.build(CLIP, config["model"], where="model")
  objective = configs.build(Contrastive, config["objective"], where="objective", model=model)
  length = configs.build(TextConfig, config["text"]["text"], where="text.text").length
  rows, shape = data.global_batch, jax.ShapeDtypeStruct
  text = {"ids": shape((rows, length), jnp.int32), "mask": shape((rows, length), jnp.bool_)}
  image = shape((rows, data.height, data.width, 3), jnp.uint8)
  return objective, {"image": image, "text": text}, (1, data.height, data.width)


def latent_tokens(dit: Mapping[str, Any], latent: Sequence[int]) -> int:
  """Tokens of a latent of (frames, height, width)."""
  return math.prod(patches.grid(tuple(latent), tuple(dit["patch"])))


def largest_clip(data: DataConfig, kind: Kind = "video") -> tuple[int, int, int]:
  """(frames, height, width) of the bucket with the most pixels."""
  return max(((b.frames, b.height, b.width) for b in data.buckets(kind)), key=math.prod)


def abstract_clips(
  config: Mapping[str, Any], rows: int, latent: Sequence[int]
) -> dict[str, Any]:
  """Shapes of a batch of cached latents, with features of frozen encoders or ids of others."""
  shape = jax.ShapeDtypeStruct
  batch: dict[str, Any] = {
    "latent": shape((rows, *latent), jnp.float32), "index": shape((rows,), jnp.int32)
  }  # fmt: skip
  routes, trained = config["model"]["dit"]["routes"], config["model"]["encoders"]
  for name, fields in config["text"].items():
    length = configs.build(TextConfig, fields, where=f"text.{name}").length
    if name in trained:
      entry = {"ids": shape((rows, length), jnp.int32)}
    else:
      entry = {"features": shape((rows, length, routes[name]["features"]), jnp.float32)}
    batch[name] = entry | {"mask": shape((rows, length), jnp.bool_)}
  return batch


def training_flops(
  objective: Objective, params: PyTree, batch: PyTree, optimizers: Mapping[str, Optimizer]
) -> tuple[float, float]:
  """FLOPs of a step over all devices, without and with recomputation; shapes suffice.

  Frozen parameters need no gradient. The FLOPs of attention are counted in the loops of the blocked
  kernel, which computes the same as the fused ones.
  """
  model = hardware = 0.0
  key, carry = abstract_key(), {}
  with platform("cpu"):
    for role in objective.roles:
      loss = role_loss(objective, role)
      stop = optimizers[role].stop_frozen
      scalar = lambda tree, *rest, loss=loss, stop=stop: loss(stop(tree), *rest)[0]  # noqa: E731
      args = params[role], params, batch, key, carry
      total, forward = flops.count(jax.grad(scalar), *args), flops.count(scalar, *args)
      model, hardware = model + min(total, 3 * forward), hardware + total
      _, (_, carry) = jax.eval_shape(loss, *args)
  return model, hardware
