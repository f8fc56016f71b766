"""Layout of an image autoencoder, by the names of diffusers' AutoencoderKL [MG 3.1.1].

Those of SD3.5 and FLUX, with 16 channels and without quantisation convolutions.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.models.weights.kinds import Config, Layout, Place, transpose

_IRRELEVANT = ("force_upcast", "sample_size")  # dtype and size of training
_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}


def inputs(fields: Mapping[str, Any]) -> list[jax.ShapeDtypeStruct]:
  """One frame, of one latent."""
  _, *patch = fields.get("patch", (1, 1, 1))
  height, width = (side * 2 ** (len(fields["multipliers"]) - 1) for side in patch)
  return [jax.ShapeDtypeStruct((1, 1, height, width, 3), jnp.float32)]


def read(config: Config, names: Collection[str]) -> Layout:
  """Encoder and decoder."""
  del names
  if config.get("_class_name") != "AutoencoderKL":
    raise UserError(
      f"{config.where} is of the class {config.get('_class_name')!r}; give the folder of an "
      "AutoencoderKL, which in the folder of a generator is named vae"
    )
  for name, wanted in {"act_fn": "silu", "in_channels": 3, "out_channels": 3}.items():
    config.demand(name, wanted)
  for name in ("latents_mean", "latents_std"):
    config.demand(name)
  for name in ("use_quant_conv", "use_post_quant_conv"):
    if config.get(name, True):
      raise UserError(
        f"{config.where} has {name}, as older autoencoders of 4 channels do; give one without it, "
        "such as that of SD3.5 or FLUX"
      )
  widths = config["block_out_channels"]
  for name, wanted in _BLOCKS.items():
    if list(config[name]) != [wanted] * len(widths):
      raise UserError(
        f"{config.where} has {name} {config[name]!r} for block_out_channels {widths!r}; give a "
        f"checkpoint with one {wanted} for each"
      )
  channels = math.gcd(*widths)
  if min(widths) < 1:
    raise ValueError(f"block_out_channels {widths}")
  fields = {
    "channels": channels,
    "multipliers": [width // channels for width in widths],
    "blocks": config["layers_per_block"],
    "latent": config["latent_channels"],
    "groups": config.get("norm_num_groups", 32),
    "attention": config.get("mid_block_add_attention", True),
    "temporal": False,
  }
  # Published generators are trained on (latent - shift) * scaling. Ours normalise per channel by
  # statistics of their own data. Defaults are those of the published class.
  facts = {
    "scaling": config.get("scaling_factor", 0.18215), "shift": config.get("shift_factor", 0.0)
  }
  config.close(_IRRELEVANT)
  return Layout("autoencoder", fields, _places(fields), facts=facts)


def _places(fields: Mapping[str, Any]) -> dict[str, Place]:
  places = {}
  widths = [fields["channels"] * m for m in fields["multipliers"]]

  def layer(ours, theirs, change):
    places[f"{ours}/kernel"] = Place((f"{theirs}.weight",), change)
    places[f"{ours}/bias"] = Place((f"{theirs}.bias",))

  def conv(ours, theirs):
    layer(f"{ours}/spatial", theirs, lambda a: a.transpose(2, 3, 1, 0))

  def norm(ours, theirs):
    places[f"{ours}/scale"] = Place((f"{theirs}.weight",))
    places[f"{ours}/bias"] = Place((f"{theirs}.bias",))

  def block(ours, theirs, *, widens=False):
    for i in (1, 2):
      norm(f"{ours}/norm{i}", f"{theirs}.norm{i}")
      conv(f"{ours}/conv{i}", f"{theirs}.conv{i}")
    if widens:
      layer(f"{ours}/shortcut", f"{theirs}.conv_shortcut", lambda a: a[:, :, 0, 0].T)

  def middle(ours, theirs):
    block(f"{ours}/block1", f"{theirs}.resnets.0")
    block(f"{ours}/block2", f"{theirs}.resnets.1")
    if fields["attention"]:
      norm(f"{ours}/space/norm", f"{theirs}.attentions.0.group_norm")
      linear = {"query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
      for name, suffix in linear.items():
        layer(f"{ours}/space/{name}", f"{theirs}.attentions.0.{suffix}", transpose)

  # Levels in the order of computation, which is also that of the published names.
  for side, order, count, level, resample in (
    ("encoder", widths, fields["blocks"], "down_blocks", ("down", "downsamplers")),
    ("decoder", widths[::-1], fields["blocks"] + 1, "up_blocks", ("up", "upsamplers")),
  ):
    conv(f"{side}_in", f"{side}.conv_in")
    middle(f"{side}_middle", f"{side}.mid_block")
    for i, width in enumerate(order):
      for j in range(count):
        widens = j == 0 and width != order[max(i - 1, 0)]
        block(f"{side}_blocks_{i}_{j}", f"{side}.{level}.{i}.resnets.{j}", widens=widens)
      if i < len(order) - 1:
        conv(f"{side}_{resample[0]}_{i}", f"{side}.{level}.{i}.{resample[1]}.0.conv")
    norm(f"{side}_norm", f"{side}.conv_norm_out")
    conv(f"{side}_out", f"{side}.conv_out")
  return places
