"""Commands of several processes do what one does, and the first process alone writes.

Each process has a folder of its own, which its outputs are relative to, as hosts have disks.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mg_jax.app import clips, soundtracks
from mg_jax.data.media import audio
from mg_jax.data.media.video import read_clip
from mg_jax.inference.load_sound import load_soundtrack
from mg_jax.sampling.outputs import record_path
from tests.inference.conftest import run, weights  # noqa: F401
from tests.inference.load_sound_test import saved

_ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.multiproc, pytest.mark.timeout(500)]


@pytest.fixture
def launch(tmp_path):
  """launch(main, *flags): (exit code, log) of two processes of four devices each."""

  def start(main, *arguments):
    with socket.socket() as probe:
      probe.bind(("localhost", 0))
      port = probe.getsockname()[1]
    processes = []
    for rank in range(2):
      folder = tmp_path / f"host{rank}"
      folder.mkdir(exist_ok=True)
      env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PROCESS_ID": str(rank),
        "JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
      }  # fmt: skip
      processes.append(subprocess.Popen(
        [sys.executable, _ROOT / "launch" / f"{main}.py", "--distributed", *arguments],
        cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      ))  # fmt: skip
    try:
      logs = [process.communicate(timeout=400)[0] for process in processes]
    finally:
      for process in processes:
        process.kill()
    return [(process.returncode, log) for process, log in zip(processes, logs, strict=True)]

  return start


def _names(folder):
  return sorted(path.name for path in folder.rglob("*") if path.is_file())


def _done(outcomes):
  assert [code for code, _ in outcomes] == [0, 0], outcomes
  return [log for _, log in outcomes]


def test_two_processes_generate_the_clips_of_one(run, launch, tmp_path):  # noqa: F811
  hosts, alone = (tmp_path / "host0", tmp_path / "host1"), tmp_path / "alone"
  clips.generate(run, texts=["a star", "a box"], out=alone)
  star, box = sorted(alone.glob("*.mp4"))
  # The second process has none of the clips, and still leaves out the one that exists.
  (hosts[0] / "clips").mkdir(parents=True)
  for path in (star, record_path(star)):
    shutil.copy(path, hosts[0] / "clips")
  first, second = _done(
    launch("generate", f"--workdir={run}", "--out=clips", "--prompt=a star", "--prompt=a box")
  )
  assert "1 of 2 clips existed already" in first and "clips existed" not in second
  assert f"clips/{box.name}" in first and box.name not in second
  assert _names(hosts[0]) == _names(alone) and "contact_sheet.png" in _names(alone)
  assert _names(hosts[1]) == []
  videos = [
    read_clip(folder / box.name, start_s=0.0, fps=8.0, frames=9, size=(16, 16)).astype(int)
    for folder in (hosts[0] / "clips", alone)
  ]
  assert np.abs(videos[0] - videos[1]).max() <= 1


def test_a_mistake_that_one_process_finds_ends_both(run, launch, tmp_path):  # noqa: F811
  (tmp_path / "host0").mkdir()
  (tmp_path / "host0" / "mine.mp4").write_text("not a clip")
  for code, log in launch("generate", f"--workdir={run}", "--prompt=a star", "--out=mine.mp4"):
    assert code == 2 and "mine.mp4 is there and not from this command" in log
  assert _names(tmp_path).count("mine.mp4") == 1


def test_two_processes_generate_the_sound_of_one(launch, tmp_path):
  folder = saved(tmp_path / "runs")
  prompt, flags = "a bell", {"candidates": 3, "window_s": 0.8}
  _done(launch(
    "generate", "--task=sound", f"--workdir={folder}", f"--prompt={prompt}", "--seconds=1.4",
    "--out=new/a.wav", "--mesh=2,2,1,2", *(f"--{name}={value}" for name, value in flags.items()),
  ))  # fmt: skip
  order = soundtracks.Order(str(tmp_path / "alone/a.wav"), prompts=(prompt,), seconds=1.4)
  soundtracks.make(order, lambda: load_soundtrack(folder), **flags)
  assert _names(tmp_path / "host0") == _names(tmp_path / "alone")
  assert _names(tmp_path / "host1") == [] and not (tmp_path / "host1/new").exists()
  ours, theirs = (audio.read_audio(tmp_path / name) for name in ("host0/new/a.wav", "alone/a.wav"))
  np.testing.assert_allclose(ours, theirs, atol=1e-3)
  ours, theirs = (
    json.loads((tmp_path / name).read_text()) for name in ("host0/new/a.json", "alone/a.json")
  )
  for name, tolerance in (("scores", 1e-4), ("loudness_lufs", 1e-3)):
    np.testing.assert_allclose(ours.pop(name), theirs.pop(name), atol=tolerance)
  assert ours == theirs


def test_two_processes_measure_a_generator(run, launch, tmp_path):  # noqa: F811
  first, second = _done(launch("evaluate", f"--workdir={run}", "--count=2", "--out=scores"))
  assert "motion" in first and "motion" not in second
  assert {"scores.json", "contact_sheet.png"} <= set(_names(tmp_path / "host0"))
  assert _names(tmp_path / "host1") == []
