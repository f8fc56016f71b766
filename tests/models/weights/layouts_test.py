"""Relatives of the models we read: taken where we compute the same, or else refused by name."""

import json
import logging
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data import tensors
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.encoders.clip import CLIP, MEAN, STD, TextTower, VisionTower
from mg_jax.models.encoders.t5 import T5Encoder
from mg_jax.models.encoders.vision import FrozenVision
from mg_jax.models.weights import converted, published
from mg_jax.models.weights.kinds import Config
from mg_jax.models.weights.layouts import KINDS

T5 = {
  "model_type": "t5", "vocab_size": 20, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8,
  "d_ff": 24, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
TEXT = {
  "model_type": "clip_text_model", "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2,
  "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 9,
  "projection_dim": 8,
}  # fmt: skip
VISION = {
  "model_type": "clip_vision_model", "hidden_size": 12, "num_hidden_layers": 1,
  "num_attention_heads": 3, "intermediate_size": 20, "image_size": 16, "patch_size": 8,
  "projection_dim": 8,
}  # fmt: skip
BOTH = {"model_type": "clip", "text_config": TEXT, "vision_config": VISION, "projection_dim": 8}
OPEN_CLIP = {
  "model_cfg": {
    "embed_dim": 8, "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 12, "head_width": 4, "patch_size": 8},
    "text_cfg": {"context_length": 9, "vocab_size": 20, "width": 16, "heads": 2, "layers": 2},
  },
  "preprocess_cfg": {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic"},
}  # fmt: skip
AUTOENCODER = {
  "_class_name": "AutoencoderKL", "block_out_channels": [8, 12], "layers_per_block": 1,
  "latent_channels": 4, "norm_num_groups": 4, "down_block_types": ["DownEncoderBlock2D"] * 2,
  "up_block_types": ["UpDecoderBlock2D"] * 2, "use_quant_conv": False,
  "use_post_quant_conv": False,
}  # fmt: skip


def arrays_of(kind, config, names=()):
  """Random arrays under the published names of a layout, in the published shapes."""
  layout = KINDS[kind].read(Config(config, "config"), names)
  shapes, out = converted.shapes_of(KINDS[layout.kind], layout.fields), {}
  rng = np.random.default_rng(0)
  for path, place in layout.places.items():
    shape = shapes[path][1:] if place.stacked else shapes[path]
    for name in place.names:
      theirs = shape
      if name.endswith(("patch_embedding.weight", "conv1.weight")) and len(shape) == 2:
        side = round((shape[0] // 3) ** 0.5)
        theirs = (shape[1], 3, side, side)
      elif path.endswith("kernel") and name.endswith(".weight"):
        theirs = shape[::-1] + ((1, 1) if name.endswith("shortcut.weight") else ())
      if "in_proj_" in name:
        theirs = (3 * shape[0], *shape[1:])
      out[name] = rng.standard_normal(theirs).astype(np.float32)
  return out


def write(folder, config, arrays, weights="model.safetensors", described="config.json"):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / described).write_text(json.dumps(config))
  shapes = {name: (a.shape, a.dtype) for name, a in arrays.items()}
  tensors.write(folder / weights, shapes, [(name, [a]) for name, a in arrays.items()])
  return folder


def leaves(tree):
  return published.flatten_paths(tree)


def test_every_layer_of_a_umt5_keeps_its_own_table(tmp_path):
  config = T5 | {"model_type": "umt5"}
  arrays = arrays_of("t5", config)
  tables = [name for name in arrays if "relative_attention_bias" in name]
  assert len(tables) == 2
  published.convert(write(tmp_path / "umt5", config, arrays), tmp_path / "ours", "t5")
  model, params = converted.load(tmp_path / "ours")
  assert not model.shared_bias
  for i, name in enumerate(tables):
    np.testing.assert_array_equal(params["layers"]["position_bias"][i], arrays[name])
  ids = jnp.array([[3, 4, 5, 1]])
  features = model.apply({"params": params}, ids, ids > 0)
  bias = params["layers"]["position_bias"]
  same = params | {"layers": params["layers"] | {"position_bias": jnp.stack([bias[0]] * 2)}}
  shared = {k: v for k, v in same["layers"].items() if k != "position_bias"}
  one = params | {"layers": shared, "position_bias": bias[0]}
  alike = model.apply({"params": same}, ids, ids > 0)
  # With equal tables it is a T5, with its own it is not.
  np.testing.assert_allclose(
    alike, model.clone(shared_bias=True).apply({"params": one}, ids, ids > 0), rtol=1e-5, atol=1e-5
  )
  assert np.abs(features - alike).max() > 1e-3

  # The same arrays under the name of a T5, which reads the first table alone, are refused.
  write(tmp_path / "umt5", T5, arrays)
  with pytest.raises(UserError, match=r"unexpected: encoder.block.1.*relative_attention_bias"):
    published.convert(tmp_path / "umt5", tmp_path / "none", "t5")
  del arrays[tables[1]]
  write(tmp_path / "umt5", config, arrays)
  with pytest.raises(UserError, match=r"missing: encoder.block.1.*relative_attention_bias"):
    published.convert(tmp_path / "umt5", tmp_path / "none", "t5")


@pytest.mark.parametrize("name", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_a_tied_embedding_is_read_under_any_of_its_names(tmp_path, name):
  arrays = arrays_of("t5", T5)
  embedding = arrays.pop("shared.weight")
  published.convert(write(tmp_path / "a", T5, arrays | {name: embedding}), tmp_path / "ours", "t5")
  np.testing.assert_array_equal(converted.load(tmp_path / "ours")[1]["embed"], embedding)


def test_copies_of_the_embedding_must_be_copies(tmp_path):
  arrays = arrays_of("t5", T5)
  copy = {"encoder.embed_tokens.weight": arrays["shared.weight"]}
  rest = {"decoder.embed_tokens.weight": np.ones((3, 4), np.float32), "lm_head.weight": np.ones(2)}
  published.convert(write(tmp_path / "a", T5, arrays | copy | rest), tmp_path / "ours", "t5")
  copy["encoder.embed_tokens.weight"] = copy["encoder.embed_tokens.weight"] + 1
  write(tmp_path / "a", T5, arrays | copy)
  with pytest.raises(UserError, match="embed_tokens.weight that is not a copy of shared.weight"):
    published.convert(tmp_path / "a", tmp_path / "none", "t5")


def test_a_field_that_changes_the_features_is_read(tmp_path):
  folder = write(tmp_path / "a", T5 | {"layer_norm_epsilon": 0.5}, arrays_of("t5", T5))
  published.convert(folder, tmp_path / "ours", "t5")
  assert converted.module(tmp_path / "ours").norm_eps == 0.5
  config = BOTH | {"text_config": TEXT | {"layer_norm_eps": 0.25}}
  folder = write(tmp_path / "b", config, arrays_of("clip", config))
  published.convert(folder, tmp_path / "clip", "clip")
  assert converted.module(tmp_path / "clip").text.norm_eps == 0.25


REFUSED = [
  ("t5", T5, {"model_type": "longt5"}, "type 'longt5', which kind t5 does not read"),
  ("t5", T5, {"model_type": "switch_transformers"}, "type 'switch_transformers'"),
  (
    "t5", T5, {"model_type": None, "architectures": ["LongT5EncoderModel"]},
    "type 'LongT5EncoderModel', which kind t5 does not read",
  ),
  ("t5", T5, {"is_gated_act": False}, "is_gated_act False, of which only True"),
  ("t5", T5, {"dense_act_fn": "relu"}, "dense_act_fn 'relu', of which only 'gelu_new' or 'gelu'"),
  ("t5", T5, {"feed_forward_proj": "gelu"}, "feed_forward_proj 'gelu', which is not supported"),
  ("t5", T5, {"is_decoder": True}, "is_decoder True, of which only False"),
  ("t5", T5, {"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4}, of which"),
  ("t5", T5, {"pruned_heads": {"0": [1]}}, "pruned_heads"),
  ("clip", BOTH, {"model_type": "siglip"}, "type 'siglip', which kind clip does not read"),
  ("clip", BOTH, {"model_type": "altclip"}, "type 'altclip'"),
  ("clip", BOTH, {"model_type": "chinese_clip"}, "type 'chinese_clip'"),
  (
    "clip", BOTH, {"model_type": None, "architectures": ["SiglipModel"]}, "type 'SiglipModel'",
  ),
  ("clip", BOTH, {"text_config": TEXT | {"hidden_act": "relu"}}, "text_config has hidden_act"),
  ("clip", BOTH, {"text_config": TEXT | {"model_type": "bert"}}, "text_config has model_type"),
  ("clip", BOTH, {"vision_config": VISION | {"num_channels": 4}}, "num_channels 4"),
  ("clip", TEXT, {"is_decoder": True}, "is_decoder True"),
  ("clip", {}, {}, "describes no tower of a CLIP, nor do the arrays"),
  ("dacvae", {}, {"model_type": "dac"}, "type 'dac', which kind dacvae does not read"),
]  # fmt: skip


@pytest.mark.parametrize("kind, config, change, message", REFUSED)
def test_relatives_that_compute_something_else_are_refused(tmp_path, kind, config, change, message):
  changed = config | change
  folder = write(tmp_path / "a", changed, {"x": np.zeros(1, np.float32)})
  with pytest.raises(UserError, match=re.escape(message)) as caught:
    published.convert(folder, tmp_path / "ours", kind)
  assert "\n" not in str(caught.value) and ";" in str(caught.value)


@pytest.mark.parametrize("projection, activation, gated", [
  ("gated-relu", "relu", True), ("gelu_new", "gelu", False), ("silu", "silu", False),
])  # fmt: skip
def test_activations_of_relatives(projection, activation, gated):
  fields = KINDS["t5"].read(Config(T5 | {"feed_forward_proj": projection}, "c"), ()).fields
  assert (fields["activation"], fields["gated"]) == (activation, gated)


def test_an_mt5_that_leaves_its_activation_unsaid_is_gated():
  config = {k: v for k, v in T5.items() if k != "feed_forward_proj"} | {"model_type": "mt5"}
  fields = KINDS["t5"].read(Config(config, "c"), ()).fields
  assert fields["gated"] and fields["activation"] == "gelu"


def test_unknown_fields_are_named_and_known_ones_are_not(tmp_path, caplog):
  config = T5 | {
    "attention_twist": 2, "unset": None, "dropout_rate": 0.1, "n_positions": 512, "use_cache": True,
    "architectures": ["T5ForConditionalGeneration"], "scalable_attention": True,
  }  # fmt: skip
  with caplog.at_level(logging.WARNING):
    KINDS["t5"].read(Config(config, "folder/config.json"), ())
  assert caplog.messages == [
    "folder/config.json has unknown fields, which are ignored: attention_twist"
  ]


@pytest.mark.parametrize("projects", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("tower", ["text", "vision"])
def test_one_tower_alone_is_read(tmp_path, tower, prefix, projects):
  config, head = {
    "text": (TEXT, "text_projection.weight"), "vision": (VISION, "visual_projection.weight"),
  }[tower]  # fmt: skip
  whole = published.convert(
    write(tmp_path / "both", BOTH, arrays_of("clip", BOTH)), tmp_path / "clip", "clip"
  )
  parts = {
    name: a for name, a in arrays_of("clip", BOTH).items()
    if name.startswith(f"{tower}_model.") or (projects and name == head)
  }  # fmt: skip
  start = f"{tower}_model."
  parts[f"{start}embeddings.position_ids"] = np.arange(9)[None]
  if not prefix:
    parts = {name.removeprefix(start): a for name, a in parts.items()}
  written = published.convert(write(tmp_path / "one", config, parts), tmp_path / "ours", "clip")
  model, params = converted.load(tmp_path / "ours")
  both, all_params = converted.load(tmp_path / "clip")
  assert whole["kind"] == "clip" and written["kind"] == f"clip_{tower}"
  ids, image = jnp.array([[3, 5, 19]]), jnp.ones((1, 16, 16, 3)) * 0.1
  if tower == "text":
    assert isinstance(model, TextTower)
    wanted = both.apply({"params": all_params}, ids, ids > 0, method="encode_text")
    found = model.apply({"params": params}, ids, ids > 0)
  else:
    assert isinstance(model, VisionTower)
    wanted = both.apply({"params": all_params}, image, method="encode_image")
    found = model.apply({"params": params}, image)
  np.testing.assert_allclose(found.tokens, wanted.tokens, rtol=1e-5, atol=1e-5)
  if projects:
    np.testing.assert_allclose(found.pooled, wanted.pooled, rtol=1e-5, atol=1e-5)
  else:
    assert model.projection is None and found.pooled.shape == (1, model.width)


@pytest.mark.parametrize("projects", [True, False])
def test_a_vision_tower_alone_sees_frames(tmp_path, projects):
  names = ("visual_projection.weight",) if projects else ()
  arrays = arrays_of("clip", VISION, names)
  published.convert(write(tmp_path / "v", VISION, arrays), tmp_path / "ours", "clip")
  tower = FrozenVision(tmp_path / "ours")
  seen = tower(np.zeros((3, 16, 16, 3), np.uint8))
  assert seen.shape == (3, 8 if projects else 12) and np.isfinite(seen).all()
  with pytest.raises(UserError, match="has no CLIP"):
    published.convert(write(tmp_path / "t", TEXT, arrays_of("clip", TEXT)), tmp_path / "x", "clip")
    FrozenVision(tmp_path / "x")


def test_fields_in_the_older_place_of_a_clip_count():
  config = BOTH | {"text_config_dict": TEXT | {"hidden_act": "gelu"}, "vision_config_dict": None}
  fields = KINDS["clip"].read(Config(config, "c"), ()).fields
  assert (fields["text"]["activation"], fields["vision"]["activation"]) == ("gelu", "quick_gelu")


@pytest.mark.parametrize("custom", [False, True])
def test_a_clip_in_the_layout_of_open_clip_is_read(tmp_path, custom):
  names = ("text.token_embedding.weight",) if custom else ()
  arrays = arrays_of("clip", OPEN_CLIP, names)
  assert arrays["visual.transformer.resblocks.0.attn.in_proj_weight"].shape == (36, 12)
  assert ("text.ln_final.bias" if custom else "ln_final.bias") in arrays
  place = ("open_clip_model.safetensors", "open_clip_config.json")
  buffers = {"text.attn_mask" if custom else "attn_mask": np.zeros((9, 9), np.float32)}
  published.convert(
    write(tmp_path / "a", OPEN_CLIP, arrays | buffers, *place), tmp_path / "ours", "clip"
  )
  model, params = converted.load(tmp_path / "ours")
  tower = {"activation": "quick_gelu", "projection": 8, "dtype": "float32"}
  assert model == CLIP(
    text=TextTower(vocab=20, length=9, width=16, layers=2, heads=2, mlp_dim=64, end=19, **tower),
    vision=VisionTower(size=16, patch=8, width=12, layers=1, heads=3, mlp_dim=48, **tower),
  )
  fused = arrays["visual.transformer.resblocks.0.attn.in_proj_weight"]
  np.testing.assert_array_equal(params["vision"]["layers"]["key"]["kernel"][0], fused[12:24].T)
  np.testing.assert_array_equal(params["vision"]["projection"]["kernel"], arrays["visual.proj"])
  # Before several devices; a config of open_clip's own; without the flag of the activation.
  trained = {f"module.{name}": a for name, a in arrays.items()}
  sizes = {k: v for k, v in OPEN_CLIP["model_cfg"].items() if k != "quick_gelu"}
  published.convert(write(tmp_path / "b", sizes, trained, *place), tmp_path / "again", "clip")
  other, same = converted.load(tmp_path / "again")
  assert other.text.activation == other.vision.activation == "gelu"
  jax.tree.map(np.testing.assert_array_equal, params, same)
  # Without its own config.
  with pytest.raises(UserError, match="are in the layout of open_clip; put open_clip_config.json"):
    published.convert(write(tmp_path / "c", BOTH, arrays), tmp_path / "none", "clip")


@pytest.mark.parametrize("where, change, message", [
  ("vision_cfg", {"timm_model_name": "vit_base"}, "timm_model_name 'vit_base'"),
  ("vision_cfg", {"pool_type": "avg"}, "pool_type 'avg', of which only 'tok'"),
  ("vision_cfg", {"image_size": [16, 8]}, "image_size [16, 8], of which only squares"),
  ("vision_cfg", {"attentional_pool": True}, "attentional_pool True"),
  ("text_cfg", {"hf_model_name": "roberta-base"}, "hf_model_name 'roberta-base'"),
  ("text_cfg", {"no_causal_mask": True}, "no_causal_mask True"),
  ("text_cfg", {"norm_kwargs": {"bias": False}}, "norm_kwargs"),
  ("text_cfg", {"pool_type": "last"}, "pool_type 'last', of which only 'argmax' or 'eos'"),
  (None, {"mean": [0.5] * 3}, "preprocess_cfg has mean [0.5, 0.5, 0.5], of which only"),
])  # fmt: skip
def test_relatives_in_open_clip_are_refused(where, change, message):
  config = json.loads(json.dumps(OPEN_CLIP))
  (config["model_cfg"][where] if where else config["preprocess_cfg"]).update(change)
  with pytest.raises(UserError, match=re.escape(message)):
    KINDS["clip"].read(Config(config, "open_clip_config.json"), ())


def test_an_autoencoder_of_any_widths_is_read(tmp_path):
  arrays = arrays_of("autoencoder", AUTOENCODER)
  assert arrays["encoder.down_blocks.1.resnets.0.conv_shortcut.weight"].shape == (12, 8, 1, 1)
  published.convert(write(tmp_path / "a", AUTOENCODER, arrays), tmp_path / "ours", "autoencoder")
  model = converted.module(tmp_path / "ours")
  assert model == TAE(
    channels=4, multipliers=(2, 3), blocks=1, latent=4, groups=4, temporal=False, dtype="float32"
  )


@pytest.mark.parametrize("name, dtype", [
  ("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2), ("F64", np.float64),
  ("F16", np.float16), ("BF16", ml_dtypes.bfloat16),
])  # fmt: skip
def test_weights_of_any_floating_point_type_are_read(tmp_path, name, dtype):
  arrays = {n: a.astype(dtype) for n, a in arrays_of("t5", T5).items()}
  folder = write(tmp_path / "a", T5, arrays)
  assert name.encode() in (folder / "model.safetensors").read_bytes()[:400]
  published.convert(folder, tmp_path / "ours", "t5")
  embed = converted.load(tmp_path / "ours")[1]["embed"]
  np.testing.assert_array_equal(embed, arrays["shared.weight"].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.bool_, np.complex64])
def test_weights_that_are_no_real_numbers_are_named(tmp_path, dtype):
  arrays = arrays_of("t5", T5)
  arrays["shared.weight"] = arrays["shared.weight"].astype(dtype)
  message = f"shared.weight has {np.dtype(dtype).name} values"
  with pytest.raises(UserError, match=message):
    published.convert(write(tmp_path / "a", T5, arrays), tmp_path / "ours", "t5")


def test_scales_of_quantised_weights_are_refused(tmp_path):
  name = "encoder.block.0.layer.0.SelfAttention.q.weight_scale"
  arrays = arrays_of("t5", T5) | {name: np.ones(1, np.float32)}
  with pytest.raises(UserError, match=f"unexpected: {name}"):
    published.convert(write(tmp_path / "a", T5, arrays), tmp_path / "ours", "t5")


def test_the_tokenizer_of_a_generator_lies_beside_the_encoder(tmp_path):
  root = tmp_path / "generator"
  write(root / "text_encoder", TEXT, arrays_of("clip", TEXT))
  write(root / "text_encoder_2", T5, arrays_of("t5", T5))
  for folder, names in {
    "tokenizer": ("vocab.json", "merges.txt"), "tokenizer_2": ("spiece.model", "other.txt"),
  }.items():  # fmt: skip
    (root / folder).mkdir()
    for name in names:
      (root / folder / name).write_text(folder)
  published.convert(root / "text_encoder", tmp_path / "clip", "clip")
  assert (tmp_path / "clip" / "merges.txt").read_text() == "tokenizer"
  published.convert(root / "text_encoder_2", tmp_path / "t5", "t5")
  assert (tmp_path / "t5" / "spiece.model").read_text() == "tokenizer_2"
  assert not (tmp_path / "t5" / "other.txt").exists()
  # Files in the folder itself come first.
  (root / "text_encoder" / "vocab.json").write_text("own")
  published.convert(root / "text_encoder", tmp_path / "own", "clip")
  assert (tmp_path / "own" / "vocab.json").read_text() == "own"
  assert not (tmp_path / "own" / "merges.txt").exists()
  with pytest.raises(UserError, match="one of its folders: .*/text_encoder, .*/text_encoder_2"):
    published.convert(root, tmp_path / "none", "t5")


def test_weights_under_another_name_are_named(tmp_path):
  folder = write(tmp_path / "a", T5, arrays_of("t5", T5), "model.fp16.safetensors")
  with pytest.raises(UserError, match="it has model.fp16.safetensors, which must have one of"):
    published.convert(folder, tmp_path / "ours", "t5")


def test_a_tower_is_no_kind_to_ask_for(tmp_path):
  with pytest.raises(UserError, match="kind clip_text cannot be imported; give one of t5, clip"):
    published.convert(tmp_path, tmp_path / "ours", "clip_text")


def test_the_defaults_of_a_t5_are_ours():
  fields = KINDS["t5"].read(Config(T5, "c"), ()).fields
  ours = T5Encoder(vocab=20, width=16, layers=2, heads=2, head_dim=8, mlp_dim=24)
  assert T5Encoder(**fields) == ours
