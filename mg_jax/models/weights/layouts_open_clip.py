"""Layout of a CLIP, by the names of open_clip, as MetaCLIP was first published.

Query, key and value are one fused array, the text tower is at the root or, in the "custom" layout,
under `text.`, and projections are (in, out) already. `open_clip_config.json` has the sizes. It must
set `quick_gelu` if the weights need it, as MetaCLIP's do.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.models.encoders.clip import MEAN, STD
from mg_jax.models.weights.kinds import Config, Layout, Place, norm, transpose
from mg_jax.models.weights.layouts_clip import patch_kernel, stack

_PATCHES = "visual.conv1.weight"
# Switches of the published towers, all off in supported ones.
_SWITCHES = (
  "attentional_pool", "embed_cls", "final_ln_after_pool", "no_causal_mask", "no_ln_pre",
  "proj_bias", "qk_norm", "scale_attn", "scale_attn_inner", "scale_fc", "scale_heads",
  "scaled_cosine_attn",
)  # fmt: skip
_IRRELEVANT = (
  "attn_pooler_heads", "attn_pooler_queries", "custom_text", "hf_model_pretrained",
  "hf_pooler_type", "hf_proj_type", "hf_tokenizer_name", "init_logit_bias", "init_logit_scale",
  "fill_color", "interpolation", "output_dict", "output_tokens", "pad_id", "patch_dropout",
  "resize_mode", "size", "timm_drop", "timm_drop_path", "timm_model_pretrained", "timm_pool",
  "timm_proj", "timm_proj_bias", "tokenizer_kwargs", "tokenizer_mode",
)  # fmt: skip


def holds(config: Config, names: Collection[str]) -> bool:
  """Whether a checkpoint is in this layout.

  Raises:
    UserError: if its arrays are but its config is not.
  """
  described = "model_cfg" in config or "vision_cfg" in config
  if _PATCHES in names and not described:
    raise UserError(
      f"{config.where} does not describe these arrays, which are in the layout of open_clip; put "
      "open_clip_config.json next to them, and name them open_clip_model.safetensors"
    )
  return described


def read(config: Config, names: Collection[str]) -> Layout:
  """Both towers. The config is a published one, or one of open_clip's own model configs."""
  model = config.section("model_cfg") if "model_cfg" in config else config
  if "preprocess_cfg" in config:
    preprocess = config.section("preprocess_cfg")
    # Our towers take images from models.encoders.clip.normalise.
    preprocess.demand("mean", list(MEAN))
    preprocess.demand("std", list(STD))
    preprocess.demand("mode", "RGB")
  model.demand("nonscalar_logit_scale", False)
  model.demand("multimodal_cfg")
  activation = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
  text, vision = model.section("text_cfg"), model.section("vision_cfg")
  fields = {
    tower: _fields(section) | {"activation": activation, "projection": model["embed_dim"]}
    for tower, section in (("text", text), ("vision", vision))
  }
  fields["text"] |= _text_fields(text)
  fields["vision"] |= _vision_fields(vision)
  config.close(_IRRELEVANT)
  prefix = "text." if "text.token_embedding.weight" in names else ""
  places = {"logit_scale": Place(("logit_scale",))}
  for tower, beginning in (("text", prefix), ("vision", "visual.")):
    places |= _layers(tower, beginning, fields[tower])
  places |= {
    "text/embed": Place((f"{prefix}token_embedding.weight",)),
    "text/positions": Place((f"{prefix}positional_embedding",)),
    "text/projection/kernel": Place((f"{prefix}text_projection",)),
    "vision/class": Place(("visual.class_embedding",)),
    "vision/patch_embed/kernel": Place((_PATCHES,), patch_kernel),
    "vision/positions": Place(("visual.positional_embedding",)),
    "vision/projection/kernel": Place(("visual.proj",)),
  }
  places |= norm("text/final_norm", f"{prefix}ln_final")
  places |= norm("vision/first_norm", "visual.ln_pre")
  places |= norm("vision/final_norm", "visual.ln_post")
  # A constant of the causal mask, and the sizes that OpenAI's files have as arrays.
  ignored = (r"(text\.)?attn_mask$", "input_resolution$", "context_length$", "vocab_size$")
  return Layout("clip", fields, places, ignored)


def _fields(section: Config) -> dict[str, Any]:
  for name in _SWITCHES:
    section.demand(name, False)
  for name in ("timm_model_name", "hf_model_name", "ls_init_value", "act_kwargs"):
    section.demand(name)
  section.demand("block_type", "default")
  norms = section.get("norm_kwargs") or {}
  section.demand("norm_kwargs", {}, {"eps": norms.get("eps")})
  return {"norm_eps": norms.get("eps", 1e-5), "layers": section.get("layers", 12)}


def _text_fields(section: Config) -> dict[str, Any]:
  section.demand("pool_type", "argmax", "eos")
  section.demand("proj_type", "linear")
  width, vocab = section.get("width", 512), section.get("vocab_size", 49408)
  ends = section.get("eos_id", 2)  # used by "eos" only; "argmax" means the largest id
  return {
    "width": width,
    "heads": section.get("heads", 8),
    "mlp_dim": int(width * section.get("mlp_ratio", 4.0)),
    "vocab": vocab,
    "length": section.get("context_length", 77),
    "end": ends if section.get("pool_type") == "eos" else vocab - 1,
  }


def _vision_fields(section: Config) -> dict[str, Any]:
  section.demand("pos_embed_type", "learnable")
  section.demand("pool_type", "tok")
  width = section.get("width", 768)
  return {
    "width": width,
    "heads": width // section.get("head_width", 64),
    "mlp_dim": int(width * section.get("mlp_ratio", 4.0)),
    "size": _side(section, "image_size", 224),
    "patch": _side(section, "patch_size", 16),
  }


def _side(section: Config, name: str, default: int) -> int:
  value = section.get(name, default)
  sides = set(value) if isinstance(value, list) else {value}
  if len(sides) > 1:
    raise UserError(
      f"{section.where} has {name} {value!r}, of which only squares are supported; give a "
      "checkpoint with that"
    )
  return sides.pop()


def _layers(tower: str, prefix: str, fields: dict[str, Any]) -> dict[str, Place]:
  layers, each = fields["layers"], f"{prefix}transformer.resblocks.{{}}"
  places = {}
  for part, name in enumerate(("query", "key", "value")):

    def third(a: np.ndarray, part=part) -> np.ndarray:
      return np.split(a, 3)[part].T

    places[f"{name}/kernel"] = stack(f"{each}.attn.in_proj_weight", layers, third)
    places[f"{name}/bias"] = stack(f"{each}.attn.in_proj_bias", layers, third)
  for ours, theirs in (("out", "attn.out_proj"), ("up", "mlp.c_fc"), ("down", "mlp.c_proj")):
    places[f"{ours}/kernel"] = stack(f"{each}.{theirs}.weight", layers, transpose)
    places[f"{ours}/bias"] = stack(f"{each}.{theirs}.bias", layers)
  for ours, theirs in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
    places[f"{ours}/scale"] = stack(f"{each}.{theirs}.weight", layers)
    places[f"{ours}/bias"] = stack(f"{each}.{theirs}.bias", layers)
  return {f"{tower}/layers/{path}": place for path, place in places.items()}
