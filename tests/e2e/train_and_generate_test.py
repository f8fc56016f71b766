"""From three video files to a generated clip with the commands of the README, interrupted often."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mg_jax.data.media.video import probe, read_clip, write_video

ROOT = Path(__file__).resolve().parents[2]
NETWORK = {
  "channels": 4, "multipliers": "(1,)", "latent": 16, "groups": 2, "attention": False,
  "shortcut": False,
}  # fmt: skip
DIT = {
  "width": 16, "layers": 1, "heads": 1, "mlp_dim": 16, "max_thw": "(2,4,4)",
  "routes.text.features": 16,
}  # fmt: skip
TEXT = {"width": 16, "layers": 1, "heads": 1, "head_dim": 8, "mlp_dim": 16}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _flags(section, fields):
  return [f"--config.{section}.{name}={value}" for name, value in fields.items()]


def _start(script, *arguments):
  return subprocess.Popen(
    [sys.executable, str(ROOT / "launch" / script), *map(str, arguments)],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": ""},  # one CPU device
  )  # fmt: skip


def _run(script, *arguments):
  process = _start(script, *arguments)
  out, err = process.communicate(timeout=280)
  assert process.returncode == 0, err
  assert "Traceback" not in err
  return err


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  """A square that moves right, in three colours and sizes of frame."""
  folder = tmp_path_factory.mktemp("clips")
  for k, (height, width) in enumerate([(32, 32), (48, 40), (30, 64)]):
    video = np.full((24, height, width, 3), 30, np.uint8)
    for t in range(24):
      video[t, 8:16, t : t + 8, k] = 220
    write_video(folder / f"clip{k}.mp4", video, fps=12.0)
    (folder / f"clip{k}.txt").write_text(f"a {('red', 'green', 'blue')[k]} square moves right")
  return folder


class Paths:
  """The two runs and their commands."""

  def __init__(self, root, clips):
    self.tae, self.t2v = root / "tae", root / "t2v"
    data = {
      "source": "folder", "path": clips, "holdout": "tail", "windows": 2, "global_batch": 2,
      "frames": 8, "height": 16, "width": 16,
    }  # fmt: skip
    common = _flags("data", data) + _flags("eval", {"every": 1000, "batch": 2, "previews": 1})
    common += _flags("train", {"log_every": 1, "checkpoint_every": 4})
    self.tae_command = [
      "--config=experiments/tae.py:tiny,size=16,frames=8", f"--workdir={self.tae}",
      *_flags("model", NETWORK), *common,
    ]  # fmt: skip
    self.t2v_command = [
      "--config=experiments/t2v_256.py:tiny,size=16,frames=8", f"--workdir={self.t2v}",
      f"--config.autoencoder={self.tae}", *_flags("model.dit", DIT),
      *_flags("model.encoders.text", TEXT), *_flags("sampling", {"steps": 2, "guidance": 2.0}),
      *common, "--config.data.image_weight=1", "--config.text.text.length=40",
    ]  # fmt: skip


def _steps(workdir):
  return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def _losses(workdir):
  """Training loss by step; a step that was logged twice must have had the same one."""
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  found = {}
  for line in lines:
    value = line.get("autoencoder/loss", line.get("model/loss"))
    if value is not None:
      assert found.setdefault(line["step"], value) == value
  return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory, clips):
  paths = Paths(tmp_path_factory.mktemp("runs") / "made", clips)
  err = _run("train.py", *paths.tae_command, "--config.train.steps=5")
  assert "finished at step 5 of 5" in err
  err = _run("train.py", *paths.t2v_command, "--config.train.steps=5")
  assert "finished at step 5 of 5" in err
  return paths


def test_both_stages_train_and_show_what_they_do(runs):
  for workdir, metric in ((runs.tae, "eval/psnr"), (runs.t2v, "eval/fm_loss")):
    assert _steps(workdir) == [4, 5] and sorted(_losses(workdir)) == [1, 2, 3, 4, 5]
    assert metric in (workdir / "metrics.jsonl").read_text()
    assert (workdir / "previews" / "step-0000005.png").is_file()
    assert probe(workdir / "previews" / "step-0000005-00.mp4").frames == 8
  assert (runs.t2v / "latents" / "manifest.json").is_file()


def test_a_clip_and_an_image_are_generated(runs, tmp_path):
  command = [f"--workdir={runs.t2v}", "--prompt=a red square moves right"]
  _run("generate.py", *command, f"--out={tmp_path / 'clip.mp4'}")
  info = probe(tmp_path / "clip.mp4")
  assert (info.frames, info.height, info.width, info.fps) == (8, 16, 16, 8.0)
  _run("generate.py", *command, "--image", f"--out={tmp_path / 'clip.png'}")
  assert Image.open(tmp_path / "clip.png").size == (16, 16)
  names = {"clip.mp4", "clip.mp4.json", "clip.png", "clip.png.json"}
  assert {path.name for path in tmp_path.iterdir()} == names


def test_a_seed_gives_the_same_pixels_alone_and_in_company(runs, tmp_path):
  texts = [f"--prompt=a {colour} square" for colour in ("red", "green", "blue")]
  _run("generate.py", f"--workdir={runs.t2v}", *texts, "--seed=7", f"--out={tmp_path / 'three'}")
  alone = [texts[1], "--seed=8", f"--out={tmp_path / 'one.mp4'}"]
  _run("generate.py", f"--workdir={runs.t2v}", *alone)
  (company,) = (tmp_path / "three").glob("0001-*.mp4")
  read = lambda path: read_clip(path, start_s=0, fps=8.0, frames=8, size=(16, 16))  # noqa: E731
  np.testing.assert_array_equal(read(company), read(tmp_path / "one.mp4"))
  assert (tmp_path / "three" / "contact_sheet.png").is_file()


def test_a_finished_run_goes_on_with_more_steps(runs):
  before = _losses(runs.t2v)
  err = _run("train.py", *runs.t2v_command, "--config.train.steps=7")
  assert "step 5 of 7" in err and "finished at step 7 of 7" in err
  after = _losses(runs.t2v)
  assert sorted(after) == list(range(1, 8)) and all(after[s] == before[s] for s in before)


def _wait_for(process, reached, seconds=240):
  end = time.monotonic() + seconds
  while not reached():
    assert process.poll() is None, process.communicate()[1]
    assert time.monotonic() < end, "the run takes too long"
    time.sleep(0.02)


END = 120


def _interruptible(runs, root, clips, *, steps):
  """The command of a generator's run that saves often, and its workdir."""
  paths = Paths(root, clips)
  command = [text.replace(str(paths.tae), str(runs.tae)) for text in paths.t2v_command]
  train = {"steps": steps, "checkpoint_every": 10, "log_every": 1}
  return [*command, *_flags("train", train), "--config.optim.schedule=constant"], paths.t2v


@pytest.fixture(scope="module")
def straight(runs, clips, tmp_path_factory):
  """The losses of a run that nobody interrupts."""
  command, workdir = _interruptible(runs, tmp_path_factory.mktemp("straight"), clips, steps=END)
  _run("train.py", *command)
  return _losses(workdir)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_an_interrupted_run_is_the_run_that_was_not(runs, straight, tmp_path, clips, how):
  command, workdir = _interruptible(runs, tmp_path, clips, steps=100_000)
  process = _start("train.py", *command)
  _wait_for(process, lambda: (workdir / "checkpoints").is_dir() and _steps(workdir))
  process.send_signal(how)
  _, err = process.communicate(timeout=100)
  assert "Traceback" not in err
  stopped = _steps(workdir)[-1]
  assert 10 <= stopped < END
  if how == signal.SIGTERM:
    assert process.returncode == 0 and f"stopped by SIGTERM at step {stopped}" in err
  before = _losses(workdir)
  command, _ = _interruptible(runs, tmp_path, clips, steps=END)
  assert f"step {stopped} of {END}" in _run("train.py", *command)
  assert _losses(workdir) == straight and sorted(straight) == list(range(1, END + 1))
  assert all(straight[step] == loss for step, loss in before.items() if step <= END)
