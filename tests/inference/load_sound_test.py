"""From a run of a codec and one of a soundtrack model to files, by the commands that users call."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.tree import flatten_paths
from mg_jax.data.atomic import write_json
from mg_jax.data.media import audio, muxing, video
from mg_jax.evaluation import toy_context
from mg_jax.inference.load_sound import load_soundtrack, soundtrack_data
from mg_jax.stages import experiment
from mg_jax.train.checkpoint import Checkpointer
from tests.sampling.networks import CODEC, soundtrack
from tests.train import tiny

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A codec and a soundtrack model of a few steps, on the toy world."""
  folder = tmp_path_factory.mktemp("runs")
  codec = tiny.load("dacvae", "tiny,toy")
  codec.mesh = (1, 1, 1, 1)
  codec.model.update(channels=2, hidden=4, decoder_channels=16, latent=3)
  codec.data.update(cache=str(folder / "data"), clips=4, held_out=2, seconds=0.08, global_batch=2)
  codec.train.steps = 2
  codec.eval.update(batch=2, limit=2, previews=0)
  experiment.run(configs.to_dict(codec), str(folder / "codec"))
  config = tiny.soundtrack(folder)
  config["sampling"] |= {"window_s": 1.0, "steps": 2, "candidates": 2}
  experiment.run(config, str(folder / "soundtrack"))
  return folder


def saved(folder):
  """Runs of a codec and of a generator with random weights, as training leaves them."""
  pipeline, config = soundtrack(folder), tiny.soundtrack(folder)
  config["sampling"] |= {"window_s": 1.0, "steps": 2, "candidates": 2}
  codec = {"stage": "wave_autoencoding", "model": CODEC}
  for name, role, params, about in (
    ("codec", "autoencoder", pipeline.codec.params, codec),
    ("soundtrack", "model", pipeline.params, config),
  ):  # fmt: skip
    saver = Checkpointer(str(folder / name))
    saver.save(2, {"params": {role: params}}, data={}, config=about)
    saver.close()
  metadata = {"mean": [0.0] * 3, "std": [1.0] * 3, "fingerprint": pipeline.codec.fingerprint}
  write_json(folder / "soundtrack" / "latents" / "manifest.json", {"metadata": metadata})
  return folder / "soundtrack"


def test_weights_go_to_their_shards_in_the_type_asked_for(tmp_path):
  folder = saved(tmp_path)
  whole, spread = load_soundtrack(folder), load_soundtrack(
    folder, mesh=make_mesh((1, 4, 1, 2)), dtype="bfloat16"
  )  # fmt: skip
  assert spread.mesh.size == 8
  pairs = zip(*(flatten_paths(p.params).items() for p in (whole, spread)), strict=True)
  places = set()
  for (path, one), (other, many) in pairs:
    assert path == other and many.dtype == "bfloat16" and len(many.sharding.device_set) == 8
    np.testing.assert_array_equal(np.asarray(one.astype(many.dtype)), np.asarray(many))
    places |= {axis for axis in many.sharding.spec if axis}
  assert {"fsdp", "tensor"} <= places
  with pytest.raises(UserError, match="dtype is 'float8'"):
    load_soundtrack(folder, dtype="float8")


def _generate(runs, *arguments):
  return subprocess.run(
    [sys.executable, "launch/generate.py", f"--workdir={runs}/soundtrack", *arguments],
    cwd=_ROOT, capture_output=True, text=True, timeout=280,
  )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_commands_make_sound_for_a_video_extend_and_fill_it(runs, tmp_path):
  frames = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), np.uint8)
  tone = 0.3 * np.sin(np.arange(57_600) / 20).astype(np.float32)
  muxing.write_clip(tmp_path / "in.mp4", frames, tone, fps=10.0)
  out = tmp_path / "out.mp4"
  done = _generate(
    runs, "--task=soundtrack", f"--video={tmp_path}/in.mp4", f"--out={out}", "--prompt=a bell"
  )
  assert done.returncode == 0, done.stderr[-2000:]
  np.testing.assert_array_equal(
    video.read_clip(out, start_s=0.0, fps=10.0, frames=12, size=(32, 48)),
    video.read_clip(tmp_path / "in.mp4", start_s=0.0, fps=10.0, frames=12, size=(32, 48)),
  )
  assert len(audio.read_audio(out.with_suffix(".wav"))) == 57_600
  record = json.loads(out.with_suffix(".json").read_text())
  assert len(record["scores"]) == 2 and record["origin"].startswith("step 2, ")
  filled = tmp_path / "filled.mp4"
  done = _generate(
    runs, "--task=soundtrack", f"--video={tmp_path}/in.mp4", f"--out={filled}", "--infill=0.4:0.7"
  )
  assert done.returncode == 0, done.stderr[-2000:]
  audio.write_wav(tmp_path / "in.wav", tone)
  longer = tmp_path / "longer.wav"
  done = _generate(
    runs, "--task=sound", f"--sound={tmp_path}/in.wav", f"--out={longer}", "--extend=1.5"
  )
  assert done.returncode == 0, done.stderr[-2000:]
  wave = audio.read_audio(longer)
  assert len(wave) == 57_600 + 72_000
  np.testing.assert_allclose(wave[:57_600], audio.read_audio(tmp_path / "in.wav"), atol=1e-4)


@pytest.mark.slow
def test_sounds_of_held_out_clips_are_scored(runs):
  command = [sys.executable, "launch/evaluate.py", f"--workdir={runs}/soundtrack", "--count=3"]
  done = subprocess.run(
    [*command, "--inputs=video", f"--out={runs}/scores"], cwd=_ROOT, capture_output=True,
    text=True, timeout=280,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads((runs / "scores" / "scores.json").read_text())
  assert set(report["rows"]) == {"made", "codec", "truth", "shuffled"}
  assert report["condition"] == "video"
  assert {"f1", "off_ms", "music", "effect"} <= set(report["rows"]["made"])
  assert "shuffled" in done.stderr and (runs / "scores" / "02.mp4").exists()


@pytest.mark.slow
@pytest.mark.parametrize("measure, rows", [
  ("infill", {"made", "silence", "repetition", "codec"}), ("seams", {"seams", "elsewhere", "true"}),
])  # fmt: skip
def test_gaps_and_seams_are_scored(runs, measure, rows, monkeypatch):
  command = [sys.executable, "launch/evaluate.py", f"--workdir={runs}/soundtrack", "--count=2"]
  if measure == "infill":
    # The takes of this run last a second.
    monkeypatch.setattr(toy_context, "LEAST_SIDE_S", 0.1)
    pipeline, data = load_soundtrack(runs / "soundtrack"), soundtrack_data(runs / "soundtrack")
    report = toy_context.score_infill(pipeline, data, runs / measure, count=2, gap_s=0.4)
    assert set(report.rows) == rows and all(row["mel"] > 0 for row in report.rows.values())
    command.append("--measure=infill")
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 2 and "gap of 1 s with 0.5 s around it" in done.stderr
    return
  command += [f"--measure={measure}", f"--out={runs}/{measure}"]
  done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=280)
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads((runs / measure / f"{measure}.json").read_text())
  assert set(report["rows"]) == rows and report["count"] == 2 and len(report["seams_s"]) > 20


@pytest.mark.slow
def test_runs_that_make_no_sound_are_told(runs):
  with pytest.raises(UserError, match="is a run of wave_autoencoding; give one of soundtrack"):
    load_soundtrack(runs / "codec")
  manifest = runs / "soundtrack" / "latents" / "manifest.json"
  text = manifest.read_text()
  changed = json.loads(text)
  changed["metadata"]["fingerprint"] = "0" * 64
  manifest.write_text(json.dumps(changed))
  try:
    with pytest.raises(UserError, match="is not the one that made the latents"):
      load_soundtrack(runs / "soundtrack")
  finally:
    manifest.write_text(text)
