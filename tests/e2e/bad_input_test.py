"""What a user can get wrong, told by the commands in one sentence and with nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from mg_jax.core import config as configs
from mg_jax.data.media.video import write_video

ROOT = Path(__file__).resolve().parents[2]
TAE = "experiments/tae.py:tiny,size=16,frames=4"
T2V = "experiments/t2v_256.py:tiny,size=16,frames=4"
SMALL = {
  "channels": 4, "multipliers": "(1,)", "latent": 2, "groups": 2, "attention": False,
  "shortcut": False,
}  # fmt: skip


def _command(script, *arguments, cwd=ROOT):
  return subprocess.run(
    [sys.executable, str(ROOT / "launch" / script), *map(str, arguments)],
    capture_output=True, text=True, timeout=280, cwd=cwd,
    env={**os.environ, "XLA_FLAGS": ""},  # one CPU device
  )  # fmt: skip


def _refused(done, words):
  """The command failed with one sentence that holds the words."""
  assert done.returncode == 2, done.stderr
  assert "Traceback" not in done.stderr and not done.stdout
  told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert len(told) == 1 and words in told[0], done.stderr


def _tree(folder):
  """Every file of a folder with its content, but for the lock of a workdir."""
  paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
  return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def _clip(frames=16, seed=0):
  noise = np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3))
  return noise.astype(np.uint8)


def _write(folder, name, data=b"", caption="a grey noise"):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / name).write_bytes(data)
  if caption is not None:
    (folder / name).with_suffix(".txt").write_text(caption)


def _sound(path):
  with av.open(str(path), "w") as container:
    stream = container.add_stream("aac", rate=16000, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts = 16000, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path.read_bytes()


@pytest.fixture
def folders(tmp_path):
  """Folders of clips by what is wrong with them."""
  write_video(tmp_path / "good.mp4", _clip(), fps=8.0)
  write_video(tmp_path / "short.mp4", _clip(2), fps=8.0)
  good, short = ((tmp_path / f"{name}.mp4").read_bytes() for name in ("good", "short"))
  made = tmp_path / "folders"
  (made / "empty").mkdir(parents=True)
  (made / "no folder").write_text("")
  for name in ("a.mp4", "b.mp4"):
    _write(made / "no bytes", name)
    _write(made / "half", name, good[: len(good) // 2])
    _write(made / "most lost", name, good[: len(good) // 4])
    _write(made / "random", name, np.random.default_rng(0).bytes(9000))
  _write(made / "sound", "a.mp4", _sound(tmp_path / "sound.mp4"))
  _write(made / "short", "a.mp4", short)
  _write(made / "no caption", "a.mp4", good, caption=None)
  _write(made / "bad captions", "a.mp4", good, caption=None)
  (made / "bad captions" / "captions.jsonl").write_text("a grey noise\n")
  return made


def _train(folder, workdir, *more):
  return _command(
    "train.py", f"--config={TAE}", f"--workdir={workdir}", "--config.data.source=folder",
    f"--config.data.path={folder}", *(f"--config.model.{k}={v}" for k, v in SMALL.items()), *more,
  )  # fmt: skip


def test_a_folder_that_is_not_there(tmp_path):
  _refused(_train(tmp_path / "clips", tmp_path / "run"), "clips: there is no such folder")


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, words",
  [
    ("empty", "has no video"),
    ("no folder", "cannot be read (Not a directory)"),
    ("no bytes", "none of 2 videos is usable, the first being a.mp4 (the file is empty)"),
    ("half", "none of 2 videos is usable, the first being a.mp4 (it ends after 1.00 s of 2.00 s)"),
    ("most lost", "none of 2 videos is usable"),
    ("random", "none of 2 videos is usable"),
    ("sound", "has no video stream"),
    ("short", "0.25 s fits no bucket"),
    ("no caption", "a.mp4 has no caption; write it to a.txt"),
    ("bad captions", "captions.jsonl line 1 is not"),
  ],
)
def test_folders_without_a_usable_clip(folders, tmp_path, name, words):
  before = _tree(folders)
  # The autoencoder by itself does without captions.
  told = _train(folders / name, tmp_path / "run", "--config.data.caption_required=true")
  _refused(told, words)
  assert _tree(folders) == before and not _tree(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read(folders, tmp_path):
  (folders / "short").chmod(0)
  _refused(_train(folders / "short", tmp_path / "run"), "Permission denied")
  (folders / "short").chmod(0o700)


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["train.py"], "--config is missing"),
    (["train.py", "--config=experiments/nothing.py:tiny"], "names no file"),
    (["generate.py", "--prompt=a ball"], "give --workdir"),
    (["generate.py", "--workdir=x", "a ball"], "unexpected argument 'a ball'; give prompts as"),
    (["generate.py", "--workdir=x", "--steps=many"], "flag --steps=many: invalid literal"),
    (["evaluate.py", "--workdir=x", "--count=0"], "a --count of 1 or more"),
  ],
)
def test_arguments_that_are_seen_at_once(arguments, words):
  _refused(_command(*arguments), words)


@pytest.mark.parametrize(
  "argument, words",
  [
    ("--config.train.stesp=5", "train has no field 'stesp'; did you mean 'steps'?"),
    pytest.param("--config.train.steps=abc", "is not of type int", marks=pytest.mark.slow),
    pytest.param("--config.model.multipliers=abc", "which is not of type", marks=pytest.mark.slow),
    pytest.param("--config.data.world=real", "config data.world is 'real'", marks=pytest.mark.slow),
    pytest.param("--config.model.groups=3", "groups do not divide", marks=pytest.mark.slow),
    pytest.param("--config.model.dtype=half", "dtype 'half'", marks=pytest.mark.slow),
    pytest.param("--config.data.fps=0", "data.fps is 0.0", marks=pytest.mark.slow),
    pytest.param("--config.eval.batch=0", "eval.batch", marks=pytest.mark.slow),
    pytest.param("--config.mesh=(3,1,1,1)", "needs 3 devices", marks=pytest.mark.slow),
    pytest.param("--config.optim.kind=sgd", "optim.kind is 'sgd'", marks=pytest.mark.slow),
    pytest.param("--config.data.cache=/dev/null", "/dev/null", marks=pytest.mark.slow),
    pytest.param("--config.train.resume=nothing", "no checkpoints in", marks=pytest.mark.slow),
    pytest.param("--workdir=/dev/null/run", "cannot be", marks=pytest.mark.slow),
    pytest.param("--workdir=", "--workdir is missing", marks=pytest.mark.slow),
  ],
)
def test_fields_of_a_config(tmp_path, argument, words):
  cache = f"--config.data.cache={tmp_path / 'data'}"
  done = _command("train.py", f"--config={TAE}", f"--workdir={tmp_path / 'run'}", cache, argument)
  _refused(done, words)
  assert not _tree(tmp_path / "run")


@pytest.mark.slow
def test_an_argument_of_a_config_that_is_unknown(tmp_path):
  _refused(_command("train.py", f"--config={TAE},foo=3"), "config argument 'foo' is unknown")


def _experiment(name, tmp_path, **sections):
  """The plain config of a tiny experiment, with a network of next to nothing."""
  import importlib

  config = importlib.import_module(f"experiments.{name}").get_config("tiny,size=16,frames=4")
  config.mesh = (1, 1, 1, 1)
  config.data.update(cache=str(tmp_path / "data"), clips=4, held_out=2, global_batch=2)
  config.train.update(steps=1)
  config.eval.update(batch=2, previews=0)
  for section, values in sections.items():
    config[section].update(values)
  return configs.to_dict(config)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A trained autoencoder and generator, of one step each."""
  from mg_jax.stages import experiment

  folder = tmp_path_factory.mktemp("runs")
  fields = {**SMALL, "multipliers": (1,)}
  experiment.run(_experiment("tae", folder, model=fields), str(folder / "tae"))
  config = _experiment("t2v_256", folder, data={"image_weight": 0})
  width = {"width": 16, "layers": 1, "heads": 1, "mlp_dim": 16}
  config["model"]["dit"].update(width, channels=2, patch=(1, 1, 1), max_thw=(2, 4, 4))
  config["model"]["dit"]["routes"]["text"]["features"] = 16
  config["model"]["encoders"]["text"].update(width, head_dim=8)
  config["sampling"]["steps"] = 2
  config["autoencoder"] = str(folder / "tae")
  experiment.run(config, str(folder / "t2v"))
  return folder


def _retrain(runs, name, workdir, *more):
  config = {"tae": TAE, "t2v": T2V}[name]
  return _command(
    "train.py", f"--config={config}", f"--workdir={workdir}", "--config.mesh=(1,1,1,1)",
    f"--config.data.cache={runs / 'data'}", "--config.data.clips=4", "--config.data.held_out=2",
    "--config.data.global_batch=2", "--config.eval.batch=2", "--config.eval.previews=0", *more,
  )  # fmt: skip


@pytest.mark.slow
def test_a_workdir_of_another_experiment_or_network_is_left_alone(runs):
  before = _tree(runs / "tae")
  other = _retrain(runs, "t2v", runs / "tae", f"--config.autoencoder={runs / 'tae'}")
  _refused(other, "holds experiment 'tae', this is 't2v_256'")
  wide = [f"--config.model.{k}={v}" for k, v in SMALL.items()] + ["--config.model.channels=8"]
  done = _retrain(runs, "tae", runs / "tae", *wide)
  assert done.returncode == 2 and "Traceback" not in done.stderr
  assert "does not fit this model" in done.stderr and "a warm start" in done.stderr
  assert _tree(runs / "tae") == before


@pytest.mark.slow
@pytest.mark.parametrize(
  "autoencoder, words",
  [
    ("", "config autoencoder is empty; train one first"),
    ("nothing", "no checkpoints in"),
    ("data", "no checkpoints in"),
    ("t2v", "is a run of flow_matching; give one of autoencoding"),
  ],
)
def test_autoencoders_that_are_none(runs, tmp_path, autoencoder, words):
  named = runs / autoencoder if autoencoder else ""
  _refused(_retrain(runs, "t2v", tmp_path / "run", f"--config.autoencoder={named}"), words)
  assert not (tmp_path / "run" / "latents").exists()


def _generate(runs, *arguments, workdir="t2v"):
  return _command("generate.py", f"--workdir={runs / workdir}", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
  "arguments, words",
  [
    (["--prompt=x", "--frames=1000"], "the model cannot make 1000 frames of 16x16"),
    (["--prompt=x", "--frames=0"], "frames is 0"),
    (["--prompt=x", "--height=17"], "17x16 cannot be encoded"),
    (["--prompt=x", "--width=64"], "the model cannot make 4 frames of 16x64"),
    (["--prompt=x", "--fps=0"], "fps is 0.0"),
    (["--prompt=x", "--guidance=nan"], "guidance is nan"),
    (["--prompt=x", "--schedule=cubic"], 'schedule is "cubic"'),
    (["--prompt=x", "--seed=-1"], "prompt 0 has seed -1"),
    (["--prompts=nothing.txt"], "prompts file nothing.txt cannot be read"),
    ([], "no prompt given; give --prompt or --prompts"),
    (["--prompt=x", "--prompt=y", "--out=clip.mp4"], "one file but there are 2 prompts"),
    (["--prompt=x", "--out=clip.png"], "a video is saved as .mp4"),
    (["--prompt=x", "--image", "--out=/dev/null/x.png"], "/dev/null"),
    (["--prompt=x", "--out=/dev/null"], "/dev/null"),
  ],
)
def test_clips_that_cannot_be_made(runs, arguments, words):
  before = _tree(runs / "t2v")
  _refused(_generate(runs, *arguments), words)
  assert _tree(runs / "t2v") == before


@pytest.mark.slow
def test_workdirs_that_do_not_generate(runs, tmp_path):
  _refused(_generate(runs, "--prompt=x", workdir="nothing"), "no checkpoints in")
  of_another_stage = _generate(runs, "--prompt=x", workdir="tae")
  _refused(of_another_stage, "is a run of autoencoding; give one of flow_matching")
  (tmp_path / "list.txt").write_bytes(b"a ball \xff\xfe")
  _refused(_generate(runs, f"--prompts={tmp_path / 'list.txt'}"), "is not UTF-8 text")
  done = _command("evaluate.py", f"--workdir={runs / 'nothing'}", "--count=1")
  _refused(done, "no checkpoints in")


@pytest.mark.slow
def test_odd_prompts_are_told_and_generated(runs, tmp_path):
  prompts = ["", "🎈" * 12_000, "a\nb \u2028 </s> ../x", "a red star"]
  arguments = [f"--prompt={text}" for text in prompts]
  done = _generate(runs, *arguments, f"--out={tmp_path}")
  assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
  assert "Prompt 0: The prompt is empty" in done.stderr
  assert "Prompt 1: The prompt has 12000 characters" in done.stderr
  assert "Prompt 1: text reads only its first" in done.stderr
  assert len(list(tmp_path.glob("*.mp4"))) == 4
  records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
  assert sorted(len(record["prompt"]) for record in records) == [0, 10, 15, 10_000]
