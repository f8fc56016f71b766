import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.tree import fingerprint
from mg_jax.data.media.video import probe, write_video
from mg_jax.inference.load import load_autoencoder, load_text_to_video
from mg_jax.models.codecs.tiling import Tiling
from mg_jax.train.averaging import average
from mg_jax.train.runs import load_role
from tests.inference.conftest import TAE_FIELDS, save

ROOT = pathlib.Path(__file__).resolve().parents[2]


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
  save(run.parent / "tae", "autoencoder", retrained, {"model": TAE_FIELDS}, step=4)
  with pytest.raises(UserError, match="not the one"):
    load_text_to_video(run)


def test_the_autoencoder_of_the_latents_is_used_though_its_run_went_on(run, weights):
  manifest = run / "latents" / "manifest.json"
  content = json.loads(manifest.read_text())
  content["metadata"]["step"] = 3
  manifest.write_text(json.dumps(content))
  later = jax.tree.map(lambda a: a + 1, weights["autoencoder"])
  save(run.parent / "tae", "autoencoder", later, {"model": TAE_FIELDS}, step=4)
  loaded = load_text_to_video(run).autoencoder_params
  averaged = jax.tree.map(lambda a: a + 0.01, weights["autoencoder"])
  jax.tree.map(np.testing.assert_array_equal, loaded, averaged)


def test_runs_without_an_average_give_their_latest_weights(tmp_path, weights):
  for step in (1, 2):
    params = jax.tree.map(lambda a, step=step: a + step, weights["model"])
    save(tmp_path / "run", "model", params, {"a": 1}, step=step, ema=False)
  newest, first = load_role(tmp_path / "run", "model"), load_role(tmp_path / "run", "model", step=1)
  assert (newest.step, first.step, newest.config) == (2, 1, {"a": 1})
  assert newest.digest != first.digest
  compare = lambda a, b: np.testing.assert_allclose(a, b + 1, rtol=1e-5)  # noqa: E731
  jax.tree.map(compare, newest.params, first.params)
  with pytest.raises(UserError, match="has no params/critic: it trained model; give one"):
    load_role(tmp_path / "run", "critic")


def test_what_is_missing_is_named(run):
  manifest = run / "latents" / "manifest.json"
  for text in ("{", '{"metadata": {"mean": [0]}}', '{"metadata": {"mean": [0.0], "std": [0.0]}}'):
    manifest.write_text(text)
    with pytest.raises(UserError, match="encode the data again"):
      load_text_to_video(run)
  with pytest.raises(UserError, match="is a run of autoencoding; give one of flow_matching"):
    load_text_to_video(run.parent / "tae")
  with pytest.raises(UserError, match="no checkpoints"):
    load_text_to_video(run.parent / "nothing")


def test_an_autoencoder_is_loaded_for_clips_of_any_length(run, weights):
  tiled = load_autoencoder(run.parent / "tae", tiling=Tiling(frames=16, overlap=8))
  averaged = jax.tree.map(lambda a: a + 0.01, weights["autoencoder"])
  assert tiled.fingerprint == fingerprint(averaged)
  latent = tiled.encode(np.zeros((19, 16, 24, 3), np.uint8))
  assert latent.shape == (3, 2, 3, 4)
  with pytest.raises(UserError, match="is a run of flow_matching; give one of autoencoding"):
    load_autoencoder(run)


def test_weights_of_another_model_than_the_config_says_are_refused(tmp_path, weights):
  wider = TAE_FIELDS | {"latent": 16}
  save(tmp_path / "tae", "autoencoder", weights["autoencoder"], {"model": wider})
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
