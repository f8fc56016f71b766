"""Converting checkpoints: every array finds its place, and what is wrong with a folder is told."""

import json
import logging
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.data import tensors
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.encoders.t5 import T5Encoder
from mg_jax.models.weights import converted, hub, published
from mg_jax.models.weights.kinds import Config
from mg_jax.models.weights.layouts import KINDS

T5 = {
  "vocab_size": 20, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 24,
  "feed_forward_proj": "gated-gelu",
}  # fmt: skip
CLIP = {
  "projection_dim": 8,
  "text_config": {
    "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 9, "eos_token_id": 2,
  },
  "vision_config": {
    "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20,
    "image_size": 16, "patch_size": 8,
  },
}  # fmt: skip

AUTOENCODER = {
  "_class_name": "AutoencoderKL", "block_out_channels": [8, 16], "layers_per_block": 1,
  "latent_channels": 4, "norm_num_groups": 4, "scaling_factor": 0.3611, "shift_factor": 0.1159,
  "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
  "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip


def _arrays(kind, config):
  """Random arrays under the published names, in the published shapes."""
  layout = KINDS[kind].read(Config(config, "config"), ())
  fields, shapes = layout.fields, converted.shapes_of(KINDS[kind], layout.fields)
  rng, out = np.random.default_rng(0), {}
  for path, place in layout.places.items():
    shape = shapes[path][1:] if place.stacked else shapes[path]
    if path == "vision/patch_embed/kernel":
      shape = (fields["vision"]["width"], 3, *[fields["vision"]["patch"]] * 2)
    elif path.endswith("kernel"):
      shape = shape[::-1] + ((1, 1) if path.endswith("shortcut/kernel") else ())
    for name in place.names:
      out[name] = rng.standard_normal(shape).astype(np.float32)
  return out


def _save(path, arrays):
  shapes = {name: (a.shape, a.dtype) for name, a in arrays.items()}
  tensors.write(path, shapes, [(name, [a]) for name, a in arrays.items()])


@pytest.fixture
def t5(tmp_path):
  """A folder as transformers saves a T5 in two shards, and its arrays."""
  folder, arrays = tmp_path / "t5", _arrays("t5", T5)
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(T5))
  (folder / "spiece.model").write_bytes(b"words")
  names = sorted(arrays)
  shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
  for shard, part in shards.items():
    _save(folder / shard, {name: arrays[name] for name in part})
  where = {name: shard for shard, part in shards.items() for name in part}
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
  return folder, arrays


def test_every_array_finds_its_place(t5, tmp_path):
  folder, arrays = t5
  published.convert(folder, tmp_path / "ours", "t5")
  assert (tmp_path / "ours" / "spiece.model").read_bytes() == b"words"
  model, params = converted.load(tmp_path / "ours")
  assert model == T5Encoder(
    vocab=20, width=16, layers=2, heads=2, head_dim=8, mlp_dim=24, dtype="float32"
  )
  np.testing.assert_array_equal(params["embed"], arrays["shared.weight"])
  for layer in range(2):
    theirs = arrays[f"encoder.block.{layer}.layer.1.DenseReluDense.wi_0.weight"]
    np.testing.assert_array_equal(params["layers"]["gate"]["kernel"][layer], theirs.T)
  ids = jnp.array([[3, 4, 1]])
  assert np.isfinite(model.apply({"params": params}, ids, ids > 0)).all()


def test_both_towers_of_a_clip_load(tmp_path):
  folder, arrays = tmp_path / "clip", _arrays("clip", CLIP)
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(CLIP))
  _save(folder / "model.safetensors", arrays)
  published.convert(folder, tmp_path / "ours", "clip", dtype="bfloat16")
  model, params = converted.load(tmp_path / "ours", dtype="float32")
  assert (model.text.end, model.text.projection, model.vision.patch) == (19, 8, 8)
  image, ids = jnp.zeros((1, 16, 16, 3)), jnp.array([[3, 19]])
  assert model.apply({"params": params}, image, ids, ids > 0).shape == (1, 1)
  assert converted.load(tmp_path / "ours")[1]["vision"]["class"].dtype == jnp.bfloat16


@pytest.fixture
def autoencoder(tmp_path):
  """A folder as diffusers saves an autoencoder, and its arrays."""
  folder, arrays = tmp_path / "vae", _arrays("autoencoder", AUTOENCODER)
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(AUTOENCODER))
  _save(folder / "diffusion_pytorch_model.safetensors", arrays)
  return folder, arrays


def test_an_autoencoder_loads_and_keeps_its_scale_as_a_fact(autoencoder, tmp_path):
  folder, arrays = autoencoder
  described = published.convert(folder, tmp_path / "ours", "autoencoder")
  assert json.loads((tmp_path / "ours" / "config.json").read_text()) == described
  assert (described["scaling"], described["shift"]) == (0.3611, 0.1159)
  model, params = converted.load(tmp_path / "ours")
  assert model == TAE(
    channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4, temporal=False, dtype="float32"
  )
  for ours, theirs in (("encoder_in", "encoder.conv_in"), ("decoder_out", "decoder.conv_out")):
    kernel = arrays[f"{theirs}.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params[ours]["spatial"]["kernel"], kernel)
  wide = arrays["encoder.down_blocks.1.resnets.0.conv_shortcut.weight"]
  np.testing.assert_array_equal(
    params["encoder_blocks_1_0"]["shortcut"]["kernel"], wide[:, :, 0, 0].T
  )
  # Latents are the network's own: nothing is scaled or shifted.
  video = jnp.ones((1, 3, 4, 4, 3))
  encode = lambda p: model.apply({"params": p}, video, method="encode")[0]  # noqa: E731
  other = tmp_path / "other"
  config = {k: v for k, v in AUTOENCODER.items() if k not in ("scaling_factor", "shift_factor")}
  (folder / "config.json").write_text(json.dumps(config | {"shift_factor": None}))
  facts = published.convert(folder, other, "autoencoder")
  assert (facts["scaling"], facts["shift"]) == (0.18215, 0.0)
  np.testing.assert_array_equal(encode(converted.load(other)[1]), encode(params))


@pytest.mark.parametrize(
  "change, message",
  [
    ({"_class_name": "AutoencoderKLWan"}, "class 'AutoencoderKLWan'; give the folder of an Auto"),
    ({"_class_name": None}, "class None"),
    ({"use_quant_conv": True}, "has use_quant_conv, as older autoencoders of 4 channels do"),
    ({"layers_per_block": 2}, "of another shape"),
    ({"in_channels": 4}, "in_channels 4, of which only 3 is supported"),
    ({"act_fn": "relu"}, "act_fn 'relu', of which only 'silu' is supported"),
    ({"latents_mean": [0.1]}, r"latents_mean \[0.1\], of which only none is supported"),
    ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "with one DownEncoderBlock2D for each"),
    ({"block_out_channels": [8, 12]}, "of another shape"),
    ({"block_out_channels": [0, 12]}, "not a config of kind autoencoder"),
    ({"block_out_channels": [8, 16, 16]}, r"for block_out_channels \[8, 16, 16\]; give a che"),
    ({"block_out_channels": ["8", "16"]}, "not a config of kind autoencoder"),
    ({"layers_per_block": 1.5}, "not a config of kind autoencoder"),
    ({"latent_channels": 16}, "of another shape, first wrong shape: encoder.conv_out"),
    ({"norm_num_groups": 3}, "3 groups do not divide 8 channels"),
    ({"block_out_channels": [16, 16]}, "of another shape"),
  ],
)
def test_autoencoders_that_do_not_fit_are_refused(autoencoder, tmp_path, change, message):
  folder, _ = autoencoder
  (folder / "config.json").write_text(json.dumps(AUTOENCODER | change))
  with pytest.raises(UserError, match=message):
    published.convert(folder, tmp_path / "ours", "autoencoder")
  assert [path.name for path in tmp_path.iterdir()] == ["vae"]


def test_an_autoencoder_that_leaves_quantisation_unsaid_has_it(autoencoder, tmp_path):
  folder, _ = autoencoder
  for name in ("use_quant_conv", "use_post_quant_conv"):
    config = {k: v for k, v in AUTOENCODER.items() if k != name}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"has {name}"):
      published.convert(folder, tmp_path / "ours", "autoencoder")


def test_a_folder_inside_a_repository_is_fetched_alone(autoencoder, monkeypatch):
  asked = []
  text = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json"]
  files = [
    "model_index.json", "unet/config.json", "tokenizer/vocab.json", "tokenizer_2/spiece.model",
    "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    "vae/config.json", "vae/diffusion_pytorch_model.bin", "text_encoder_2/model.fp16.safetensors",
    "text_encoder_2/pytorch_model.bin", *(f"text_encoder_2/{name}" for name in text),
  ]  # fmt: skip

  def download(name, *, allow_patterns):
    asked.append((name, sorted(allow_patterns)))
    return str(autoencoder[0].parent)

  fake = types.SimpleNamespace(snapshot_download=download, list_repo_files=lambda name: files)
  monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
  assert hub.fetch("owner/name.1/vae") == autoencoder[0]
  hub.fetch("owner/name.1/text_encoder_2")
  vae = ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
  both = sorted(f"text_encoder_2/{name}" for name in text) + ["tokenizer_2/spiece.model"]
  assert asked == [("owner/name.1", vae), ("owner/name.1", both)]
  with pytest.raises(UserError, match="give one of its folders: owner/name.1/text_encoder_2, own"):
    hub.fetch("owner/name.1")
  files[:] = ["config.json", "tokenizer_config.json", "pytorch_model.bin", "tf_model.h5"]
  hub.fetch("owner/byte_t5")
  assert asked[-1][1] == ["config.json", "pytorch_model.bin", "tokenizer_config.json"]


def test_weights_spread_over_a_mesh(t5, tmp_path):
  published.convert(t5[0], tmp_path / "ours", "t5")
  mesh = make_mesh((1, 4, 1, 2))
  _, params = converted.load(tmp_path / "ours", mesh=mesh)
  kernel = params["layers"]["up"]["kernel"]
  assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 4, 12)}
  one = converted.load(tmp_path / "ours")[1]
  jax.tree.map(np.testing.assert_array_equal, params, one)


def _no_config(folder):
  (folder / "config.json").unlink()


def _foreign_config(folder):
  (folder / "config.json").write_text('{"hidden_size": 4}')


def _broken_config(folder):
  (folder / "config.json").write_text("{")


def _no_network(folder):
  (folder / "config.json").write_text(json.dumps(T5 | {"d_model": "wide"}))


def _other_width(folder):
  (folder / "config.json").write_text(json.dumps(T5 | {"d_model": 24}))


def _lost_shard(folder):
  (folder / "model-2.safetensors").unlink()


def _short_index(folder):
  index = {"weight_map": {"x": "model-1.safetensors"}}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _cut_shard(folder):
  shard = folder / "model-2.safetensors"
  shard.write_bytes(shard.read_bytes()[:-5])


def _doubled(folder):
  first = (folder / "model-1.safetensors").read_bytes()
  (folder / "model-2.safetensors").write_bytes(first)


def _not_a_number(folder):
  name = "encoder.block.1.layer.0.SelfAttention.q.weight"
  for shard in folder.glob("*.safetensors"):
    file = tensors.TensorFile(shard)
    arrays = {n: file.read(n) for n in file}
    if name in arrays:
      arrays[name][0, 0] = np.nan
      _save(shard, arrays)


def _pickle(folder):
  (folder / "model-1.safetensors").write_bytes(b"\x80\x04\x95" + bytes(40))


def _no_weights(folder):
  for path in folder.glob("model*"):
    path.unlink()


@pytest.mark.parametrize(
  "damage, message",
  [
    (_no_config, "has no config.json"),
    (_foreign_config, "is not a config of kind t5"),
    (_broken_config, "is not valid JSON|is not a JSON object"),
    (_no_network, "width"),
    (_other_width, "of another shape"),
    (_lost_shard, "lacks model-2.safetensors"),
    (_short_index, "arrays are missing"),
    (_cut_shard, "fetch it again"),
    (_doubled, "another shard has too"),
    (_not_a_number, "SelfAttention.q.weight holds values that are not finite"),
    (_pickle, "truncated or not a safetensors"),
    (_no_weights, "has none of model.safetensors"),
  ],
)
def test_what_is_wrong_with_a_folder_is_told_and_nothing_is_left(t5, tmp_path, damage, message):
  damage(t5[0])
  with pytest.raises(UserError, match=message):
    published.convert(t5[0], tmp_path / "ours", "t5")
  assert [path.name for path in tmp_path.iterdir()] == ["t5"]


def test_each_array_that_does_not_fit_has_a_line(t5, tmp_path, caplog):
  folder, arrays = t5
  for path in folder.glob("model*"):
    path.unlink()
  del arrays["encoder.final_layer_norm.weight"]
  arrays["shared.weight"] = arrays["shared.weight"][:, :3]
  arrays |= {"decoder.x": np.zeros(1, np.float32), "extra": np.zeros((2, 5), np.float32)}
  _save(folder / "model.safetensors", arrays)
  with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="3 arrays"):
    published.convert(folder, tmp_path / "ours", "t5")
  assert [record.message for record in caplog.records] == [
    "wrong shape: shared.weight (20, 3), for embed (20, 16)",
    "missing: encoder.final_layer_norm.weight, for final_norm/scale (16,)",
    "unexpected: extra (2, 5)",
  ]


def test_values_beyond_the_range_of_a_type_are_refused(t5, tmp_path):
  folder, arrays = t5
  for path in folder.glob("model*"):
    path.unlink()
  arrays["shared.weight"][0, 0] = 1e5
  _save(folder / "model.safetensors", arrays)
  with pytest.raises(UserError, match="does not fit float16; use bfloat16"):
    published.convert(folder, tmp_path / "ours", "t5", dtype="float16")


def test_folders_that_are_in_the_way_or_not_ours(t5, tmp_path):
  with pytest.raises(UserError, match="exists already"):
    published.convert(t5[0], t5[0], "t5")
  with pytest.raises(UserError, match="no converted weights"):
    converted.load(t5[0])
  with pytest.raises(UserError, match="no such folder"):
    published.convert(tmp_path / "none", tmp_path / "ours", "t5")
  with pytest.raises(UserError, match="OWNER/NAME"):
    hub.fetch(str(tmp_path / "none"))
  published.convert(t5[0], tmp_path / "ours", "t5")
  described = json.loads((tmp_path / "ours" / "config.json").read_text())
  described["model"]["width"] = 32
  (tmp_path / "ours" / "config.json").write_text(json.dumps(described))
  with pytest.raises(UserError, match="does not match its config"):
    converted.load(tmp_path / "ours")


def _trained(awaken, dtype="bfloat16"):
  """A CLIP of ours with its fields as a run's config has them."""
  tower = {"width": 16, "layers": 2, "heads": 2, "mlp_dim": 24, "projection": 8, "dtype": dtype}
  text, vision = {"vocab": 20, "length": 9, "end": 1}, {"size": 16, "patch": 8}
  fields = {"text": tower | text, "vision": tower | vision}
  family = KINDS["clip"]
  return fields, awaken(converted._abstract(family, fields))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0), ("bfloat16", 2**-8)])
def test_what_is_saved_loads_as_it_was(awaken, tmp_path, dtype, tolerance):
  fields, params = _trained(awaken)
  written = published.save(tmp_path / "ours", "clip", fields, params, dtype=dtype)
  assert json.loads((tmp_path / "ours" / "config.json").read_text()) == written
  assert written["dtype"] == dtype and "dtype" not in written["model"]["text"]
  model, loaded = converted.load(tmp_path / "ours")
  assert (model.text.end, model.vision.size, model.text.dtype) == (1, 16, dtype)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(np.float32(b), a, rtol=tolerance), params, loaded
  )


def test_converted_weights_survive_saving_again(t5, tmp_path):
  written = published.convert(t5[0], tmp_path / "ours", "t5")
  params = converted.load(tmp_path / "ours")[1]
  assert published.save(tmp_path / "again", "t5", written["model"], params) == written
  for name in ("weights.safetensors", "config.json"):
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()


def test_what_cannot_be_saved_leaves_nothing(awaken, tmp_path):
  fields, params = _trained(awaken)
  hole = params | {"logit_scale": jnp.float32(np.nan)}
  large = params | {"logit_scale": jnp.float32(1e6)}
  part = {name: leaf for name, leaf in params.items() if name != "logit_scale"}
  for wrong, dtype, message in (
    (hole, "float32", "logit_scale holds values that are not finite"),
    (large, "float16", "logit_scale does not fit float16"),
    (part, "float32", "are not those of the clip its fields describe"),
    (params, "float64", "dtype 'float64' is unknown"),
  ):
    with pytest.raises(UserError, match=message):
      published.save(tmp_path / "ours", "clip", fields, wrong, dtype=dtype)
  assert not list(tmp_path.iterdir())
  (tmp_path / "ours").mkdir()
  with pytest.raises(UserError, match="exists already"):
    published.save(tmp_path / "ours", "clip", fields, params)


CODEC = {
  "encoder_dim": 2, "encoder_rates": [2, 4], "latent_dim": 6, "decoder_dim": 8,
  "decoder_rates": [4, 2], "codebook_dim": 3, "n_codebooks": 16,
}  # fmt: skip


def _codec_shapes(config):
  """Names and shapes of a published codec of these fields, as far as ours needs them."""
  layout = KINDS["dacvae"].read(Config(config, "config"), ())
  ours = converted.shapes_of(KINDS["dacvae"], layout.fields)
  shapes = {}
  for path, place in layout.places.items():
    (name,) = place.names
    if name.endswith(".alpha"):
      shapes[name] = (1, *ours[path], 1)
    elif name.endswith(".bias"):
      shapes[name] = ours[path]
    else:
      kernel = ours[path]
      if len(kernel) == 3:
        shape = kernel[::-1]
      elif "decoder" in path:
        shape = kernel[0], kernel[3], 2 * kernel[2]
      else:
        shape = kernel[3], kernel[1], 2 * kernel[0]
      shapes |= {f"{name}_v": shape, f"{name}_g": (shape[0], 1, 1)}
  return shapes


@pytest.fixture
def codec(tmp_path):
  """A folder with a codec whose kernels are kept as norm and direction, and its arrays."""
  rng, folder = np.random.default_rng(0), tmp_path / "codec"
  # Small, so that the signal does not grow to where a sine in float32 means nothing.
  arrays = {n: rng.uniform(0.1, 0.2, s).astype(np.float32) for n, s in _codec_shapes(CODEC).items()}
  arrays |= {"decoder.model.1.block.11.bias": np.ones(2, np.float32)}
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(CODEC))
  _save(folder / "model.safetensors", arrays)
  return folder, arrays


def test_a_codec_loads_with_its_norms_folded_in(codec, tmp_path, caplog):
  folder, arrays = codec
  with caplog.at_level(logging.INFO):
    published.convert(folder, tmp_path / "ours", "dacvae")
  assert "ignored as not needed: 1 arrays, first decoder.model.1.block.11.bias" in caplog.messages
  assert not [r for r in caplog.records if r.levelno > logging.INFO]
  model, params = converted.load(tmp_path / "ours")
  assert model == DACVAE(
    channels=2, rates=(2, 4), hidden=6, decoder_channels=8, latent=3, dtype="float32"
  )
  kernel = np.asarray(params["decoder_levels_0"]["resample"]["kernel"])
  direction = arrays["decoder.model.1.block.1.weight_v"]
  norm = np.sqrt((direction**2).sum((1, 2)))
  wanted = direction[3, 1, 4 + 2] / norm[3] * arrays["decoder.model.1.block.1.weight_g"][3, 0, 0]
  # Tap 6 of a kernel of two strides of 4 is the third of the second.
  np.testing.assert_allclose(kernel[3, 1, 2, 1], wanted, rtol=1e-6)
  out = converted.load(tmp_path / "ours")[0].apply({"params": params}, jnp.ones((1, 9)))[0]
  assert np.isfinite(out).all()


def test_codecs_that_do_not_fit_are_refused(codec, tmp_path):
  folder, arrays = codec
  config = folder / "config.json"
  for change, message in (
    ({"decoder_rates": [2, 4]}, r"decoder_rates \[2, 4\], of which only the encoder_rates"),
    ({"codebook_dim": 4}, "of another shape, first wrong shape: quantizer.in_proj.weight"),
    ({"encoder_rates": [2, 3], "decoder_rates": [3, 2]}, "give even ones"),
    ({"encoder_rates": "two"}, "not a config of kind dacvae|only the encoder_rates"),
  ):
    config.write_text(json.dumps(CODEC | change))
    with pytest.raises(UserError, match=message):
      published.convert(folder, tmp_path / "ours", "dacvae")
  config.write_text(json.dumps(CODEC))
  zero = arrays | {"quantizer.in_proj.weight_v": arrays["quantizer.in_proj.weight_v"] * 0}
  _save(folder / "model.safetensors", zero)
  with pytest.raises(UserError, match="quantizer.in_proj.weight holds values that are not finite"):
    published.convert(folder, tmp_path / "ours", "dacvae")
  del zero["quantizer.in_proj.weight_v"]
  _save(folder / "model.safetensors", zero)
  with pytest.raises(UserError, match="missing: quantizer.in_proj.weight, for posterior/kernel"):
    published.convert(folder, tmp_path / "ours", "dacvae")
  assert not (tmp_path / "ours").exists()


def test_the_published_codec_has_these_names_and_shapes(media):
  listed = json.loads((media / "golden" / "dacvae_full_state_dict_shapes.json").read_text())
  theirs = {name: tuple(shape) for name, shape in listed.items()}
  ours = _codec_shapes({})
  assert ours == {name: theirs.get(name) for name in ours}
  left = set(theirs) - set(ours)
  ignored = KINDS["dacvae"].read(Config({}, "config"), ()).ignored
  assert all(any(re.match(pattern, name) for pattern in ignored) for name in left)
  plain = [name for name in ours if not name.startswith("decoder.wm_model.")]
  assert not any(re.match(pattern, name) for pattern in ignored for name in plain)
  assert (len(theirs), len(left)) == (317, 73)
