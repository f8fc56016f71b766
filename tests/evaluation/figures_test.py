"""Figures: the command, and all that made a number, are kept with it."""

import json
import math
import runpy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags

import mg_jax
from mg_jax.core.errors import UserError
from mg_jax.evaluation import figures
from mg_jax.stages import experiment
from mg_jax.train.writer import MetricWriter


@pytest.fixture
def typed(monkeypatch):
  """Sets the command line."""
  monkeypatch.setattr(figures, "commit", lambda: {"id": "a" * 40, "dirty": False})
  return lambda *words: monkeypatch.setattr(sys, "argv", list(words))


def _read(path):
  return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_a_record_holds_what_made_it(typed, tmp_path):
  typed("launch/train.py", "--figure=a.json", "--config=e.py:tiny", "--prompt=a red star")
  file = tmp_path / "new" / "a.json"
  values = {"psnr": np.float32(1.5), "n": np.arange(2), "bad": math.nan, "rows": ({"a": math.inf},)}
  figures.record(file, values)
  kept = _read(file)
  assert kept["command"] == "python launch/train.py --config=e.py:tiny '--prompt=a red star'"
  assert kept["values"] == {"psnr": 1.5, "n": [0, 1], "bad": None, "rows": [{"a": None}]}
  assert kept["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
  assert kept["versions"]["mg_jax"] == mg_jax.__version__
  assert set(figures.LIBRARIES) < set(kept["versions"])
  assert kept["machine"]["cores"] >= 1 and kept["machine"]["accelerator"] is None
  assert kept["commit"]["id"] == "a" * 40 and kept["date"].startswith("20")
  assert list(file.parent.iterdir()) == [file]


def test_another_process_may_tell_of_itself(typed, tmp_path):
  typed("launch/bench.py")
  about = {"versions": {"torch": "2.13"}, "machine": {"cpu": "x"}}
  figures.record(tmp_path / "a.json", {}, about=about)
  assert _read(tmp_path / "a.json").items() >= about.items()


def test_the_command_is_that_of_any_checkout(typed):
  root = figures._ROOT
  typed(str(root / "launch" / "train.py"), "--a", "--figure", "x.json", "b")
  assert figures.command() == "python launch/train.py --a b"


@pytest.mark.parametrize(
  "path, word, words",
  [
    ("a.txt", "--a=b", "a.txt is not a .json file"),
    ("a.json", "--video=/data/a.mp4", "'--video=/data/a.mp4' is an absolute path"),
    ("a.json", "/data/a.mp4", "is an absolute path"),
    ("a.json", "--workdirs=a,~/b", "is an absolute path"),
  ],
)
def test_what_cannot_become_a_figure_is_refused_before_it_is_measured(typed, path, word, words):
  typed("launch/train.py", word)
  with pytest.raises(UserError, match=words):
    figures.check(path)


def test_code_that_is_in_no_commit_is_told_before_it_is_measured(typed, monkeypatch, caplog):
  typed("launch/train.py")
  figures.check("a.json")
  assert not caplog.records
  monkeypatch.setattr(figures, "commit", lambda: {"id": "a" * 40, "dirty": True})
  figures.check("a.json")
  assert "differs from its commit, so a.json cannot be a figure" in caplog.text


def test_urls_and_relative_paths_are_no_paths_of_a_machine(typed):
  typed("launch/train.py", "--figure=/tmp/a.json", "--a=gs://b/c", "--b=a/b,c/d", "--f=3/4")
  figures.check("/tmp/a.json")


@pytest.fixture
def command():
  """A command that measures, with its flag."""
  known, answers = set(flags.FLAGS), []
  main = figures.measured(lambda argv: answers[0])
  yield main, answers
  for name in set(flags.FLAGS) - known:
    delattr(flags.FLAGS, name)


@pytest.mark.parametrize("about", [None, {"versions": {}, "machine": {}}])
def test_a_command_keeps_what_its_main_returns(typed, tmp_path, command, about):
  (main, answers), file = command, tmp_path / "a.json"
  typed("launch/train.py", f"--figure={file}")
  for answer in (None, {"a": 1}):
    answers[:] = [answer if about is None or answer is None else (answer, about)]
    flags.FLAGS["figure"].value = None
    assert main([]) is None and not file.exists()
    flags.FLAGS["figure"].value = str(file)
    main([])
    assert file.exists() == (answer is not None)
  assert _read(file)["values"] == {"a": 1}


def test_a_command_is_refused_before_it_runs(typed, command):
  main, answers = command
  typed("launch/train.py", "--workdir=/data/run")
  flags.FLAGS["figure"].value = "a.json"
  with pytest.raises(UserError, match="an absolute path"):
    main([])
  assert not answers  # it would have been asked for one


@pytest.mark.parametrize("status, kept", [("finished", True), ("interrupted", False)])
def test_a_training_keeps_the_ends_of_its_metrics(typed, tmp_path, monkeypatch, status, kept):
  def train(config, workdir):
    writer = MetricWriter(workdir)
    writer.write(0, {"eval/psnr": 10.5})
    writer.write(7, {"eval/psnr": 20.5})
    writer.close()
    return SimpleNamespace(status=status)

  monkeypatch.setattr(experiment, "run", train)
  typed("launch/train.py", "--config=e.py", "--workdir=runs/a")
  known, file = set(flags.FLAGS), tmp_path / "a.json"
  try:
    root = figures._ROOT / "launch/train.py"
    main = runpy.run_path(str(root), run_name="main_under_test")["main"]
    values = {"config": {}, "workdir": str(tmp_path), "figure": str(file)}
    for name, value in values.items():
      flags.FLAGS[name].value = value
    if kept:
      main(["train.py"])
    else:
      with pytest.raises(SystemExit):
        main(["train.py"])
  finally:
    for name in set(flags.FLAGS) - known:
      delattr(flags.FLAGS, name)
  assert file.exists() == kept
  if kept:
    assert _read(file)["command"] == "python launch/train.py --config=e.py --workdir=runs/a"
    ends = {"first": {"eval/psnr": 10.5}, "last": {"eval/psnr": 20.5, "step": 7}}
    assert _read(file)["values"] == ends


def _git(folder, *words):
  subprocess.run(
    ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
    cwd=folder, check=True, capture_output=True,
  )  # fmt: skip


def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
  monkeypatch.setattr(figures, "_ROOT", tmp_path)
  look = figures.commit.__wrapped__
  assert look() is None
  (tmp_path / "launch").mkdir()
  (tmp_path / "launch" / "a.py").write_text("1")
  _git(tmp_path, "init")
  assert look() is None  # nothing committed yet
  _git(tmp_path, "add", ".")
  _git(tmp_path, "commit", "-m", "a")
  (tmp_path / "notes.txt").write_text("not code")
  assert len(look()["id"]) == 40 and not look()["dirty"]
  (tmp_path / "launch" / "b.py").write_text("2")
  assert look()["dirty"]
  monkeypatch.setattr(figures, "_ROOT", tmp_path / "launch")
  assert look() is None  # inside of a checkout of something else
