"""The one command for GPU work: what it compares, what it repeats, what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.bench_suites import parity
from mg_jax.kernels.attention import Candidate
from mg_jax.kernels.xla import reference

_ROOT = Path(__file__).resolve().parents[1]


def _run(out, *arguments):
  return subprocess.run(
    [sys.executable, str(_ROOT / "launch" / "gpu.py"), f"--out={out}", *arguments],
    capture_output=True, text=True, timeout=120, env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip


@pytest.fixture
def small(monkeypatch):
  """Small attention alone: the two models take a minute."""
  monkeypatch.setattr(parity, "_ATTENTION", ((5, 7, 2, 8, True), (9, 9, 1, 8, False)))
  cases = parity._cases
  kernels = lambda platform: [case for case in cases(platform) if "attention" in case[0]]  # noqa: E731
  monkeypatch.setattr(parity, "_cases", kernels)


def test_kernels_that_agree_pass(small, tmp_path):
  out = tmp_path / "parity.json"
  assert parity.main(["parity", str(out)]) == 0
  differences = json.loads(out.read_text())["differences"]
  assert set(differences) == {
    f"attention {kernel} {shape}"
    for kernel in ("blocked", "reference")
    for shape in ("5x7x2x8 masked", "9x9x1x8")
  }
  assert 0 < differences["attention blocked 9x9x1x8"] < 1e-5


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_a_kernel_that_is_off_is_found(small, monkeypatch, tmp_path, error):
  off = lambda *args, **kw: reference(*args, **kw) + error  # noqa: E731
  wrong = Candidate("off", lambda *args: None, off)
  monkeypatch.setattr(parity.attention, "candidates", lambda platform: (wrong,))
  assert parity.main(["parity", str(tmp_path / "parity.json")]) == 1


@pytest.mark.slow
def test_models_agree_with_themselves(monkeypatch, tmp_path):
  monkeypatch.setattr(parity, "_ATTENTION", ())
  assert parity.main(["parity", str(tmp_path / "parity.json")]) == 0


def test_a_finished_task_is_passed_over(tmp_path):
  (tmp_path / "parity.done.json").write_text("{}")
  done = _run(tmp_path, "--tasks=parity")
  assert done.returncode == 0 and "done before" in done.stderr
  assert not (tmp_path / "parity.json").exists()


def test_an_unknown_task_is_told_in_a_sentence(tmp_path):
  done = _run(tmp_path, "--tasks=dance")
  assert done.returncode != 0 and "known are parity, bench, memory, train" in done.stderr
  assert "Traceback" not in done.stderr


def test_a_failed_task_is_not_done(tmp_path):
  done = _run(tmp_path, "--tasks=bench", "--bench_size=none")
  assert done.returncode != 0 and "bench failed" in done.stderr
  assert not list(tmp_path.glob("*.done.json"))
