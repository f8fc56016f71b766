"""Several processes: they train what one trains, save for each other, stop together and share work.

Every test here starts real processes that talk over local sockets.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from mg_jax.core.mesh import make_mesh
from mg_jax.data import pipeline
from mg_jax.data.sources.recipe import latent_sources
from mg_jax.precompute import statistics
from mg_jax.stages import experiment
from mg_jax.train.loop import TrainConfig, train
from mg_jax.train.optim import OptimConfig
from mg_jax.train.workdir import locked, prepare
from mg_jax.train.writer import read_metrics
from tests.train import tiny

# A run of the objective in conftest.py by `count` processes of `devices` devices each, on the real
# pipeline: arguments rank, port, count, then JSON: devices, workdir, file, mesh, config, pause.
_SCRIPT = textwrap.dedent("""
  import functools, json, os, runpy, sys, time
  import jax
  rank, port, count = int(sys.argv[1]), sys.argv[2], sys.argv[3]
  told = json.loads(sys.argv[4])
  jax.config.update("jax_num_cpu_devices", told["devices"])
  os.environ |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": count,
    "JAX_PROCESS_ID": str(rank)}
  jax.distributed.initialize = functools.partial(
    jax.distributed.initialize, heartbeat_timeout_seconds=told["heartbeat"])
  from mg_jax.core import distributed
  distributed.initialize()
  toy, ours = runpy.run_path(told["file"]), runpy.run_path(told["test"])
  from mg_jax.core.mesh import batch_share, make_mesh
  from mg_jax.train import evals, loop
  mesh = make_mesh(told["mesh"])
  objective, drawn = toy["Pair"](), []
  stream = ours["open_stream"](*batch_share(mesh), drawn=drawn, pause=told["pause"])
  held_out = lambda: [ours["open_stream"]().__next__()]
  evaluator = evals.Evaluator(objective, held_out, mesh, key=jax.random.key(0))
  result = loop.train(objective, stream, loop.TrainConfig(**told["config"]), told["workdir"], mesh,
    optim=ours["OPTIM"], hooks=[loop.Hook("eval", 1000, evaluator)])
  print(json.dumps([result.status, result.step, drawn]))
""")

OPTIM = OptimConfig(lr=1e-2)
_CONFIG = {
  "experiment": "toy", "ema": 0.9, "checkpoint_every": 1000, "log_every": 1, "keep": 9
}  # fmt: skip
ROWS, RECORDS = 8, 40


def _row(index, record, rng):
  x = rng.normal(size=8).astype(np.float32)
  return {"x": x, "y": np.sin(x), "index": np.int32(index)}


def open_stream(piece=0, pieces=1, *, drawn=None, pause=0.0):
  """The rows of one process; the records of every batch are noted in `drawn`."""
  entry = pipeline.Entry("toy", list(range(RECORDS)), _row)
  stream = pipeline.Feed((entry,), ROWS).stream(process_index=piece, process_count=pieces)

  class Noted:
    get_state, set_state = stream.get_state, stream.set_state

    def __next__(self):
      time.sleep(pause)
      batch = next(stream)
      if drawn is not None:
        drawn.append([stream.get_state()["global_next_index"] // ROWS, *batch["index"].tolist()])
      return batch

  return Noted()


_ENCODE = textwrap.dedent("""
  import json, pathlib, sys
  import jax, jax.numpy as jnp
  rank, port, root = int(sys.argv[1]), sys.argv[2], pathlib.Path(json.loads(sys.argv[4]))
  jax.distributed.initialize(f"localhost:{port}", 2, rank, heartbeat_timeout_seconds=10)
  from mg_jax.data.sources.clip_config import DataConfig
  from mg_jax.models.encoders.streams import Streams
  from mg_jax.precompute import latents
  from mg_jax.precompute.clips import encode

  class Mean:
    def apply(self, variables, video, method):
      return video.mean((2, 3), keepdims=True) * variables["params"], None

  written, write = [], latents.RecordWriter.write_shard
  def counted(self, shard, records):
    written.append(f"{self.folder.parts[-3]} {shard}")
    return write(self, shard, records)
  latents.RecordWriter.write_shard, latents.SHARD = counted, 2
  size = {"frames": 2, "height": 16, "width": 16}
  data = DataConfig(clips=7, held_out=3, cache=str(root / f"toy{rank}"), **size)
  options = {"origin": "tae", "step": 1, "batch": 2, "text": Streams({})}
  metadata = encode(data, Mean(), jnp.float32(2), root / "latents", **options)
  print(json.dumps([written, metadata]))
""")


def _start(script, told, *, count=2):
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  hidden = ("XLA_FLAGS",)  # the device count of the test process
  env = {name: value for name, value in os.environ.items() if name not in hidden}
  env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
  return [
    subprocess.Popen(
      [sys.executable, "-c", script, str(rank), str(port), str(count), json.dumps(told)],
      env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    for rank in range(count)
  ]  # fmt: skip


def _outcomes(processes, timeout=150):
  """(exit status, last line of output as JSON or None where it failed, errors) of every process."""
  try:
    outputs = [process.communicate(timeout=timeout) for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [
    (process.returncode, None if process.returncode else json.loads(out.splitlines()[-1]), err)
    for process, (out, err) in zip(processes, outputs, strict=True)
  ]


def _results(processes):
  outcomes = _outcomes(processes)
  assert [code for code, _, _ in outcomes] == [0] * len(processes), outcomes[0][2][-2000:]
  return [result for _, result, _ in outcomes]


@pytest.fixture
def launch(toy, tmp_path):
  """launch(steps, count=, mesh=): starts a run in tmp_path / "run"; the same call resumes it."""

  def start(steps, *, count=2, mesh=(2, 2, 1, 1), heartbeat=100, pause=0.0, **config):
    told = {
      "devices": int(np.prod(mesh)) // count, "workdir": str(tmp_path / "run"), "mesh": mesh,
      "file": str(toy.file), "test": __file__, "heartbeat": heartbeat, "pause": pause,
      "config": _CONFIG | {"steps": steps} | config,
    }  # fmt: skip
    return _start(_SCRIPT, told, count=count)

  return start


def _alone(toy, workdir, steps, mesh=(2, 2, 1, 1)):
  """The same run in this process; returns what it drew."""
  drawn, config = [], TrainConfig(**_CONFIG, steps=steps)
  train(
    toy.Pair(), open_stream(drawn=drawn), config, workdir, make_mesh(mesh), optim=OPTIM
  )  # fmt: skip
  return _batches([drawn])


def _batches(drawn_by_process):
  """Records by step, the pieces of all processes side by side; what was drawn ahead included."""
  steps = {}
  for drawn in drawn_by_process:
    pieces = {step: rows for step, *rows in drawn}  # of a batch that was drawn twice, one
    for step, rows in pieces.items():
      steps.setdefault(step, []).extend(rows)
  return steps


def _metrics(workdir):
  """What the training steps measured, but for the clock."""
  lines = [{k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))}
           for line in read_metrics(workdir) if "model/loss" in line]  # fmt: skip
  return sorted(lines, key=lambda line: line["step"])


def _same_run(workdir, other, steps):
  ours, theirs = _metrics(workdir), _metrics(other)
  assert [line["step"] for line in ours] == list(range(1, steps + 1))
  for a, b in zip(ours, theirs, strict=True):
    assert a.keys() == b.keys()
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)


def _wait_for(workdir, step, processes, *, saved=None):
  """Until a run has written the metrics of a step, and the checkpoint of another."""
  deadline = time.monotonic() + 90
  while time.monotonic() < deadline and all(process.poll() is None for process in processes):
    file = workdir / "metrics.jsonl"
    if file.exists() and f'"step": {step},' in file.read_text():
      # A checkpoint gets its name when it is complete.
      if saved is None or (workdir / "checkpoints" / str(saved)).is_dir():
        return
    time.sleep(0.05)
  outcomes = _outcomes(processes, timeout=1)
  raise AssertionError(f"the run did not come to step {step}: {outcomes[0][2][-2000:]}")


@pytest.mark.slow
@pytest.mark.multiproc
def test_four_two_and_one_process_go_on_with_one_run(toy, launch, tmp_path):
  whole = _alone(toy, tmp_path / "whole", 9)
  four = _results(launch(3, count=4))
  two = _results(launch(6, count=2))
  assert [result[:2] for result in (*four, *two)] == [["finished", 3]] * 4 + [["finished", 6]] * 2
  one = _alone(toy, tmp_path / "run", 9)
  _same_run(tmp_path / "run", tmp_path / "whole", 9)
  parts = [_batches([r[2] for r in results]) for results in (four, two)] + [one]
  for part, steps in zip(parts, [(1, 2, 3), (4, 5, 6), (7, 8, 9)], strict=True):
    for step in steps:
      assert part[step] == whole[step], "rows and their order are those of one process"
  saved = sorted(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir())
  assert saved == [3, 6, 9]


@pytest.mark.slow
@pytest.mark.multiproc
def test_processes_that_share_their_rows_train_what_one_trains(toy, launch, tmp_path):
  mesh = (1, 1, 2, 2)  # a process holds a half of the tokens, and all rows
  whole = _alone(toy, tmp_path / "whole", 3, mesh)
  results = _results(launch(3, mesh=mesh))
  for _, _, drawn in results:
    assert {step: _batches([drawn])[step] for step in (1, 2, 3)} == {k: whole[k] for k in (1, 2, 3)}
  _same_run(tmp_path / "run", tmp_path / "whole", 3)


_EXPERIMENT = textwrap.dedent("""
  import json, os, runpy, sys
  import jax
  rank, port, told = sys.argv[1], sys.argv[2], json.loads(sys.argv[4])
  os.environ |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": rank}
  from mg_jax.core import distributed
  distributed.initialize()
  from mg_jax.stages import experiment, previews
  wrote, write = [], previews._write
  previews._write = lambda *args: (wrote.append(args[1]), write(*args))
  result = experiment.run(told["config"], told["workdir"])
  print(json.dumps([result.status, result.step, wrote]))
""")


@pytest.mark.slow
@pytest.mark.multiproc
def test_a_whole_experiment_runs_on_weights_that_no_process_holds_alone(tmp_path):
  config = tiny.tae(tmp_path)
  config["mesh"] = [1, 2, 1, 1]
  results = _results(_start(_EXPERIMENT, {"config": config, "workdir": str(tmp_path / "run")}))
  assert results == [["finished", 2, [2]], ["finished", 2, []]], "one process writes the preview"
  assert any("eval/psnr" in line for line in read_metrics(tmp_path / "run"))
  assert (tmp_path / "run/previews/step-0000002.png").exists()
  # The same on one device: a second process neither adds clips to what is measured nor takes any.
  alone = experiment.run(config | {"mesh": [1, 1, 1, 1]}, str(tmp_path / "alone"))
  assert alone.status == "finished"
  ours, theirs = (
    json.loads((tmp_path / name / statistics.FILE).read_text()) for name in ("run", "alone")
  )
  assert ours["histogram"]["count"] == theirs["histogram"]["count"]
  np.testing.assert_allclose(ours["std"], theirs["std"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.multiproc
def test_one_notice_stops_all_at_one_step_and_the_same_command_resumes(launch, tmp_path):
  args = {"pause": 0.1, "max_seconds": 600}
  processes = launch(60, **args)
  _wait_for(tmp_path / "run", 1, processes)
  processes[1].send_signal(signal.SIGTERM)
  first, second = _results(processes)
  assert first[:2] == second[:2] and first[0] == "interrupted" and 0 < first[1] < 60
  assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == [str(first[1])]
  assert [r[:2] for r in _results(launch(60, **args))] == [["finished", 60]] * 2
  assert [line["step"] for line in _metrics(tmp_path / "run")] == list(range(1, 61))


@pytest.mark.slow
@pytest.mark.multiproc
@pytest.mark.parametrize("victim", [1, 0], ids=["worker", "coordinator"])
def test_a_killed_process_ends_the_others_and_a_restart_resumes(toy, launch, tmp_path, victim):
  heartbeat = 10
  args = {"checkpoint_every": 4, "heartbeat": heartbeat}
  processes = launch(30, pause=0.2, **args)
  _wait_for(tmp_path / "run", 6, processes, saved=4)
  processes[victim].kill()
  begin = time.monotonic()
  other = processes[1 - victim]
  assert other.wait(timeout=heartbeat + 20) != 0
  assert time.monotonic() - begin < heartbeat + 10
  _outcomes(processes)
  outcomes = _outcomes(launch(12, **args))
  assert [result[:2] for _, result, _ in outcomes] == [["finished", 12]] * 2
  assert re.search(r"toy: step [48] of 12", outcomes[0][2]), "it goes on from a checkpoint"
  _alone(toy, tmp_path / "whole", 12)
  _same_run(tmp_path / "run", tmp_path / "whole", 12)


@pytest.mark.slow
@pytest.mark.multiproc
def test_a_stuck_process_is_caught_by_the_watchdog_of_the_others(launch, tmp_path):
  processes = launch(1000, pause=0.1, watchdog_seconds=12.0)
  _wait_for(tmp_path / "run", 3, processes)
  processes[1].send_signal(signal.SIGSTOP)
  assert processes[0].wait(timeout=60) == 1
  processes[1].kill()
  told = _outcomes(processes)[0][2]
  assert "Timeout (0:00:12)!" in told and "most recent call first" in told and "loop.py" in told


@pytest.mark.slow
@pytest.mark.multiproc
def test_a_second_job_of_several_processes_is_refused(launch, tmp_path):
  with locked(prepare(tmp_path / "run")):
    first, second = _outcomes(launch(3, heartbeat=10))
  assert first[0] != 0 and second[0] != 0
  assert f"is in use by process {os.getpid()} on host" in first[2]
  assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.slow
@pytest.mark.multiproc
def test_every_shard_of_latents_is_written_by_one_process(tmp_path):
  (first, metadata), (second, same) = _results(_start(_ENCODE, str(tmp_path)))
  assert first == ["train 0", "train 2", "validation 0"]
  assert second == ["train 1", "train 3", "validation 1"]
  assert metadata == same and metadata["step"] == 1
  sources = [latent_sources(tmp_path / "latents", s, "video") for s in ("train", "validation")]
  assert [len(source["2x16x16"]) for source in sources] == [7, 3]
