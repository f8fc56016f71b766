"""Joining other processes: what the environment has to say; two that train: train/multiprocess."""

import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from mg_jax.core import distributed
from mg_jax.core.errors import UserError

_GOOD = {
  "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"
}  # fmt: skip


@pytest.fixture
def joined(monkeypatch):
  """Arguments that jax would be initialised with, in an environment that names no cluster."""
  calls = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda **told: calls.append(told))
  for name in _GOOD:
    monkeypatch.delenv(name, raising=False)
  return SimpleNamespace(
    calls=calls, tell=lambda told: [monkeypatch.setenv(name, told[name]) for name in told]
  )


def test_the_environment_says_who_is_who(joined):
  joined.tell(_GOOD)
  distributed.initialize()
  assert joined.calls == [
    {"coordinator_address": "10.0.0.1:1234", "num_processes": 4, "process_id": 3}
  ]


def test_a_cluster_is_left_to_jax(joined):
  distributed.initialize()
  assert joined.calls == [{}]


@pytest.mark.parametrize(
  "change, words",
  [
    ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID is not"),
    ({"JAX_PROCESS_ID": "4"}, "a number below it"),
    ({"JAX_NUM_PROCESSES": "0", "JAX_PROCESS_ID": "0"}, "a number below it"),
    ({"JAX_NUM_PROCESSES": "two"}, "a number below it"),
    ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "host:port"),
    ({"JAX_COORDINATOR_ADDRESS": ":80"}, "host:port"),
  ],
)
def test_what_cannot_be_is_told(joined, change, words):
  joined.tell(_GOOD | change)
  with pytest.raises(UserError, match=words):
    distributed.initialize()
  assert not joined.calls


def test_no_cluster_is_told():
  clusters = ("SLURM_", "OMPI_", "TPU_", "KUBERNETES_", "JAX_COORD", "JAX_NUM_PROC", "JAX_PROCESS")
  env = {name: value for name, value in os.environ.items() if not name.startswith(clusters)}
  code = "from mg_jax.core import distributed\ntry: distributed.initialize()\n"
  done = subprocess.run(
    [sys.executable, "-c", f"{code}except distributed.UserError as e: print(e)"],
    env=env | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    capture_output=True, text=True, timeout=60,
  )  # fmt: skip
  assert done.stdout.startswith("--distributed detects no cluster; set JAX_COORDINATOR_ADDRESS")


def test_a_command_that_does_not_train_ends_on_a_signal_and_logs_once(joined, monkeypatch):
  log, changes = logging.getLogger("mg_jax"), []
  monkeypatch.setattr(log, "level", logging.INFO)
  monkeypatch.setattr(jax.config, "update", lambda *change: changes.append(change))
  monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
  for rank in (0, 1):
    monkeypatch.setattr(jax, "process_index", lambda rank=rank: rank)
    distributed.initialize()
    assert log.level == logging.INFO
    distributed.initialize(trains=False)
    assert log.level == (logging.ERROR if rank else logging.INFO)
  wanted = [("jax_enable_preemption_service", trains) for trains in (True, False)]
  assert changes == wanted * 2


@pytest.fixture
def as_two(monkeypatch):
  """(task, *args) -> outcome of each of two processes: its result or its exception."""
  sent = []

  def broadcast(text):
    if distributed.is_main():
      sent.append(text)
    return sent[-1]

  monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
  monkeypatch.setattr(distributed, "_broadcast", broadcast)

  def run(task, *args):
    outcomes = []
    for rank in (0, 1):
      monkeypatch.setattr(jax, "process_index", lambda rank=rank: rank)
      try:
        outcomes.append(distributed.on_main(task, *args))
      except Exception as e:
        outcomes.append(e)
    return outcomes

  return run


def test_one_process_works_and_all_know_the_result(as_two):
  calls = []

  def task(*args):
    calls.append(args)
    return [1, "🌞"]

  assert as_two(task, 2, 3) == [[1, "🌞"]] * 2
  assert calls == [(2, 3)]


@pytest.mark.parametrize("error, kind", [
  (UserError("no"), UserError), (PermissionError("no"), UserError), (KeyError("no"), RuntimeError),
])  # fmt: skip
def test_a_failure_of_the_first_process_is_one_of_all(as_two, error, kind):
  def task():
    raise error

  first, second = as_two(task)
  assert first is error and type(second) is kind
  assert str(second) == f"process 0 failed: {error}"


def test_one_process_alone_needs_no_others():
  result = object()
  assert distributed.is_main() and distributed.on_main(lambda: result) is result
