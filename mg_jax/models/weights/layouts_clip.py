"""Layout of a CLIP, by the names of transformers: CLIP and MetaCLIP, or one tower.

CLIPModel becomes both towers; CLIPTextModel and CLIPVisionModel become one, which has a projection
if the class is one "WithProjection".
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.models.weights.kinds import Config, Layout, Place, norm, text_inputs, transpose

_IRRELEVANT = (
  "attention_dropout", "dropout", "logit_scale_init_value", "projection_dim",
)  # fmt: skip
_TOWERS = {"clip_text_model": "text", "clip_vision_model": "vision"}
# Published configs omit values that equal the defaults of B/32.
_SIZES = {
  "text": {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
  "vision": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
}
_LINEAR = {
  "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
  "out": "self_attn.out_proj", "up": "mlp.fc1", "down": "mlp.fc2",
}  # fmt: skip
_NORMS = {"attention_norm": "layer_norm1", "mlp_norm": "layer_norm2"}


def image_inputs(fields: Mapping[str, Any]) -> list[jax.ShapeDtypeStruct]:
  """Inputs of a vision tower."""
  return [jax.ShapeDtypeStruct((1, fields["size"], fields["size"], 3), jnp.float32)]


def inputs(fields: Mapping[str, Any]) -> list[jax.ShapeDtypeStruct]:
  """Inputs of both towers."""
  return [*image_inputs(fields["vision"]), *text_inputs(fields["text"])]


def read(config: Config, names: Collection[str]) -> Layout:
  """Both towers, or the one that the config describes."""
  config.check_family("clip", ("clip", *_TOWERS), ("CLIP",))
  if "text_config" in config or "vision_config" in config:
    both = config.get("projection_dim", 512)
    sections = {tower: _section(config, f"{tower}_config") for tower in ("text", "vision")}
    fields = {tower: _fields(tower, section, both) for tower, section in sections.items()}
    places = {"logit_scale": Place(("logit_scale",))}
    for tower, values in fields.items():
      tower_places = _places(tower, values, f"{tower}_model.")
      places |= {f"{tower}/{path}": place for path, place in tower_places.items()}
    kind = "clip"
  else:
    tower = _only_tower(config, names)
    # Newer versions omit the prefix for a tower without a projection.
    prefix = f"{tower}_model."
    prefix = prefix if any(name.startswith(prefix) for name in names) else ""
    projects = f"{_projection(tower)}.weight" in names
    width = config.get("projection_dim", 512) if projects else None
    fields = _fields(tower, config, width)
    kind, places = f"clip_{tower}", _places(tower, fields, prefix)
  config.close(_IRRELEVANT)
  # Buffers that count from 0.
  return Layout(kind, fields, places, ignored=(r"(\w+_model\.)?embeddings\.position_ids$",))


def _section(config: Config, name: str) -> Config:
  """The config of a tower; older versions have two copies, of which the `_dict` one is valid."""
  config.get(name)
  older = f"{name}_dict"
  return config.section(older if older in config else name)


def _only_tower(config: Config, names: Collection[str]) -> str:
  if config.get("model_type") in _TOWERS:
    return _TOWERS[config["model_type"]]
  for tower, name in (("text", "token_embedding.weight"), ("vision", "class_embedding")):
    if any(n in names for n in (f"{tower}_model.embeddings.{name}", f"embeddings.{name}")):
      return tower
  raise UserError(
    f"{config.where} describes no tower of a CLIP, nor do the arrays; give the folder of a "
    "CLIPModel, CLIPTextModel or CLIPVisionModel"
  )


def _projection(tower: str) -> str:
  return {"text": "text_projection", "vision": "visual_projection"}[tower]


def _fields(tower: str, config: Config, projection: int | None) -> dict[str, Any]:
  config.demand("model_type", "clip", f"clip_{tower}_model")
  sizes = {name: config.get(name, default) for name, default in _SIZES[tower].items()}
  fields = {
    "width": sizes["hidden_size"],
    "layers": config.get("num_hidden_layers", 12),
    "heads": sizes["num_attention_heads"],
    "mlp_dim": sizes["intermediate_size"],
    "activation": config.get("hidden_act", "quick_gelu"),
    "projection": projection,
    "norm_eps": config.get("layer_norm_eps", 1e-5),
  }
  known = ("quick_gelu", "gelu")
  config.demand("hidden_act", *known)
  if tower == "vision":
    config.demand("num_channels", 3)
    sizes = {"size": config.get("image_size", 224), "patch": config.get("patch_size", 32)}
    return fields | sizes
  vocab = config.get("vocab_size", 49408)
  end = config.get("eos_token_id", vocab - 1)
  return fields | {
    "vocab": vocab,
    "length": config.get("max_position_embeddings", 77),
    # Old configs have 2, which their code interprets as the largest id.
    "end": vocab - 1 if end == 2 else end,
  }


def stack(name: str, layers: int, change: Callable = lambda a: a) -> Place:
  """An array of every layer, with {} in `name` for the layer's number."""
  return Place(tuple(name.format(i) for i in range(layers)), change, stacked=True)


def patch_kernel(a: np.ndarray) -> np.ndarray:
  """The kernel (D, C, rows, columns) of a patch as a matrix, inputs by row, column, colour."""
  return a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0])


def _places(tower: str, fields: Mapping[str, Any], prefix: str) -> dict[str, Place]:
  layers, each = fields["layers"], f"{prefix}encoder.layers.{{}}"
  places = {}
  for ours, theirs in _LINEAR.items():
    places[f"layers/{ours}/kernel"] = stack(f"{each}.{theirs}.weight", layers, transpose)
    places[f"layers/{ours}/bias"] = stack(f"{each}.{theirs}.bias", layers)
  for ours, theirs in _NORMS.items():
    places[f"layers/{ours}/scale"] = stack(f"{each}.{theirs}.weight", layers)
    places[f"layers/{ours}/bias"] = stack(f"{each}.{theirs}.bias", layers)
  embeddings = f"{prefix}embeddings"
  places["positions"] = Place((f"{embeddings}.position_embedding.weight",))
  if fields["projection"] is not None:
    places["projection/kernel"] = Place((f"{_projection(tower)}.weight",), transpose)
  if tower == "text":
    places["embed"] = Place((f"{embeddings}.token_embedding.weight",))
    return places | norm("final_norm", f"{prefix}final_layer_norm")
  places["class"] = Place((f"{embeddings}.class_embedding",))
  places["patch_embed/kernel"] = Place((f"{embeddings}.patch_embedding.weight",), patch_kernel)
  places |= norm("first_norm", f"{prefix}pre_layrnorm")  # their spelling
  return places | norm("final_norm", f"{prefix}post_layernorm")
