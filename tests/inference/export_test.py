"""Exported runs: folders of converted weights that are loaded like the run they are from."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import shipped
from mg_jax.core.config import build
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.sharding import unbox
from mg_jax.core.tree import fingerprint
from mg_jax.inference.export import export, export_encoder, settle
from mg_jax.inference.load import load_autoencoder, load_codec, load_text_to_video
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.encoders.clip import CLIP
from mg_jax.models.encoders.t5 import T5Encoder
from mg_jax.models.generator import Generator
from mg_jax.models.weights import converted
from mg_jax.train.runs import load_role, pick_step, saved_config
from mg_jax.train.warmstart import WarmStartConfig, fill
from mg_jax.train.workdir import prepare
from tests.inference.conftest import GENERATOR_FIELDS, TAE_FIELDS, save

IDS = jnp.array([[5, 6, 1, 0]])
ROOT = pathlib.Path(__file__).resolve().parents[2]
TOWER = {"width": 8, "layers": 1, "heads": 2, "mlp_dim": 8, "projection": 4}
CLIP_FIELDS = {
  "text": TOWER | {"vocab": 20, "length": 6, "end": 1, "dtype": "float32"},
  "vision": TOWER | {"size": 8, "patch": 4, "dtype": "float32"},
}


@pytest.mark.parametrize("ema", [True, False])
def test_the_text_encoder_of_a_generator_is_exported(tmp_path, weights, ema):
  config = {"stage": "flow_matching", "model": GENERATOR_FIELDS}
  kept = save(tmp_path / "t2v", "model", weights["model"], config, ema=ema)
  written = export_encoder(tmp_path / "t2v", tmp_path / "t5")
  assert written["kind"] == "t5"
  encoder, params = converted.load(tmp_path / "t5")
  assert isinstance(encoder, T5Encoder) and encoder.width == 8
  trained = build(Generator, GENERATOR_FIELDS)
  want = trained.apply(
    {"params": kept}, {"text": {"ids": IDS, "mask": IDS > 0}}, method="encode"
  )["text"]["features"]
  np.testing.assert_array_equal(encoder.apply({"params": params}, IDS, IDS > 0), want)


@pytest.fixture
def contrastive(tmp_path):
  """A contrastive run, its model and its averaged weights."""
  model = build(CLIP, CLIP_FIELDS)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 3)), IDS, IDS > 0)
  rng = np.random.default_rng(0)
  draw = lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), a.dtype)  # noqa: E731
  config = {"stage": "contrastive", "model": CLIP_FIELDS}
  params = jax.tree.map(draw, unbox(shapes["params"]))
  return model, save(tmp_path / "clip", "model", params, config)


def test_a_contrastive_run_is_exported_with_its_averaged_weights(tmp_path, contrastive):
  model, averaged = contrastive
  assert export(tmp_path / "clip", tmp_path / "ours")["kind"] == "clip"
  loaded, params = converted.load(tmp_path / "ours")
  jax.tree.map(np.testing.assert_array_equal, params, averaged)
  want = model.apply({"params": averaged}, IDS, IDS > 0, method="encode_text")
  have = loaded.apply({"params": params}, IDS, IDS > 0, method="encode_text")
  np.testing.assert_array_equal(have.tokens, want.tokens)
  np.testing.assert_array_equal(have.pooled, want.pooled)


def test_an_exported_autoencoder_stands_for_its_run(tmp_path, weights):
  config = {"stage": "autoencoding", "model": TAE_FIELDS}
  save(tmp_path / "tae", "autoencoder", weights["autoencoder"], config)
  assert export(tmp_path / "tae", tmp_path / "out")["kind"] == "autoencoder"
  clip = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
  ours, theirs = (load_autoencoder(tmp_path / name).encode(clip) for name in ("tae", "out"))
  np.testing.assert_allclose(ours, theirs, atol=1e-6)
  role = load_role(tmp_path / "out", "autoencoder")
  assert role.step == 3 and role.config == config
  with pytest.raises(UserError, match="out has converted weights of no model; give a run"):
    load_role(tmp_path / "out", "model")
  with pytest.raises(UserError, match="which have no step 2; leave it out"):
    load_role(tmp_path / "out", "autoencoder", step=2)


def test_an_exported_generator_stands_for_its_run(run, tmp_path):
  written = export(run, tmp_path / "out")
  assert (written["kind"], written["role"], written["step"]) == ("run", "model", 3)
  assert saved_config(tmp_path / "out")["stage"] == "flow_matching"
  assert pick_step(tmp_path / "out") == 3
  ours, theirs = (load_text_to_video(folder) for folder in (tmp_path / "out", run))
  jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
  np.testing.assert_array_equal(ours(["a ball"], seeds=[0]), theirs(["a ball"], seeds=[0]))
  with pytest.raises(UserError, match="out has what a whole run trained, which is no encoder"):
    converted.load(tmp_path / "out")
  with pytest.raises(UserError, match="is a run of flow_matching; give one of autoencoding"):
    load_autoencoder(tmp_path / "out")
  with pytest.raises(UserError, match="no step 2"):
    load_text_to_video(tmp_path / "out", step=2)


def test_an_exported_generator_is_half_as_large_in_bfloat16_and_placed_on_a_mesh(run, tmp_path):
  export(run, tmp_path / "out", dtype="bfloat16")
  small = load_text_to_video(tmp_path / "out")
  assert {leaf.dtype for leaf in jax.tree.leaves(small.params)} == {jnp.dtype(jnp.bfloat16)}
  mesh = make_mesh((1, 8, 1, 1))
  spread = load_text_to_video(tmp_path / "out", mesh=mesh, dtype="float32")
  for leaf, whole in zip(
    jax.tree.leaves(spread.params), jax.tree.leaves(small.params), strict=True
  ):
    assert leaf.dtype == jnp.float32 and leaf.sharding.mesh == mesh
    np.testing.assert_array_equal(leaf, whole.astype(jnp.float32))
  assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(spread.params))


def test_a_warm_start_takes_an_exported_generator(run, tmp_path):
  export(run, tmp_path / "out")
  kept = load_text_to_video(run).params
  blank = {"model": jax.tree.map(jnp.zeros_like, kept)}
  filled, labels = fill(blank, WarmStartConfig(workdir=str(tmp_path / "out")))
  jax.tree.map(np.testing.assert_array_equal, filled["model"], kept)
  assert labels == {"model": str(tmp_path / "out")}


def test_exported_weights_of_another_model_than_their_config_says(run, tmp_path):
  export(run, tmp_path / "out")
  path = tmp_path / "out" / converted.CONFIG
  config = json.loads(path.read_text())
  config["run"]["model"]["dit"]["mlp_dim"] = 16
  path.write_text(json.dumps(config))
  with pytest.raises(UserError, match="the weights in .*out are not those that its config asks"):
    load_text_to_video(tmp_path / "out", mesh=make_mesh((8, 1, 1, 1)))


def test_a_shipped_name_stands_for_a_run_everywhere(run, tmp_path, contrastive, monkeypatch):
  monkeypatch.setattr(shipped, "FOLDER", tmp_path / "package" / "cast")
  shipped.FOLDER.mkdir(parents=True)
  for name in ("tae", "clip", "t2v"):
    export(tmp_path / name, shipped.FOLDER / name)
  assert shipped.names() == ["cast/clip", "cast/t2v", "cast/tae"]
  for folder in ("tae", "clip"):
    shutil.rmtree(tmp_path / folder)
  pipeline = load_text_to_video("cast/t2v", "cast/tae")
  assert pipeline(["a ball"], seeds=[0]).shape == (1, 9, 16, 16, 3)
  assert load_autoencoder("cast/tae").fingerprint == fingerprint(pipeline.autoencoder_params)
  assert load_role("cast/tae", "autoencoder").config["model"] == TAE_FIELDS
  assert settle({"vision": "cast/clip"})["vision"] == "cast/clip"
  assert isinstance(converted.load("cast/clip")[0], CLIP)
  blank = {"model": jax.tree.map(jnp.zeros_like, pipeline.params)}
  filled, _ = fill(blank, WarmStartConfig(workdir="cast/t2v"))
  jax.tree.map(np.testing.assert_array_equal, filled["model"], pipeline.params)
  for name in ("cast/t2v", "cast/mine"):
    with pytest.raises(UserError, match=f"{name} is kept for shipped weights; choose another"):
      prepare(name)
  with pytest.raises(UserError, match="cast/new is kept for shipped weights; name another folder"):
    export(run, "cast/new")
  with (shipped.FOLDER / "t2v" / converted.WEIGHTS).open("r+b") as file:
    file.seek(-1, 2)
    file.write(b"x")
  with pytest.raises(UserError, match="damaged: it is not the file that was shipped"):
    load_text_to_video("cast/t2v", "cast/tae")


def test_a_frozen_encoder_that_moved_along_with_a_run_is_found(tmp_path, contrastive):
  for name in ("first", "second"):
    (tmp_path / name).mkdir()
  (tmp_path / "clip").rename(tmp_path / "second" / "clip")
  config = {"vision": str(tmp_path / "first" / "clip")}
  found = settle(config, tmp_path / "second" / "soundtrack")["vision"]
  assert found == str(tmp_path / "second" / "clip" / "encoder")


def test_an_exported_codec_stands_for_its_run(tmp_path):
  fields = {
    "channels": 2, "rates": [2, 4], "hidden": 4, "decoder_channels": 8, "latent": 3, "patch": 4,
    "sample_rate": 16_000,
  }  # fmt: skip
  model = build(DACVAE, fields)
  params = unbox(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, model.hop)))["params"])
  config = {"stage": "wave_autoencoding", "model": fields}
  save(tmp_path / "codec", "autoencoder", params, config)
  assert export(tmp_path / "codec", tmp_path / "out")["kind"] == "dacvae"
  assert load_codec(tmp_path / "out").fingerprint == load_codec(tmp_path / "codec").fingerprint
  with pytest.raises(UserError, match="is a run of wave_autoencoding; give one of autoencoding"):
    load_autoencoder(tmp_path / "out")


def test_a_run_stands_for_the_encoder_that_it_trained(tmp_path, contrastive):
  model, averaged = contrastive
  text = {"a": {"encoder": str(tmp_path / "clip")}, "b": {"encoder": ""}}
  settled = settle({"text": text, "vision": str(tmp_path / "clip")})
  folder = str(tmp_path / "clip" / "encoder")
  assert settled == {"text": {"a": {"encoder": folder}, "b": {"encoder": ""}}, "vision": folder}
  jax.tree.map(np.testing.assert_array_equal, converted.load(folder)[1], averaged)
  before = converted.digest(folder)
  # A run that goes on does not change what others learned from it.
  other = jax.tree.map(lambda a: a + 1, averaged)
  save(tmp_path / "clip", "model", other, {"stage": "contrastive", "model": CLIP_FIELDS}, step=9)
  assert settle({"vision": str(tmp_path / "clip")})["vision"] == folder
  assert converted.digest(folder) == before
  assert settle({"vision": folder})["vision"] == folder
  assert settle({"vision": "nowhere"})["vision"] == "nowhere", "the tower says what is missing"


@pytest.mark.slow
def test_the_command_exports_a_run(tmp_path, contrastive):
  command = [
    sys.executable, "launch/convert.py", "--kind=run", f"--from={tmp_path / 'clip'}",
    f"--to={tmp_path / 'ours'}", "--dtype=bfloat16",
  ]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0 and "clip in bfloat16" in done.stdout, done.stderr
  assert converted.load(tmp_path / "ours")[1]["vision"]["class"].dtype == jnp.bfloat16
  again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert again.returncode == 2 and "exists already" in again.stderr


def test_runs_without_an_encoder_to_export_are_named(tmp_path, weights):
  for name, encoders, words in (
    ("none", {}, "trained 0 text encoders"),
    ("two", {"byt5": {"kind": "t5"}, "ul2": {"kind": "t5"}}, "trained 2 text encoders"),
  ):
    config = {"stage": "flow_matching", "model": GENERATOR_FIELDS | {"encoders": encoders}}
    save(tmp_path / name, "model", weights["model"], config)
    with pytest.raises(UserError, match=words):
      export_encoder(tmp_path / name, tmp_path / "out")
  save(tmp_path / "other", "model", weights["model"], {"stage": "dreaming"})
  with pytest.raises(UserError, match="is a run of dreaming; give one of autoencoding,"):
    export(tmp_path / "other", tmp_path / "out")
  assert not (tmp_path / "out").exists()
