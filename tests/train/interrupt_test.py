"""SIGTERM and SIGKILL at bad moments: while compiling, evaluating, encoding, exporting."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from mg_jax.core import termination
from mg_jax.data.records import MANIFEST, RecordSource, RecordWriter
from mg_jax.train import averaging
from mg_jax.train.checkpoint import Checkpointer
from tests.train import toyrun

# What has to be tidied up in time is the harder of the two.
NUMBERS = [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]


def _steps(workdir):
  folder = workdir / "checkpoints"
  return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def _signalled(process, number, after):
  """Exit code, stderr and seconds from the signal to the end."""
  toyrun.wait_for(after, process)
  begin = time.monotonic()
  process.send_signal(number)
  _, err = process.communicate(timeout=90)
  return process.returncode, err, time.monotonic() - begin


def _compiling(tmp_path, **told):
  return {"compile": 60, "ready": str(tmp_path / "ready"), "grace": 1, **told}


def test_sigterm_in_a_long_first_compilation_ends_in_time(tmp_path):
  process = toyrun.start(tmp_path / "run", **_compiling(tmp_path))
  code, err, seconds = _signalled(process, signal.SIGTERM, tmp_path / "ready")
  assert code == termination.CODE == 143, err
  assert err.splitlines()[-1].startswith("stopped by SIGTERM before the first step, so there is")
  assert "Traceback" not in err and seconds < 30
  assert _steps(tmp_path / "run") == []


@pytest.mark.slow
def test_sigterm_in_the_first_compilation_after_a_restart_keeps_what_there_was(tmp_path):
  run = tmp_path / "run"
  assert toyrun.run(run, steps=2)[0] == 0 and _steps(run) == [2]
  process = toyrun.start(run, **_compiling(tmp_path, steps=4))
  code, _, _ = _signalled(process, signal.SIGTERM, tmp_path / "ready")
  assert code == 143 and _steps(run) == [2]
  code, err = toyrun.run(run, steps=4)
  assert code == 0 and "step 2 of 4" in err[0]


@pytest.mark.slow
def test_sigkill_in_the_first_compilation_leaves_a_workdir_to_start_in(tmp_path):
  run, ready = tmp_path / "run", tmp_path / "ready"
  process = toyrun.start(run, compile=60, ready=str(ready))
  assert _signalled(process, signal.SIGKILL, ready)[0] == -signal.SIGKILL
  assert toyrun.run(run, steps=2)[0] == 0 and _steps(run) == [2]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_notice_during_an_evaluation_keeps_the_steps_before_it(tmp_path, number):
  run, ready = tmp_path / "run", tmp_path / "ready"
  process = toyrun.start(
    run, fault_at=3, hang=4, ready=str(ready), grace=1, train={"checkpoint_every": 3}
  )
  code, err, _ = _signalled(process, number, ready)
  if number == signal.SIGTERM:
    # It has unsaved steps, so it is not cut off: the evaluation ends, and the run saves and stops.
    assert code == 75 and "stopped by SIGTERM at step 4" in err, err
    assert _steps(run) == [3, 4]
  else:
    assert code == -number and _steps(run) in ([], [3])
  assert toyrun.run(run)[0] == 0 and 6 in _steps(run)


# A command of one statement, in which the file `ready` says when it may be stopped.
_COMMAND = """
  import pathlib, time
  from mg_jax.core import config, termination
  termination.GRACE = 60
  def stop_here(*args, **kwargs):
    pathlib.Path({ready!r}).write_text("")
    time.sleep(60)
  def main(argv):
    {body}
  config.run(main)
"""


def _command(body, ready):
  body = textwrap.indent(textwrap.dedent(body), "  ").strip()
  script = textwrap.dedent(_COMMAND).format(body=body, ready=str(ready))
  env = {**os.environ, "PYTHONPATH": str(toyrun.ROOT), "XLA_FLAGS": ""}
  command = [sys.executable, "-c", script]
  return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def _visible(folder):
  return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


@pytest.fixture
def runs(toy, tmp_path):
  """Two runs to average."""
  for name in ("a", "b"):
    s = toy.setup()
    saver = Checkpointer(tmp_path / name, name="toy")
    saver.save(1, s.state, data=None, config={"stage": "toy"})
    saver.close()
  return tmp_path


@pytest.mark.parametrize("number", NUMBERS, ids=["SIGTERM", "SIGKILL"])
def test_a_stopped_average_is_not_there_and_the_same_command_makes_it(runs, number):
  body = f"""
    from mg_jax.train import averaging
    averaging.Checkpointer.save = stop_here
    averaging.average(["{runs}/a", "{runs}/b"], "{runs}/mean")
  """
  code, err, seconds = _signalled(_command(body, runs / "ready"), number, runs / "ready")
  assert code == (143 if number == signal.SIGTERM else -number), err
  assert _visible(runs) == ["a", "b", "ready"] and seconds < 30
  if number == signal.SIGTERM:
    assert err.splitlines()[-1] == termination.SENTENCE
    assert not list(runs.glob(".partial-*")), "what was unfinished is removed"
  assert averaging.average([f"{runs}/a", f"{runs}/b"], runs / "mean") > 0


@pytest.mark.parametrize("number", NUMBERS, ids=["SIGTERM", "SIGKILL"])
def test_a_stopped_export_of_weights_is_not_there(tmp_path, number):
  body = f"""
    import numpy as np
    from mg_jax.data import tensors
    from mg_jax.models.weights import published
    def parts():
      yield "a", [np.zeros(4, np.float32)]
      stop_here()
    described = {{"dtype": "float32"}}
    published._write("{tmp_path}/weights", described, {{"a": (4,), "b": (4,)}}, parts(), {{}})
  """
  code, err, _ = _signalled(_command(body, tmp_path / "ready"), number, tmp_path / "ready")
  assert code == (143 if number == signal.SIGTERM else -number), err
  assert _visible(tmp_path) == ["ready"]
  if number == signal.SIGTERM:
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_stopped_latents_go_on_with_the_shards_that_are_missing(tmp_path, number):
  body = f"""
    import numpy as np
    from mg_jax.data.records import RecordWriter
    writer = RecordWriter("{tmp_path}/latents", shards=2)
    writer.write_shard(0, [{{"latent": np.ones(3, np.float32)}}])
    def records():
      yield {{"latent": np.ones(3, np.float32)}}
      stop_here()
    writer.write_shard(1, records())
  """
  code, err, _ = _signalled(_command(body, tmp_path / "ready"), number, tmp_path / "ready")
  assert code == (143 if number == signal.SIGTERM else -number), err
  latents = tmp_path / "latents"
  assert not (latents / MANIFEST).exists()
  writer = RecordWriter(latents, shards=2)
  assert writer.finished_shards() == {0}
  writer.write_shard(1, [{"latent": np.zeros(3, np.float32)}])
  assert writer.finish() == 2 and len(RecordSource(latents)) == 2
  assert not list(latents.glob(".partial-*")), "what a kill has left is removed with the shard"


def test_the_thread_waits_for_a_main_thread_that_tidies_up(monkeypatch):
  monkeypatch.setattr(termination, "GRACE", 30.0)
  before, seen = signal.getsignal(signal.SIGTERM), []
  with termination.on_sigterm(lambda: seen.append(1)):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)
  assert seen == [1] and signal.getsignal(signal.SIGTERM) is before


_FORK = """
  import os, signal, time
  from mg_jax.core import termination
  termination.GRACE = 0.2
  with termination.on_sigterm(lambda: print("ours")):
    child = os.fork()
    if not child:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(10)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    time.sleep(0.6)
"""


def test_a_signal_to_a_forked_child_ends_only_the_child():
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(_FORK)], capture_output=True, text=True, timeout=60,
    env={**os.environ, "PYTHONPATH": str(toyrun.ROOT)},
  )  # fmt: skip
  assert (done.returncode, done.stdout.split()) == (0, ["-15"]), done.stderr
