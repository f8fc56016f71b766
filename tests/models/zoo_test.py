"""Named sizes: parameter counts by shape inference, and the golden dump of every parameter."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.core.sharding import spec_table, unbox
from mg_jax.core.tree import count_params, flatten_paths
from mg_jax.data.text import prompts as tokens
from mg_jax.models import zoo
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.dit import VideoDiT
from mg_jax.models.encoders.clip import CLIP
from mg_jax.models.encoders.t5 import T5Encoder
from mg_jax.models.generator import Generator

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


def abstract_params(name):
  """Boxed parameters of a named generator, without allocating any."""
  model = config.build(Generator, zoo.generator(name))
  channels = 16
  struct = jax.ShapeDtypeStruct
  cond = {}
  for stream, routes in model.routes().items():
    entry = {"mask": struct((1, 4), jnp.bool_)}
    if stream in model.encoders:
      entry["ids"] = struct((1, 4), jnp.int32)
    else:
      entry["features"] = struct((1, 4, routes[0].features), jnp.float32)
    cond[stream] = entry
  x = struct((1, 1, 4, 4, channels), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), x, struct((1,), jnp.float32), cond)["params"]


@pytest.mark.parametrize("name, billions", [("30b", 28.99), ("5b", 4.83)])
def test_block_parameters_match_the_paper(name, billions):
  params = unbox(abstract_params(name))
  assert round(zoo.block_parameters(params) / 1e9, 2) == billions


def test_the_30b_model_around_its_blocks():
  flat = flatten_paths(unbox(abstract_params("30b")))
  shared = sum(count_params(v) for k, v in flat.items() if "transformer/modulation" in k)
  text = sum(count_params(v) for k, v in flat.items() if k.endswith("cross/linear/kernel"))
  assert round(shared / 1e9, 2) == 0.23
  assert round(text / 1e6) == 42
  assert round(count_params(flat) / 1e9, 1) == 29.3


@pytest.mark.parametrize("name, billions", [("1b", 0.9), ("7b", 7.1), ("9b", 9.4), ("17b", 16.9)])
def test_sizes_by_the_rule_of_the_family(name, billions):
  params = unbox(abstract_params(name))
  assert round(zoo.block_parameters(params) / 1e9, 1) == billions


def abstract_soundtrack(name):
  """Boxed parameters of a named model of soundtracks, without allocating any."""
  model = config.build(Generator, zoo.soundtrack(name))
  struct, routes = jax.ShapeDtypeStruct, model.routes()
  mask = struct((1, 4), jnp.bool_)
  if model.encoders:
    text = {"ids": struct((1, 4), jnp.int32), "mask": mask}
    image = struct((1, 2, 32, 32, 3), jnp.uint8)
    video = {"image": image, "at": struct((1, 4), jnp.int32), "mask": mask}
  else:
    features = struct((1, 4, routes["text"][0].features), jnp.float32)
    text = {"features": features, "mask": mask}
    video = struct((1, 4, routes["video"][0].features), jnp.float16)
  x = struct((1, 4, 1, 1, routes["context"][0].features), jnp.float32)
  cond = {"text": text, "video": video, "context": x}
  return jax.eval_shape(model.init, jax.random.key(0), x, struct((1,), jnp.float32), cond)["params"]


@pytest.mark.parametrize(
  "name, billions", [("300m", 0.31), ("1b", 1.06), ("3b", 3.17), ("9b", 9.16), ("13b", 12.23)]
)
def test_sizes_of_models_of_soundtracks(name, billions):
  """[MG 6.2] 36 layers of 4 D^2 + 4 D^2 + 2 D 18432 are 12.23 B."""
  assert 36 * (8 * 4608**2 + 2 * 4608 * 18432) == pytest.approx(12.23e9, rel=1e-3)
  params = unbox(abstract_soundtrack(name))
  assert round(zoo.block_parameters(params) / 1e9, 2) == billions


def test_a_model_of_soundtracks_reads_what_the_paper_gives_it():
  flat = flatten_paths(unbox(abstract_soundtrack("13b")))
  shapes = {k: v.shape for k, v in flat.items() if "conditioner" in k and v.ndim == 2}
  assert sorted(shapes.values()) == [(128, 4608), (768, 4608), (1024, 4608)]
  assert flat["dit/patch/kernel"].shape == (128, 4608)
  assert 2e6 < count_params(unbox(abstract_soundtrack("tiny"))) < 5e6
  with pytest.raises(UserError, match="tiny, 300m"):
    zoo.soundtrack("14b")


def abstract_text(name):
  """Boxed parameters of a published text encoder."""
  model = config.build(T5Encoder, zoo.text_encoder(name))
  ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 4), jnp.bool_)
  return jax.eval_shape(model.init, jax.random.key(0), ids, mask)["params"]


# Encoder parameters of the published checkpoints, the embedding included.
@pytest.mark.parametrize(
  "name, millions",
  [("t5-base", 109.6), ("t5-v1_1-xxl", 4762.3), ("ul2", 8721.8), ("byt5-small", 217.7)],
)
def test_published_text_encoders(name, millions):
  assert count_params(unbox(abstract_text(name))) / 1e6 == pytest.approx(millions, abs=0.06)
  with pytest.raises(UserError, match="ul2"):
    zoo.text_encoder("ul3")


def abstract_clip(name):
  """Boxed parameters of a published CLIP."""
  model = config.build(CLIP, zoo.clip(name))
  size = model.vision.size
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  ids, mask = (jax.ShapeDtypeStruct((1, 4), kind) for kind in (jnp.int32, jnp.bool_))
  return jax.eval_shape(model.init, jax.random.key(0), image, ids, mask)["params"]


# Parameters of the published checkpoints, both towers together.
@pytest.mark.parametrize(
  "name, millions",
  [("b32", 151.3), ("b16", 149.6), ("l14", 427.6), ("h14", 986.1), ("g14", 2539.6)],
)
def test_published_clips(name, millions):
  assert count_params(unbox(abstract_clip(name))) / 1e6 == pytest.approx(millions, abs=0.06)
  with pytest.raises(UserError, match="g14"):
    zoo.clip("z14")


def abstract_autoencoder(name, temporal=True):
  """Boxed parameters of a published image autoencoder, inflated or as it is."""
  model = config.build(TAE, zoo.autoencoder(name) | {"temporal": temporal})
  frame = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), frame)["params"]


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_published_autoencoders(name):
  image = unbox(abstract_autoencoder(name, temporal=False))
  assert count_params(image) == 83_819_683
  with pytest.raises(UserError, match="flux"):
    zoo.autoencoder("sd1")


def test_the_temporal_autoencoder_is_the_published_one_inflated():
  assert config.build(TAE, zoo.autoencoder("sd3") | {"temporal": True}) == TAE(dtype="float32")


def abstract_codec(name):
  """Boxed parameters of a codec."""
  model = config.build(DACVAE, zoo.codec(name))
  wave = jax.ShapeDtypeStruct((1, model.hop), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), wave)["params"]


def test_codecs_have_25_latents_a_second():
  assert config.build(DACVAE, zoo.codec("dacvae")) == DACVAE(dtype="float32")
  # The 107,671,171 published ones without the watermark and with every norm folded in.
  assert count_params(unbox(abstract_codec("dacvae"))) == 92_972_193
  assert count_params(unbox(abstract_codec("tiny"))) < 2e6
  for name in ("dacvae", "tiny"):
    assert config.build(DACVAE, zoo.codec(name)).latent_rate == 25
  with pytest.raises(UserError, match="dacvae, tiny"):
    zoo.codec("encodec")


def test_tiny_is_tiny():
  assert 3e6 < count_params(unbox(abstract_params("tiny"))) < 6e6


def test_the_tiny_clip_reads_bytes():
  fields = zoo.clip("tiny")
  assert (fields["text"]["vocab"], fields["text"]["end"]) == (tokens.VOCABULARY, tokens.EOS)
  assert fields["text"]["projection"] == fields["vision"]["projection"]
  assert 0.5e6 < count_params(unbox(abstract_clip("tiny"))) < 2e6


def test_an_unknown_name_is_a_user_error():
  with pytest.raises(UserError, match="30b"):
    zoo.generator("31b")


def test_fields_are_fresh():
  zoo.generator("tiny")["dit"]["width"] = 1
  assert zoo.generator("tiny")["dit"]["width"] == 256


@pytest.mark.parametrize("name", ["30b", "tiny"])
def test_every_field_can_be_set_by_a_flag(name):
  fields = ConfigDict(zoo.generator(name))
  fields.dit.update(remat="full", unroll=2, patch=(1, 1, 1), max_thw=(8, 8, 8))
  dit = config.build(VideoDiT, fields.dit)
  assert (dit.remat, dit.unroll, dit.patch, dit.max_thw) == ("full", 2, (1, 1, 1), (8, 8, 8))


@pytest.mark.parametrize(
  "name",
  [
    "dit_30b", "dit_5b", "dit_tiny", "text_ul2", "clip_g14", "tae_sd3", "codec_dacvae",
    "soundtrack_13b",
  ],
)
def test_golden_dump(name):
  """Path, shape, dtype and sharding of every parameter; a change here breaks checkpoints."""
  path = GOLDENS / f"{name}.txt"
  family, size = name.split("_", 1)
  make = {
    "dit": abstract_params, "text": abstract_text, "clip": abstract_clip,
    "tae": abstract_autoencoder, "codec": abstract_codec,
    "soundtrack": abstract_soundtrack,
  }[family]  # fmt: skip
  text = "\n".join(spec_table(make(size))) + "\n"
  if os.environ.get("MG_UPDATE_GOLDENS") == "1":
    path.write_text(text)
  assert text == path.read_text(), (
    f"the parameters of {name!r} changed: checkpoints made before will not load. If that is meant, "
    f"run MG_UPDATE_GOLDENS=1 pytest {Path(__file__).name} and commit {path.name}."
  )
