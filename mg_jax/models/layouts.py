"""Where the arrays of published models go in our parameter trees; see `models.published`.

One `Kind` a family, in the names of Hugging Face's checkpoints. Layers are stacked along a new
first axis, and kernels are (in, out).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.models.clip import CLIP
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
    ignored: beginnings of the names of published arrays that are not needed.
  """

  module: type[nn.Module]
  fields: Callable[[Mapping[str, Any]], dict[str, Any]]
  places: Callable[[Mapping[str, Any]], dict[str, Place]]
  ignored: tuple[str, ...]


def _transpose(a: np.ndarray) -> np.ndarray:
  return a.T


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


KINDS = {
  "t5": Kind(
    T5Encoder, _t5_fields, _t5_places,
    # The decoder, and copies of the embedding.
    ("decoder.", "lm_head.", "encoder.embed_tokens."),
  ),
  "clip": Kind(
    CLIP, _clip_fields, _clip_places,
    ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
  ),
}  # fmt: skip
