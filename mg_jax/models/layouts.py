"""Where the arrays of published models go in our parameter trees; see `models.published`.

One `Kind` a family, in the names of Hugging Face's checkpoints, and of Meta's for the codec. Layers
of a transformer are stacked along a new first axis, and kernels are (in, out).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.models.clip import CLIP
from mg_jax.models.dacvae import DACVAE, DILATIONS
from mg_jax.models.tae import TAE
from mg_jax.models.text import T5Encoder


@dataclasses.dataclass(frozen=True)
class Place:
  """Where one of our parameters comes from.

  Attributes:
    names: the published arrays, one for each layer of a stack, else one.
    change: from published to ours, one array at a time.
    stacked: whether the arrays become one with a leading axis of layers.
  """

  names: tuple[str, ...]
  change: Callable[[np.ndarray], np.ndarray] = lambda a: a
  stacked: bool = False


@dataclasses.dataclass(frozen=True)
class Kind:
  """One family of published models.

  Attributes:
    module: of our model.
    fields: the published config to the fields of `module`.
    places: those fields to the places of all parameters, by path.
    inputs: those fields to the shapes of what the module is called with.
    ignored: beginnings of the names of published arrays that are not needed.
    facts: of the published config, kept beside the fields; our code does not use them.
  """

  module: type[nn.Module]
  fields: Callable[[Mapping[str, Any]], dict[str, Any]]
  places: Callable[[Mapping[str, Any]], dict[str, Place]]
  inputs: Callable[[Mapping[str, Any]], list[jax.ShapeDtypeStruct]]
  ignored: tuple[str, ...] = ()
  facts: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda published: {}


def _transpose(a: np.ndarray) -> np.ndarray:
  return a.T


def _text_inputs(fields: Mapping[str, Any]) -> list[jax.ShapeDtypeStruct]:
  del fields
  return [jax.ShapeDtypeStruct((1, 2), jnp.int32), jax.ShapeDtypeStruct((1, 2), jnp.bool_)]


def _t5_fields(published: Mapping[str, Any]) -> dict[str, Any]:
  projection = published.get("feed_forward_proj", "relu")
  # Their "gelu" is exact; the published gated models all mean the approximate one by it.
  names = {"gated-gelu": "gelu", "gated-gelu_new": "gelu", "gated-silu": "silu", "relu": "relu"}
  if projection not in names:
    raise UserError(f"feed_forward_proj {projection!r} is unknown; known are {', '.join(names)}")
  return {
    "vocab": published["vocab_size"],
    "width": published["d_model"],
    "layers": published["num_layers"],
    "heads": published["num_heads"],
    "head_dim": published["d_kv"],
    "mlp_dim": published["d_ff"],
    "activation": names[projection],
    "gated": projection.startswith("gated-"),
    "buckets": published.get("relative_attention_num_buckets", 32),
    "max_distance": published.get("relative_attention_max_distance", 128),
  }


def _t5_places(fields: Mapping[str, Any]) -> dict[str, Place]:
  mlp = {"gate": "wi_0", "up": "wi_1"} if fields["gated"] else {"up": "wi"}
  kernels = {"query": "q", "key": "k", "value": "v", "out": "o"}
  kernels = {ours: f"0.SelfAttention.{theirs}" for ours, theirs in kernels.items()}
  kernels |= {ours: f"1.DenseReluDense.{n}" for ours, n in (mlp | {"down": "wo"}).items()}

  def stack(suffix, change=lambda a: a):
    layers = range(fields["layers"])
    names = tuple(f"encoder.block.{i}.layer.{suffix}.weight" for i in layers)
    return Place(names, change, stacked=True)

  first = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
  places = {
    "embed": Place(("shared.weight",)),
    "position_bias": Place((first,)),
    "final_norm/scale": Place(("encoder.final_layer_norm.weight",)),
    "layers/attention_norm/scale": stack("0.layer_norm"),
    "layers/mlp_norm/scale": stack("1.layer_norm"),
  }
  return places | {f"layers/{n}/kernel": stack(s, _transpose) for n, s in kernels.items()}


def _clip_fields(published: Mapping[str, Any]) -> dict[str, Any]:
  text, vision = published["text_config"], published["vision_config"]

  def tower(config, defaults):
    # Both towers end in the width of the common space, which the outer config names.
    values = defaults | config | {"projection_dim": published.get("projection_dim", 512)}
    return {
      "width": values["hidden_size"],
      "layers": values["num_hidden_layers"],
      "heads": values["num_attention_heads"],
      "mlp_dim": values["intermediate_size"],
      "activation": values["hidden_act"],
      "projection": values["projection_dim"],
    }

  # Published configs leave out what equals the defaults of B/32.
  common = {"num_hidden_layers": 12, "hidden_act": "quick_gelu"}
  small = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
  large = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
  vocab = text.get("vocab_size", 49408)
  end = text.get("eos_token_id", vocab - 1)
  return {
    "text": tower(text, common | small) | {
      "vocab": vocab,
      "length": text.get("max_position_embeddings", 77),
      # Old configs say 2, by which their code means the largest id.
      "end": vocab - 1 if end == 2 else end,
    },
    "vision": tower(vision, common | large) | {
      "size": vision.get("image_size", 224), "patch": vision.get("patch_size", 32),
    },
  }  # fmt: skip


def _clip_inputs(fields: Mapping[str, Any]) -> list[jax.ShapeDtypeStruct]:
  side = fields["vision"]["size"]
  return [jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32), *_text_inputs(fields)]


def _clip_places(fields: Mapping[str, Any]) -> dict[str, Place]:
  places = {"logit_scale": Place(("logit_scale",))}

  def norm(ours, theirs):
    places[f"{ours}/scale"] = Place((f"{theirs}.weight",))
    places[f"{ours}/bias"] = Place((f"{theirs}.bias",))

  linear = {
    "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
    "out": "self_attn.out_proj", "up": "mlp.fc1", "down": "mlp.fc2",
  }  # fmt: skip
  norms = {"attention_norm": "layer_norm1", "mlp_norm": "layer_norm2"}
  for tower, theirs in (("text", "text_model"), ("vision", "vision_model")):

    def stack(suffix, change=lambda a: a, theirs=theirs, layers=fields[tower]["layers"]):
      names = tuple(f"{theirs}.encoder.layers.{i}.{suffix}" for i in range(layers))
      return Place(names, change, stacked=True)

    for name, suffix in linear.items():
      places[f"{tower}/layers/{name}/kernel"] = stack(f"{suffix}.weight", _transpose)
      places[f"{tower}/layers/{name}/bias"] = stack(f"{suffix}.bias")
    for name, suffix in norms.items():
      places[f"{tower}/layers/{name}/scale"] = stack(f"{suffix}.weight")
      places[f"{tower}/layers/{name}/bias"] = stack(f"{suffix}.bias")
  norm("text/final_norm", "text_model.final_layer_norm")
  norm("vision/first_norm", "vision_model.pre_layrnorm")  # their spelling
  norm("vision/final_norm", "vision_model.post_layernorm")
  text, vision = "text_model.embeddings", "vision_model.embeddings"
  patch = lambda a: a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0])  # noqa: E731
  return places | {
    "text/embed": Place((f"{text}.token_embedding.weight",)),
    "text/positions": Place((f"{text}.position_embedding.weight",)),
    "text/projection/kernel": Place(("text_projection.weight",), _transpose),
    "vision/class": Place((f"{vision}.class_embedding",)),
    "vision/patch_embed/kernel": Place((f"{vision}.patch_embedding.weight",), patch),
    "vision/positions": Place((f"{vision}.position_embedding.weight",)),
    "vision/projection/kernel": Place(("visual_projection.weight",), _transpose),
  }


def _autoencoder_fields(published: Mapping[str, Any]) -> dict[str, Any]:
  if published.get("_class_name") != "AutoencoderKL":
    raise UserError(
      f"the config is of the class {published.get('_class_name')!r}; give the folder of an "
      "AutoencoderKL, which in the folder of a generator is named vae"
    )
  for name, wanted in {"act_fn": "silu", "in_channels": 3, "out_channels": 3}.items():
    if published.get(name, wanted) != wanted:
      raise UserError(f"the config has {name} {published[name]!r}; only {wanted!r} is known")
  for name in ("use_quant_conv", "use_post_quant_conv"):
    if published.get(name, True):
      raise UserError(
        f"the config has {name}, as older autoencoders of 4 channels do; give one without it, such "
        "as that of SD3.5 or FLUX"
      )
  widths = published["block_out_channels"]
  blocks = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
  for name, wanted in blocks.items():
    if list(published[name]) != [wanted] * len(widths):
      raise UserError(
        f"the config has {name} {published[name]!r}, for block_out_channels {widths!r}; known is "
        f"one {wanted} for each"
      )
  if any(width % widths[0] for width in widths):
    raise UserError(f"block_out_channels {widths} are no multiples of the first of them")
  return {
    "channels": widths[0],
    "multipliers": [width // widths[0] for width in widths],
    "blocks": published["layers_per_block"],
    "latent": published["latent_channels"],
    "groups": published.get("norm_num_groups", 32),
    "attention": published.get("mid_block_add_attention", True),
    "temporal": False,
  }


def _autoencoder_inputs(fields: Mapping[str, Any]) -> list[jax.ShapeDtypeStruct]:
  side = 2 ** (len(fields["multipliers"]) - 1)
  return [jax.ShapeDtypeStruct((1, 1, side, side, 3), jnp.float32)]


def _autoencoder_facts(published: Mapping[str, Any]) -> dict[str, Any]:
  # Published generators see (latent - shift) * scaling. Ours normalise by the statistics of their
  # own data, per channel. Defaults are those of the published class.
  scaling, shift = published.get("scaling_factor", 0.18215), published.get("shift_factor")
  return {"scaling": scaling, "shift": 0.0 if shift is None else shift}


def _autoencoder_places(fields: Mapping[str, Any]) -> dict[str, Place]:
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
        layer(f"{ours}/space/{name}", f"{theirs}.attentions.0.{suffix}", _transpose)

  # Levels in the order they are computed in, which is also that of the published names.
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


# The plain head of the decoder is kept among the layers of the watermark.
_DACVAE_HEAD = "decoder.wm_model.encoder_block.pre"
# Those stand in every level too, and are not of the codec.
_DACVAE_WATERMARK = (
  "decoder.wm_model.",
  *(f"decoder.model.{i}.block.{j}." for i in range(1, 9) for j in (2, 3, 6, 7, 10, 11)),
)


def _dacvae_fields(published: Mapping[str, Any]) -> dict[str, Any]:
  # Published configs leave out what equals the defaults, and a codec's file may hold none.
  rates = tuple(published.get("encoder_rates", DACVAE.rates))
  if list(published.get("decoder_rates", rates[::-1])) != list(rates[::-1]):
    raise UserError(
      f"the config has decoder_rates {published['decoder_rates']!r}; known are the encoder_rates "
      f"{list(rates)} in reverse"
    )
  names = {
    "channels": "encoder_dim", "hidden": "latent_dim", "decoder_channels": "decoder_dim",
    "latent": "codebook_dim", "sample_rate": "sample_rate",
  }  # fmt: skip
  values = {ours: published.get(theirs, getattr(DACVAE, ours)) for ours, theirs in names.items()}
  return {"rates": list(rates)} | values


def _dacvae_inputs(fields: Mapping[str, Any]) -> list[jax.ShapeDtypeStruct]:
  return [jax.ShapeDtypeStruct((1, math.prod(fields["rates"])), jnp.float32)]


def _dacvae_places(fields: Mapping[str, Any]) -> dict[str, Place]:
  places = {}

  def snake(ours, theirs):
    places[f"{ours}/alpha"] = Place((f"{theirs}.alpha",), lambda a: a[0, :, 0])

  normed = {"direction": "weight_v", "scale": "weight_g"}
  arrays = normed if fields.get("weight_norm") else {"kernel": "weight"}

  def conv(ours, theirs, change=lambda a: a.transpose(2, 1, 0)):
    for name, suffix in arrays.items():
      places[f"{ours}/{name}"] = Place((f"{theirs}.{suffix}",), change)
    places[f"{ours}/bias"] = Place((f"{theirs}.bias",))

  def unit(ours, theirs):
    for i in (1, 2):
      snake(f"{ours}/snake{i}", f"{theirs}.block.{2 * i - 2}")
      conv(f"{ours}/conv{i}", f"{theirs}.block.{2 * i - 1}")

  # Taps in two blocks of a stride each, see kernels.conv1d; norms have one tap for all.
  def blocks(rate, axes):
    return lambda a: a.reshape(*a.shape[:2], min(2, a.shape[2]), -1).transpose(axes)

  rates, units = fields["rates"], range(len(DILATIONS))
  conv("encoder_in", "encoder.block.0")
  for i, rate in enumerate(rates):
    ours, theirs = f"encoder_levels_{i}", f"encoder.block.{i + 1}.block"
    for j in units:
      unit(f"{ours}/unit{j}", f"{theirs}.{j}")
    snake(f"{ours}/snake", f"{theirs}.3")
    conv(f"{ours}/resample", f"{theirs}.4", blocks(rate, (3, 1, 2, 0)))
  snake("encoder_snake", f"encoder.block.{len(rates) + 1}")
  conv("encoder_out", f"encoder.block.{len(rates) + 2}")
  conv("posterior", "quantizer.in_proj")
  conv("expand", "quantizer.out_proj")
  conv("decoder_in", "decoder.model.0")
  for i, rate in enumerate(reversed(rates)):
    ours, theirs = f"decoder_levels_{i}", f"decoder.model.{i + 1}.block"
    snake(f"{ours}/snake", f"{theirs}.0")
    conv(f"{ours}/resample", f"{theirs}.1", blocks(rate, (0, 2, 3, 1)))
    for j in units:
      unit(f"{ours}/unit{j}", f"{theirs}.{(4, 5, 8)[j]}")
  snake("decoder_snake", f"{_DACVAE_HEAD}.0")
  conv("decoder_out", f"{_DACVAE_HEAD}.1")
  return places


KINDS = {
  "t5": Kind(
    T5Encoder, _t5_fields, _t5_places, _text_inputs,
    # The decoder, and copies of the embedding.
    ignored=("decoder.", "lm_head.", "encoder.embed_tokens."),
  ),
  "clip": Kind(
    CLIP, _clip_fields, _clip_places, _clip_inputs,
    ignored=("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
  ),
  "autoencoder": Kind(
    TAE, _autoencoder_fields, _autoencoder_places, _autoencoder_inputs, facts=_autoencoder_facts
  ),
  "dacvae": Kind(
    DACVAE, _dacvae_fields, _dacvae_places, _dacvae_inputs, ignored=_DACVAE_WATERMARK
  ),
}  # fmt: skip
