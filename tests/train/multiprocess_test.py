"""Two processes: one preemption notice stops both and both go on; they share out the latents."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from mg_jax.data.recipe import latent_sources
from mg_jax.train.writer import read_metrics

_SCRIPT = textwrap.dedent("""
  import json, os, runpy, sys, time
  import jax
  rank, port, workdir, file = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
  jax.config.update("jax_num_cpu_devices", 2)
  os.environ |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": str(rank)}
  from mg_jax.core import distributed
  distributed.initialize()
  toy = runpy.run_path(file)
  from mg_jax.core.mesh import make_mesh
  from mg_jax.train import loop, optim

  class Half(toy["Stream"]):
    def __next__(self):
      time.sleep(0.1)
      return {name: rows[rank::2] for name, rows in super().__next__().items()}

  config = loop.TrainConfig(
    experiment="toy", steps=60, ema=0.9, checkpoint_every=1000, log_every=1, max_seconds=600)
  result = loop.train(toy["Pair"](), Half(), config, workdir, make_mesh((2, 2, 1, 1)),
    optim=optim.OptimConfig(lr=1e-2))
  print(json.dumps([result.status, result.step]))
""")


_ENCODE = textwrap.dedent("""
  import json, pathlib, sys
  import jax, jax.numpy as jnp
  rank, port, root = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
  jax.distributed.initialize(f"localhost:{port}", 2, rank, heartbeat_timeout_seconds=10)
  from mg_jax.data.recipe import DataConfig
  from mg_jax.models.streams import Streams
  from mg_jax.train import encode

  class Mean:
    def apply(self, variables, video, method):
      return video.mean((2, 3), keepdims=True) * variables["params"], None

  written, write = [], encode.RecordWriter.write_shard
  def counted(self, shard, records):
    written.append(f"{self.folder.parts[-3]} {shard}")
    return write(self, shard, records)
  encode.RecordWriter.write_shard, encode.SHARD = counted, 2
  size = {"frames": 2, "height": 16, "width": 16}
  data = DataConfig(clips=7, held_out=3, cache=str(root / f"toy{rank}"), **size)
  options = {"origin": "tae", "step": 1, "batch": 2, "text": Streams({})}
  metadata = encode.encode(data, Mean(), jnp.float32(2), root / "latents", **options)
  print(json.dumps([written, metadata]))
""")


def _start(script, *arguments):
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  hidden = ("XLA_FLAGS",)  # the device count of the test process
  env = {name: value for name, value in os.environ.items() if name not in hidden}
  env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
  return [
    subprocess.Popen(
      [sys.executable, "-c", script, str(rank), str(port), *map(str, arguments)],
      env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    for rank in range(2)
  ]  # fmt: skip


def _results(processes):
  try:
    outputs = [process.communicate(timeout=120)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [0, 0]
  return [json.loads(output.strip().splitlines()[-1]) for output in outputs]


@pytest.mark.slow
@pytest.mark.multiproc
def test_one_notice_stops_all_at_one_step_and_the_same_command_resumes(toy, tmp_path):
  processes = _start(_SCRIPT, tmp_path / "run", toy.file)
  file = tmp_path / "run" / "metrics.jsonl"
  deadline = time.monotonic() + 90
  while time.monotonic() < deadline and not (file.exists() and file.read_text()):
    time.sleep(0.1)
  processes[1].send_signal(signal.SIGTERM)
  first, second = _results(processes)
  assert first == second and first[0] == "interrupted" and 0 < first[1] < 60
  assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == [str(first[1])]
  assert _results(_start(_SCRIPT, tmp_path / "run", toy.file)) == [["finished", 60]] * 2
  assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(1, 61))


@pytest.mark.slow
@pytest.mark.multiproc
def test_every_shard_of_latents_is_written_by_one_process(tmp_path):
  (first, metadata), (second, same) = _results(_start(_ENCODE, tmp_path))
  assert first == ["train 0", "train 2", "validation 0"]
  assert second == ["train 1", "train 3", "validation 1"]
  assert metadata == same and metadata["step"] == 1
  sources = [latent_sources(tmp_path / "latents", s, "video") for s in ("train", "validation")]
  assert [len(source["2x16x16"]) for source in sources] == [7, 3]
