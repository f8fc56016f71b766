"""Rows of docs/faults.md that have no home elsewhere, and the page itself: its tests exist."""

import ast
import os
import pathlib
import re
import signal
import time

import jax
import jax.numpy as jnp
import pytest

from mg_jax.core.mesh import make_mesh
from mg_jax.core.tree import fingerprint
from mg_jax.data import pipeline
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.loop import Hook, TrainConfig, train
from mg_jax.train.optim import OptimConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"
ROWS = range(1, 31)
_NO_TEST = "no such part yet"


def _train(toy, workdir, hooks=(), steps=6):
  config = TrainConfig(experiment="toy", steps=steps, ema=0.9, checkpoint_every=2, log_every=1)
  return train(
    toy.Pair(roles=("model",)), toy.Stream(), config, workdir, make_mesh((1, 1, 1, 1)),
    optim=OptimConfig(lr=1e-2), hooks=hooks,
  )  # fmt: skip


def _page():
  """{number of a row: (fault, promise, what holds it)}"""
  lines = (line for line in PAGE.read_text().splitlines() if re.match(r"\| \d+ \|", line))
  cells = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
  return {int(number): tuple(rest) for number, *rest in cells}


def test_the_page_has_every_row_once():
  text = PAGE.read_text()
  numbers = [int(n) for n in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
  assert numbers == list(ROWS)
  for number, row in _page().items():
    assert len(row) == 3 and all(row), number
    assert "::" in row[2] or row[2] == _NO_TEST, f"row {number} names no test"


def test_every_test_that_the_page_names_exists():
  named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text())
  assert len(named) > 60
  functions = {}
  for file in {file for file, _ in named}:
    assert (ROOT / file).is_file(), f"{PAGE.name} names {file}, which is not there"
    tree = ast.parse((ROOT / file).read_text())
    functions[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
  lost = [f"{file}::{name}" for file, name in named if name not in functions[file]]
  assert not lost, f"{PAGE.name} names tests that are not there: {lost}"
  assert all(name.startswith("test_") for _, name in named), "or pytest would not collect it"


@pytest.mark.parametrize("at", [0, 4], ids=["before step 1", "during a save"])
def test_sigterm_twice_saves_once_and_resumes(toy, tmp_path, at):
  whole = fingerprint(_train(toy, tmp_path / "whole").state)

  def signals(state, step):
    if step == at:
      os.kill(os.getpid(), signal.SIGTERM)
      os.kill(os.getpid(), signal.SIGTERM)

  result = _train(toy, tmp_path / "run", [Hook("signals", 1, signals, start=True)])
  assert result.status == "interrupted" and result.step in (0, 5)
  with_reader = Checkpointer(tmp_path / "run", read_only=True)
  assert with_reader.latest == result.step
  with_reader.close()
  assert fingerprint(_train(toy, tmp_path / "run").state) == whole


@pytest.mark.parametrize("days", [-10, 10])
def test_another_clock_and_zone_at_the_restart_change_nothing(toy, tmp_path, monkeypatch, days):
  whole = fingerprint(_train(toy, tmp_path / "whole").state)
  _train(toy, tmp_path / "run", steps=3)
  real, looks = time.time, []

  def wrong():
    looks.append(1)
    return real() + days * 86_400.0

  monkeypatch.setattr(time, "time", wrong)
  monkeypatch.setenv("TZ", "Pacific/Kiritimati")
  time.tzset()
  try:
    assert fingerprint(_train(toy, tmp_path / "run").state) == whole
  finally:
    monkeypatch.undo()
    time.tzset()
  assert looks, "nothing looked at the clock"


@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
@pytest.mark.parametrize(
  "damage", [lambda data: data[: len(data) // 2], lambda data: b"poison" * 9], ids=["cut", "poison"]
)
def test_a_damaged_compile_cache_compiles_again(tmp_path, damage):
  before = jax.config.jax_compilation_cache_dir
  try:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    _reset_cache()
    want = _compute()
    files = [p for p in tmp_path.rglob("*") if p.is_file() and not p.name.endswith("-atime")]
    assert files, "nothing was cached"
    for path in files:
      path.write_bytes(damage(path.read_bytes()))
    jax.clear_caches()
    _reset_cache()
    assert _compute() == want
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    _reset_cache()


def _reset_cache():
  from jax.experimental.compilation_cache import compilation_cache

  compilation_cache.reset_cache()


def _compute():
  return float(jax.jit(lambda x: jnp.sum(jnp.sin(x) ** 3 + 0.12345))(jnp.arange(7.0)))


@pytest.mark.slow
def test_a_killed_loader_process_ends_the_run_with_an_error(tmp_path):
  entry = pipeline.Entry("toy", list(range(40)), _slow_row)
  stream = pipeline.Feed((entry,), 4).stream(workers=1)
  next(stream)
  children = [int(pid) for pid in _children(os.getpid())]
  for pid in children:
    os.kill(pid, signal.SIGKILL)
  with pytest.raises(Exception) as caught:  # noqa: B017
    for _ in range(100):
      next(stream)
  assert not isinstance(caught.value, StopIteration), "the end of the data is not what happened"


def _slow_row(index, record, rng):
  time.sleep(0.05)
  return {"x": rng.normal(size=2)}


def _children(pid):
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      fields = path.read_text().rpartition(")")[2].split()
    except OSError:
      continue
    if int(fields[1]) == pid and "spawn_main" in (path.parent / "cmdline").read_text():
      found.append(path.parent.name)
  return found
