import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.config import build
from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.core.tree import fingerprint
from mg_jax.data.media.video import probe, write_video
from mg_jax.inference.export import export, settle
from mg_jax.inference.load import load_autoencoder, load_codec, load_text_to_video
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.codecs.tiling import Tiling
from mg_jax.models.encoders.clip import CLIP
from mg_jax.models.encoders.t5 import T5Encoder
from mg_jax.models.generator import Generator
from mg_jax.models.weights import published
from mg_jax.train.averaging import average
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.runs import load_role

TAE_FIELDS = {
  "channels": 4, "multipliers": [1, 1], "patch": [4, 4, 4], "blocks": 1, "latent": 4, "groups": 2,
  "attention": False,
}
GENERATOR_FIELDS = {
  "dit": {
    "channels": 4, "patch": [1, 1, 1], "width": 8, "layers": 1, "heads": 1, "mlp_dim": 8,
    "max_thw": [2, 3, 3], "routes": {"text": {"kind": "cross", "features": 8}},
  },
  "encoders": {
    "text": {"kind": "t5", "width": 8, "layers": 1, "heads": 1, "head_dim": 8, "mlp_dim": 8}
  },
}
SAMPLING = {"frames": 9, "height": 16, "width": 16, "fps": 8.0, "steps": 2, "guidance": 2.0}
ROOT = pathlib.Path(__file__).resolve().parents[2]


def _save(folder, role, params, config, step=3, ema=True):
  saver = Checkpointer(str(folder))
  averaged = jax.tree.map(lambda a: a + 0.01, params)
  state = {"params": {role: params}} | ({"ema": {role: averaged}} if ema else {})
  saver.save(step, state, data={}, config=config)
  saver.close()
  return averaged if ema else params


@pytest.fixture(scope="module")
def weights():
  tae, model = build(TAE, TAE_FIELDS), build(Generator, GENERATOR_FIELDS)
  text = {"ids": jnp.zeros((1, 16), jnp.int32), "mask": jnp.ones((1, 16), bool)}
  key, rng = jax.random.key(0), np.random.default_rng(0)
  # Shapes alone: running the initialisers would take most of the time of this file.
  shapes = {
    "autoencoder": jax.eval_shape(tae.init, key, jnp.zeros((1, 1, 8, 8, 3))),
    "model": jax.eval_shape(
      model.init, key, jnp.zeros((1, 1, 1, 1, 4)), jnp.zeros((1,)), {"text": text}
    ),
  }
  draw = lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype)  # noqa: E731
  return {role: jax.tree.map(draw, unbox(tree["params"])) for role, tree in shapes.items()}


@pytest.fixture
def run(tmp_path, weights):
  """A text-to-video run and the run of its autoencoder, as training leaves them."""
  tae_folder, folder = tmp_path / "tae", tmp_path / "t2v"
  tae_params = _save(tae_folder, "autoencoder", weights["autoencoder"], {"model": TAE_FIELDS})
  config = {
    "model": GENERATOR_FIELDS, "autoencoder": str(tae_folder), "sampling": SAMPLING,
    "text": {"text": {"length": 16}},
  }
  _save(folder, "model", weights["model"], config)
  (folder / "latents").mkdir()
  metadata = {
    "mean": [0.1, 0.2, 0.3, 0.4], "std": [1.0, 2.0, 3.0, 4.0], "autoencoder": str(tae_folder),
    "fingerprint": fingerprint(tae_params),
  }
  (folder / "latents" / "manifest.json").write_text(json.dumps({"metadata": metadata}))
  return folder


def test_an_average_of_runs_is_loaded_like_a_run(run, tmp_path):
  average([f"{run}:3", str(run)], tmp_path / "mean")
  pipeline, mean = (load_text_to_video(folder) for folder in (run, tmp_path / "mean"))
  jax.tree.map(np.testing.assert_array_equal, mean.params, pipeline.params)
  np.testing.assert_array_equal(mean.std, pipeline.std)


def test_loaded_run_generates(run, weights):
  pipeline = load_text_to_video(run, batch=2)
  averaged = jax.tree.map(lambda a: a + 0.01, weights["model"])
  jax.tree.map(np.testing.assert_array_equal, pipeline.params, averaged)
  np.testing.assert_allclose(pipeline.std, [1, 2, 3, 4])
  assert pipeline.settings.guidance == 2.0 and pipeline.settings.schedule == "linear_quadratic"
  assert pipeline.origin.startswith("step 3, ")
  clips = pipeline(["a ball", ""], seeds=[0, 1])
  assert clips.shape == (2, 9, 16, 16, 3) and (clips[0] != clips[1]).any()
  for size in ({"height": 20}, {"frames": 17}):
    with pytest.raises(UserError):
      pipeline.resolve(**size)


def test_a_moved_pair_of_runs_still_loads(run):
  moved = run.parent.with_name("moved")
  run.parent.rename(moved)
  assert load_text_to_video(moved / "t2v").settings.frames == 9
  (moved / "tae").rename(moved / "other")
  with pytest.raises(UserError, match="no checkpoints"):
    load_text_to_video(moved / "t2v")
  assert load_text_to_video(moved / "t2v", moved / "other").settings.frames == 9


def test_another_autoencoder_is_refused(run, weights):
  retrained = jax.tree.map(lambda a: a + 1, weights["autoencoder"])
  _save(run.parent / "tae", "autoencoder", retrained, {"model": TAE_FIELDS}, step=4)
  with pytest.raises(UserError, match="not the one"):
    load_text_to_video(run)


def test_the_autoencoder_of_the_latents_is_used_though_its_run_went_on(run, weights):
  manifest = run / "latents" / "manifest.json"
  content = json.loads(manifest.read_text())
  content["metadata"]["step"] = 3
  manifest.write_text(json.dumps(content))
  later = jax.tree.map(lambda a: a + 1, weights["autoencoder"])
  _save(run.parent / "tae", "autoencoder", later, {"model": TAE_FIELDS}, step=4)
  loaded = load_text_to_video(run).autoencoder_params
  averaged = jax.tree.map(lambda a: a + 0.01, weights["autoencoder"])
  jax.tree.map(np.testing.assert_array_equal, loaded, averaged)


def test_runs_without_an_average_give_their_latest_weights(tmp_path, weights):
  for step in (1, 2):
    params = jax.tree.map(lambda a, step=step: a + step, weights["model"])
    _save(tmp_path / "run", "model", params, {"a": 1}, step=step, ema=False)
  newest, first = load_role(tmp_path / "run", "model"), load_role(tmp_path / "run", "model", step=1)
  assert (newest.step, first.step, newest.config) == (2, 1, {"a": 1})
  assert newest.digest != first.digest
  compare = lambda a, b: np.testing.assert_allclose(a, b + 1, rtol=1e-5)  # noqa: E731
  jax.tree.map(compare, newest.params, first.params)
  with pytest.raises(UserError, match="no params/critic"):
    load_role(tmp_path / "run", "critic")


def test_what_is_missing_is_named(run):
  manifest = run / "latents" / "manifest.json"
  for text in ("{", '{"metadata": {"mean": [0]}}', '{"metadata": {"mean": [0.0], "std": [0.0]}}'):
    manifest.write_text(text)
    with pytest.raises(UserError, match="encode the data again"):
      load_text_to_video(run)
  with pytest.raises(UserError, match="no params/model"):
    load_text_to_video(run.parent / "tae")
  with pytest.raises(UserError, match="no checkpoints"):
    load_text_to_video(run.parent / "nothing")


def test_an_autoencoder_is_loaded_for_clips_of_any_length(run, weights):
  tiled = load_autoencoder(run.parent / "tae", tiling=Tiling(frames=16, overlap=8))
  averaged = jax.tree.map(lambda a: a + 0.01, weights["autoencoder"])
  assert tiled.fingerprint == fingerprint(averaged)
  latent = tiled.encode(np.zeros((19, 16, 24, 3), np.uint8))
  assert latent.shape == (3, 2, 3, 4)
  with pytest.raises(UserError, match="no params/autoencoder"):
    load_autoencoder(run)


def test_weights_of_another_model_than_the_config_says_are_refused(tmp_path, weights):
  wider = TAE_FIELDS | {"latent": 16}
  _save(tmp_path / "tae", "autoencoder", weights["autoencoder"], {"model": wider})
  with pytest.raises(UserError, match="the config asks for .* but the checkpoint has .* different"):
    load_autoencoder(tmp_path / "tae")


def _launch(script, *arguments):
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  return subprocess.run(
    [sys.executable, str(ROOT / "launch" / script), *arguments],
    capture_output=True, text=True, env=environment, timeout=300, check=False,
  )


@pytest.mark.slow
def test_commands_generate_continue_and_evaluate(run):
  listed = run.parent / "list.txt"
  listed.write_text("a red star moves left\na blue ring spins\n")
  arguments = [f"--workdir={run}", f"--prompts={listed}"]
  first = _launch("generate.py", *arguments)
  assert first.returncode == 0, first.stderr
  clips = sorted((run / "generated").glob("*.mp4"))
  assert len(clips) == 2 and probe(clips[0]).frames == 9
  assert (run / "generated" / "contact_sheet.png").exists()
  written = [clip.stat().st_mtime_ns for clip in clips]
  assert _launch("generate.py", *arguments).returncode == 0
  assert [clip.stat().st_mtime_ns for clip in clips] == written
  other = _launch("generate.py", *arguments, "--guidance=5")
  assert other.returncode == 2 and "--overwrite" in other.stderr
  image = _launch("generate.py", f"--workdir={run}", "--prompt=", "--image", f"--out={run / 'i'}")
  assert image.returncode == 0 and len(list((run / "i").glob("*.png"))) == 1
  evaluated = _launch("evaluate.py", f"--workdir={run}", "--count=2")
  assert evaluated.returncode == 0, evaluated.stderr
  report = json.loads((run / "evaluation" / "scores.json").read_text())
  assert report["rates"]["all"]["count"] == 2 and len(report["clips"]) == 2


IDS = jnp.array([[5, 6, 1, 0]])
TOWER = {"width": 8, "layers": 1, "heads": 2, "mlp_dim": 8, "projection": 4}
CLIP_FIELDS = {
  "text": TOWER | {"vocab": 20, "length": 6, "end": 1, "dtype": "float32"},
  "vision": TOWER | {"size": 8, "patch": 4, "dtype": "float32"},
}


@pytest.mark.parametrize("ema", [True, False])
def test_the_text_encoder_of_a_generator_is_exported(tmp_path, weights, ema):
  config = {"stage": "flow_matching", "model": GENERATOR_FIELDS}
  kept = _save(tmp_path / "t2v", "model", weights["model"], config, ema=ema)
  written = export(tmp_path / "t2v", tmp_path / "t5")
  assert written["kind"] == "t5"
  encoder, params = published.load(tmp_path / "t5")
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
  return model, _save(tmp_path / "clip", "model", params, config)


def test_a_contrastive_run_is_exported_with_its_averaged_weights(tmp_path, contrastive):
  model, averaged = contrastive
  assert export(tmp_path / "clip", tmp_path / "ours")["kind"] == "clip"
  loaded, params = published.load(tmp_path / "ours")
  jax.tree.map(np.testing.assert_array_equal, params, averaged)
  want = model.apply({"params": averaged}, IDS, IDS > 0, method="encode_text")
  have = loaded.apply({"params": params}, IDS, IDS > 0, method="encode_text")
  np.testing.assert_array_equal(have.tokens, want.tokens)
  np.testing.assert_array_equal(have.pooled, want.pooled)


def test_an_exported_autoencoder_stands_for_its_run(tmp_path, weights):
  config = {"stage": "autoencoding", "model": TAE_FIELDS}
  _save(tmp_path / "tae", "autoencoder", weights["autoencoder"], config)
  assert export(tmp_path / "tae", tmp_path / "out")["kind"] == "autoencoder"
  clip = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
  ours, theirs = (load_autoencoder(tmp_path / name).encode(clip) for name in ("tae", "out"))
  np.testing.assert_allclose(ours, theirs, atol=1e-6)
  role = load_role(tmp_path / "out", "autoencoder")
  assert role.step == 0 and role.config["stage"] == "autoencoding"
  with pytest.raises(UserError, match="out has converted weights of no model; give a run"):
    load_role(tmp_path / "out", "model")
  with pytest.raises(UserError, match="which have no step 3; leave it out"):
    load_role(tmp_path / "out", "autoencoder", step=3)


def test_an_exported_codec_stands_for_its_run(tmp_path):
  fields = {
    "channels": 2, "rates": [2, 4], "hidden": 4, "decoder_channels": 8, "latent": 3, "patch": 4,
    "sample_rate": 16_000,
  }  # fmt: skip
  model = build(DACVAE, fields)
  params = unbox(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, model.hop)))["params"])
  config = {"stage": "wave_autoencoding", "model": fields}
  _save(tmp_path / "codec", "autoencoder", params, config)
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
  jax.tree.map(np.testing.assert_array_equal, published.load(folder)[1], averaged)
  before = published.digest(folder)
  # A run that goes on does not change what others learned from it.
  other = jax.tree.map(lambda a: a + 1, averaged)
  _save(tmp_path / "clip", "model", other, {"stage": "contrastive", "model": CLIP_FIELDS}, step=9)
  assert settle({"vision": str(tmp_path / "clip")})["vision"] == folder
  assert published.digest(folder) == before
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
  assert published.load(tmp_path / "ours")[1]["vision"]["class"].dtype == jnp.bfloat16
  again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert again.returncode == 2 and "exists already" in again.stderr


def test_runs_without_an_encoder_to_export_are_named(tmp_path, weights):
  for name, encoders, words in (
    ("none", {}, "trained 0 text encoders"),
    ("two", {"byt5": {"kind": "t5"}, "ul2": {"kind": "t5"}}, "trained 2 text encoders"),
  ):
    config = {"stage": "flow_matching", "model": GENERATOR_FIELDS | {"encoders": encoders}}
    _save(tmp_path / name, "model", weights["model"], config)
    with pytest.raises(UserError, match=words):
      export(tmp_path / name, tmp_path / "out")
  _save(tmp_path / "other", "model", weights["model"], {"stage": "dreaming"})
  with pytest.raises(UserError, match="is a run of dreaming; give one of autoencoding,"):
    export(tmp_path / "other", tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_reconstructs_a_video(run):
  clip = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3)).astype(np.uint8)
  write_video(run.parent / "in.mp4", clip, fps=10)
  out = run.parent / "out.mp4"
  arguments = [f"--workdir={run.parent / 'tae'}", f"--video={run.parent / 'in.mp4'}"]
  done = _launch("reconstruct.py", *arguments, f"--out={out}", "--size=16", "--seconds=3.5")
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(f"{out}: PSNR ") and "over 35 frames of 16x24" in done.stdout
  assert probe(out).frames == 35 and probe(out).width == 72
  assert json.loads(out.with_suffix(".json").read_text())["frames"] == 35
  for wrong in ("--size=0", "--size=8,8,8", "--out=", "--step=99"):
    refused = _launch("reconstruct.py", *arguments, f"--out={out}", wrong)
    assert refused.returncode == 2 and refused.stderr.count("error: ") == 1, refused.stderr
