"""Joining other processes: what the environment has to say; two that train: train/multiprocess."""

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
