"""Layout of a T5 encoder: T5 1.0 and 1.1, FLAN-T5, UL2, ByT5, mT5 and UMT5.

The names are those of transformers. All layers share the position table of the first one, except in
UMT5, where every layer has its own.
"""

from collections.abc import Collection

from mg_jax.core.errors import UserError
from mg_jax.models.weights.kinds import Config, Layout, Place, transpose

# Their "gelu" is exact, but all published gated models mean the approximate one.
_PROJECTIONS = {
  "relu": "relu", "gelu_new": "gelu", "silu": "silu", "gated-relu": "relu", "gated-gelu": "gelu",
  "gated-gelu_new": "gelu", "gated-silu": "silu",
}  # fmt: skip
# The encoder has only relative positions, and no dropout here.
_IRRELEVANT = (
  "classifier_dropout", "dropout_rate", "n_positions", "num_decoder_layers", "scalable_attention",
  "scale_decoder_outputs",
)  # fmt: skip
# The first existing one is read. All are one array in the published code.
_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def read(config: Config, names: Collection[str]) -> Layout:
  """The encoder of a checkpoint with or without its decoder."""
  config.check_family("t5", ("t5", "mt5", "umt5"), ("T5", "MT5", "UMT5"))
  default = "relu" if config.get("model_type", "t5") == "t5" else "gated-gelu"
  projection = config.get("feed_forward_proj", default)
  if projection not in _PROJECTIONS:
    raise UserError(
      f"{config.where} has feed_forward_proj {projection!r}, which is not supported; give a "
      f"checkpoint with one of {', '.join(_PROJECTIONS)}"
    )
  gated = projection.startswith("gated-")
  config.demand("is_gated_act", gated)
  activations = {"relu": ("relu",), "silu": ("silu",), "gelu": ("gelu_new", "gelu")}
  config.demand("dense_act_fn", *activations[_PROJECTIONS[projection]])
  layers = config["num_layers"]
  tables = [_table(i) for i in range(layers)]
  own = all(table in names for table in tables[1:]) and layers > 1
  if "model_type" in config:
    own = config["model_type"] == "umt5"
  fields = {
    "vocab": config["vocab_size"],
    "width": config["d_model"],
    "layers": layers,
    "heads": config["num_heads"],
    "head_dim": config["d_kv"],
    "mlp_dim": config["d_ff"],
    "activation": _PROJECTIONS[projection],
    "gated": gated,
    "buckets": config.get("relative_attention_num_buckets", 32),
    "max_distance": config.get("relative_attention_max_distance", 128),
    "shared_bias": not own,
    "norm_eps": config.get("layer_norm_epsilon", 1e-6),
  }
  config.close(_IRRELEVANT)
  embedding, *copies = [name for name in _EMBEDDINGS if name in names] or _EMBEDDINGS[:1]
  places = {"embed": Place((embedding,)), **_layers(layers, gated)}
  if own:
    places["layers/position_bias"] = Place(tuple(tables), stacked=True)
  else:
    places["position_bias"] = Place((tables[0],))
  return Layout(
    "t5", fields, places, ignored=(r"decoder\.", r"lm_head\."),
    copies={copy: embedding for copy in copies if not copy.startswith("decoder.")},
  )  # fmt: skip


def _table(layer: int) -> str:
  return f"encoder.block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight"


def _layers(layers: int, gated: bool) -> dict[str, Place]:
  mlp = {"gate": "wi_0", "up": "wi_1"} if gated else {"up": "wi"}
  kernels = {"query": "q", "key": "k", "value": "v", "out": "o"}
  kernels = {ours: f"0.SelfAttention.{theirs}" for ours, theirs in kernels.items()}
  kernels |= {ours: f"1.DenseReluDense.{n}" for ours, n in (mlp | {"down": "wo"}).items()}

  def stack(suffix, change=lambda a: a):
    names = tuple(f"encoder.block.{i}.layer.{suffix}.weight" for i in range(layers))
    return Place(names, change, stacked=True)

  places = {
    "final_norm/scale": Place(("encoder.final_layer_norm.weight",)),
    "layers/attention_norm/scale": stack("0.layer_norm"),
    "layers/mlp_norm/scale": stack("1.layer_norm"),
  }
  return places | {f"layers/{n}/kernel": stack(s, transpose) for n, s in kernels.items()}
