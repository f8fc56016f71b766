"""The loop: exact resume, interruptions, crashes, budgets, hooks and the order of restoring."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import numpy as np
import pytest

from mg_jax.core.config import build
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.tree import fingerprint
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.loop import Hook, TrainConfig, train
from mg_jax.train.optim import OptimConfig
from mg_jax.train.warmstart import WarmStartConfig
from mg_jax.train.workdir import locked, prepare
from mg_jax.train.writer import read_metrics

_CONFIG = TrainConfig(
  experiment="toy", steps=6, ema=0.9, checkpoint_every=4, log_every=1, max_skipped=3
)
_OPTIM = OptimConfig(lr=1e-2, schedule="cosine", warmup=2)


def _train(toy, workdir, config=_CONFIG, data=None, mesh=(1, 1, 1, 1), **kwargs):
  objective = kwargs.pop("objective", toy.Pair(roles=("model",)))
  data = toy.Stream() if data is None else data
  return train(objective, data, config, workdir, make_mesh(mesh), optim=_OPTIM, **kwargs)


def _content(state):
  return fingerprint(dataclasses.replace(state, history=None))


def _numbers(workdir):
  """Every metric that does not depend on the clock, by step."""
  lines = [{k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))}
           for line in read_metrics(workdir)]  # fmt: skip
  return sorted(lines, key=lambda line: line["step"])


class _Stop:
  """A hook that sends a signal one step early: the loop looks for it before its hooks run."""

  def __init__(self, step, number=signal.SIGTERM):
    self.step, self.number = step, number

  def __call__(self, state, step):
    if step == self.step - 1:
      os.kill(os.getpid(), self.number)


@pytest.fixture
def whole(toy, tmp_path):
  """An unbroken run."""
  result = _train(toy, tmp_path / "whole")
  assert result.status == "finished"
  return _content(result.state), _numbers(tmp_path / "whole")


@pytest.mark.parametrize(("stop", "number"), [(3, signal.SIGTERM), (4, signal.SIGINT)])
def test_a_stopped_run_resumes_exactly(toy, tmp_path, whole, capsys, stop, number):
  handler = signal.getsignal(number)
  hook = Hook("stop", 1, _Stop(stop, number))
  first = _train(toy, tmp_path / "run", hooks=[hook])
  assert (first.status, first.step) == ("interrupted", stop)
  assert "the same command goes on from there" in capsys.readouterr().err
  assert signal.getsignal(number) is handler, "handlers are given back"
  stream = toy.Stream()
  second = _train(toy, tmp_path / "run", data=stream)
  assert second.status == "finished" and second.step == 6
  assert stream.drawn[0] == 0 and stream.drawn[1] in (1, stop)  # shapes first, then the position
  assert [n for n in stream.drawn if n >= stop][: 6 - stop] == list(range(stop, 6))
  assert (_content(second.state), _numbers(tmp_path / "run")) == whole


def test_resume_on_another_mesh_follows_the_same_path(toy, tmp_path, whole):
  _train(toy, tmp_path / "run", hooks=[Hook("stop", 1, _Stop(3))])
  result = _train(toy, tmp_path / "run", mesh=(2, 2, 1, 2))
  for ours, theirs in zip(_numbers(tmp_path / "run"), whole[1], strict=True):
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4)
  assert not result.state.params["model"]["net"]["in_kernel"].sharding.is_fully_replicated


def test_a_finished_run_stays_finished(toy, tmp_path):
  calls = []
  hook = Hook("count", 100, lambda state, step: calls.append(step))
  for _ in range(2):
    result = _train(toy, tmp_path, hooks=[hook])
    assert (result.status, result.step) == ("finished", 6)
  assert calls == [6]


@pytest.mark.slow
def test_kill_during_a_save_loses_only_what_came_after_the_last_one(toy, tmp_path, whole):
  script = textwrap.dedent(f"""
    import os, runpy, signal, threading
    toy = runpy.run_path({str(toy.file)!r})
    from mg_jax.core.mesh import make_mesh
    from mg_jax.train import checkpoint, loop, optim
    import orbax.checkpoint as ocp

    save = ocp.CheckpointManager.save
    def save_and_die(self, step, **kwargs):
      if step != 4:
        return save(self, step, **kwargs)
      real = os.rename
      os.rename = os.replace = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
      import pathlib
      pathlib.Path.rename = pathlib.Path.replace = os.rename
      out = save(self, step, **kwargs)
      self.wait_until_finished()
      os.kill(os.getpid(), signal.SIGKILL)
    ocp.CheckpointManager.save = save_and_die
    config = loop.TrainConfig(
      experiment="toy", steps=6, ema=0.9, checkpoint_every=2, log_every=1, max_skipped=3)
    loop.train(toy["Pair"](roles=("model",)), toy["Stream"](), config, {str(tmp_path / "run")!r},
      make_mesh((1, 1, 1, 1)), optim=optim.OptimConfig(lr=1e-2, schedule="cosine", warmup=2))
  """)
  env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
  run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, timeout=120)
  assert run.returncode == -signal.SIGKILL, run.stderr.decode()[-2000:]
  left = [p.name for p in (tmp_path / "run/checkpoints").iterdir()]
  assert any("tmp" in name for name in left), left
  result = _train(toy, tmp_path / "run", dataclasses.replace(_CONFIG, checkpoint_every=2))
  left = [p.name for p in (tmp_path / "run/checkpoints").iterdir()]
  assert sorted(left) == ["2", "4", "6"]
  assert (_content(result.state), _numbers(tmp_path / "run")) == whole


_WATCHED = """
  import runpy, sys, time
  toy = runpy.run_path(sys.argv[1])
  from mg_jax.core.mesh import make_mesh
  from mg_jax.train import checkpoint, loop, optim

  def slow(seconds, call):
    def later(*args, **kwargs):
      time.sleep(seconds)
      return call(*args, **kwargs)
    return later

  class Stream(toy["Stream"]):
    def __next__(self):
      time.sleep(600 if self.position == int(sys.argv[3]) else 0)
      return super().__next__()

  class Objective(toy["Pair"]):
    loss = slow(3, toy["Pair"].loss)  # while it is traced

  checkpoint.Checkpointer.save = slow(5, checkpoint.Checkpointer.save)
  config = loop.TrainConfig(
    experiment="toy", steps=6, checkpoint_every=4, log_every=1, watchdog_seconds=4)
  hook = loop.Hook("look", 3, slow(5, lambda state, step: None))
  loop.train(Objective(roles=("model",)), Stream(), config, sys.argv[2],
    make_mesh((1, 1, 1, 1)), optim=optim.OptimConfig(lr=1e-2), hooks=[hook])
"""


@pytest.mark.slow
@pytest.mark.parametrize("stuck", [-1, 5], ids=["never", "stuck"])
def test_the_watchdog_ends_a_stuck_run_and_nothing_else(toy, tmp_path, stuck):
  command = [sys.executable, "-c", textwrap.dedent(_WATCHED), toy.file, tmp_path, stuck]
  env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
  run = subprocess.run(list(map(str, command)), env=env, capture_output=True, timeout=120)
  told = run.stderr.decode()
  if stuck < 0:
    assert run.returncode == 0 and "finished at step 6 of 6" in told, told[-2000:]
  else:
    assert run.returncode == 1, told[-2000:]
    assert "step 6 takes longer than 4 s (train.watchdog_seconds), so this process ends" in told
    assert "Timeout (0:00:04)!" in told and "in __next__" in told, "the stack of the reader"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["4"]


def test_a_workdir_in_use_is_refused_before_anything_is_traced(toy, tmp_path):
  with locked(prepare(tmp_path)), pytest.raises(UserError, match="is in use by"):
    _train(toy, tmp_path)
  assert not (tmp_path / "checkpoints").exists()


def test_too_many_bad_steps_abort_with_a_bundle(toy, tmp_path):
  poison = dict.fromkeys((1, 3, 4, 5), np.nan)
  with pytest.raises(UserError, match="3 steps in a row up to step 6") as caught:
    _train(toy, tmp_path, dataclasses.replace(_CONFIG, steps=20), toy.Stream(poison=poison))
  bundles = sorted((tmp_path / "bundles").iterdir())
  assert str(bundles[-1]) in str(caught.value)
  assert len(bundles) == 4
  bundle = json.loads(bundles[0].read_text())
  assert bundle["step"] == 2 and bundle["batch"]["index"] == list(range(100, 116))
  assert bundle["metrics"]["model/loss"] == "nan" and len(bundle["key"]) == 2
  reader = Checkpointer(tmp_path, read_only=True)
  assert reader.steps() == [4]


def test_the_time_budget_ends_the_run_and_its_schedule(toy, tmp_path):
  class Slow(toy.Stream):
    def __next__(self):
      time.sleep(0.05)
      return super().__next__()

  config = dataclasses.replace(_CONFIG, steps=100_000, max_seconds=15.0, checkpoint_every=10**6)
  first = _train(toy, tmp_path, config, Slow(), hooks=[Hook("stop", 1, _Stop(2))])
  assert first.status == "interrupted" and 0 < first.elapsed
  result = _train(toy, tmp_path, config, Slow())
  assert result.status == "out of time" and 15.0 <= result.elapsed < 25.0
  rates = [line["model/lr"] for line in read_metrics(tmp_path) if line["step"] > 2]
  assert len(rates) > 3 and rates == sorted(rates, reverse=True)
  assert rates[-1] < 0.02 * _OPTIM.lr, "the cosine has come to its end"
  again = _train(toy, tmp_path, config, Slow())
  assert (again.status, again.step) == ("out of time", result.step)


def test_starting_and_compiling_use_up_no_budget(toy, tmp_path, capfd):
  config = dataclasses.replace(_CONFIG, steps=100, max_seconds=1e-3)
  result = _train(toy, tmp_path, config)
  assert result.status == "out of time" and 1 <= result.step < 100
  printed = "".join(capfd.readouterr())
  assert re.search(r"compiling the training step\ncompiled after \d+ s\n", printed), printed


def test_slow_steps_are_logged_between_lines_of_metrics(toy, tmp_path, capfd, monkeypatch):
  config = dataclasses.replace(_CONFIG, steps=6, log_every=4)
  _train(toy, tmp_path / "fast", config)
  monkeypatch.setattr("mg_jax.train.report.PATIENCE", 0.0)
  quick = "".join(capfd.readouterr())
  _train(toy, tmp_path / "slow", config)
  slow = "".join(capfd.readouterr())
  assert [n for n in range(1, 7) if f"step {n}/6 | " in quick] == [4, 6]
  assert [n for n in range(1, 7) if f"step {n}/6 | " in slow] == [1, 2, 3, 4, 5, 6]
  lines = [[line["step"] for line in read_metrics(tmp_path / n)] for n in ("fast", "slow")]
  assert lines == [[4, 6], [4, 6]]


def test_hooks_come_at_their_cadence_and_at_the_end(toy, tmp_path, capfd):
  calls = []

  def look(state, step):
    assert int(state.step) == step
    calls.append(step)
    return {"eval/x": step / 2}

  _train(toy, tmp_path, hooks=[Hook("look", 4, look)])
  assert calls == [4, 6]
  written = {line["step"]: line["eval/x"] for line in read_metrics(tmp_path) if "eval/x" in line}
  assert written == {4: 2.0, 6: 3.0}
  printed = "".join(capfd.readouterr())
  assert "step 4: look\nstep 4: look took 0 s | eval/x 2\n" in printed


def test_a_hook_may_see_the_run_before_its_first_step(toy, tmp_path):
  seen = []

  def look(state, step):
    seen.append((step, int(state.step)))
    return {"looked": 1.0}

  other = lambda state, step: seen.append(("other", step))  # noqa: E731
  hooks = [Hook("look", 4, look, start=True), Hook("other", 4, other)]
  _train(toy, tmp_path, hooks=hooks)
  assert seen == [(0, 0), (4, 4), ("other", 4), (6, 6), ("other", 6)]
  assert read_metrics(tmp_path)[0] == {"step": 0, "looked": 1.0}
  _train(toy, tmp_path, dataclasses.replace(_CONFIG, steps=8), hooks=hooks)
  assert seen[5:] == [(8, 8), ("other", 8)], "a run that goes on has begun before"


def test_the_end_of_the_data_is_an_error(toy, tmp_path):
  with pytest.raises(UserError, match="data end at step 3 of 6"):
    _train(toy, tmp_path, data=toy.Stream(end=3))


def test_explicit_resume_takes_everything_and_warm_start_only_parameters(toy, tmp_path):
  source = _train(toy, tmp_path / "a")
  longer = dataclasses.replace(_CONFIG, steps=7, experiment="b", resume=str(tmp_path / "a"))
  stream = toy.Stream()
  result = _train(toy, tmp_path / "b", longer, stream)
  assert result.step == 7 and 6 in stream.drawn
  warm = dataclasses.replace(
    _CONFIG, experiment="c", steps=1, warm_start=WarmStartConfig(workdir=str(tmp_path / "a"))
  )
  seen = []
  data = toy.Stream(poison={0: np.nan})  # the only step is skipped, so the start can be seen
  hook = Hook("see", 1, lambda state, step: seen.append(step))
  result = _train(toy, tmp_path / "c", warm, data, hooks=[hook])
  assert seen == [1]
  assert fingerprint(result.state.params) == fingerprint(source.state.ema)
  assert fingerprint(result.state.ema) == fingerprint(source.state.ema)
  assert not any(np.any(x) for x in jax.tree.leaves(result.state.opt_state))


def test_phases_are_not_left_out(toy, tmp_path):
  def go(phase, name="run", **changes):
    config = dataclasses.replace(_CONFIG, steps=2 * phase, phase=phase, **changes)
    about = {"train": {"phase": phase}}
    return _train(toy, tmp_path / name, config, description=about).step

  assert go(1) == 2
  for where in ({}, {"name": "other", "resume": str(tmp_path / "run")}):
    with pytest.raises(UserError, match="goes on from phase 2, and step 2 is of phase 1"):
      go(3, **where)
  assert [go(phase) for phase in (2, 3, 1)] == [4, 6, 6]


def test_own_workdir_comes_before_everything_else(toy, tmp_path):
  first = _train(toy, tmp_path / "run")
  config = dataclasses.replace(_CONFIG, resume=str(tmp_path / "nowhere"))
  assert _content(_train(toy, tmp_path / "run", config).state) == _content(first.state)


def test_a_workdir_that_cannot_be_used_is_refused_before_anything_is_traced(toy, tmp_path):
  class Untouched(toy.Pair):
    def init(self, key, batch):
      raise AssertionError("traced")

  (tmp_path / "file").write_text("")
  for workdir, what in ((tmp_path / "no/run", "is not a folder"), (tmp_path / "file", "cannot be")):
    with pytest.raises(UserError, match=what):
      _train(toy, workdir, objective=Untouched())
  _train(toy, tmp_path / "toy", dataclasses.replace(_CONFIG, steps=1))
  with pytest.raises(UserError, match="holds experiment 'toy'"):
    other = dataclasses.replace(_CONFIG, experiment="other")
    _train(toy, tmp_path / "toy", other, objective=Untouched())


def test_no_handlers_outside_the_main_thread(toy, tmp_path):
  before = signal.getsignal(signal.SIGTERM)
  results = []
  thread = threading.Thread(
    target=lambda: results.append(_train(toy, tmp_path, dataclasses.replace(_CONFIG, steps=1)))
  )
  thread.start()
  thread.join()
  assert results[0].status == "finished" and signal.getsignal(signal.SIGTERM) is before


def test_the_config_is_stored_and_the_cadences_are_checked(toy, tmp_path):
  _train(toy, tmp_path, dataclasses.replace(_CONFIG, steps=1), description={"model": {"depth": 2}})
  meta = json.loads((tmp_path / "checkpoints/1/meta/metadata").read_text())
  assert meta["config"] == {"model": {"depth": 2}} and meta["name"] == "toy"
  with pytest.raises(UserError, match="at least 1"):
    TrainConfig(log_every=0)


def test_a_config_section_becomes_the_dataclass():
  section = {"experiment": "x", "warm_start": {"workdir": "a", "rename": [["b", "c"]]}}
  config = build(TrainConfig, section)
  assert config.warm_start == WarmStartConfig(workdir="a", rename=(("b", "c"),))
  with pytest.raises(UserError, match="workdri"):
    build(TrainConfig, {"warm_start": {"workdri": "a"}})
