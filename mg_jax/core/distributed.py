"""Several processes that train together: configured by the environment, or detected by jax.

One process runs on each host. `JAX_COORDINATOR_ADDRESS` (host:port of process 0),
`JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` say who they are; where none is set jax asks the cluster:
TPU pods, GKE and Slurm. The coordinator takes any connection, so its port belongs into a private
network. Once this has run no SIGTERM handler may be installed: jax has one of its own, by which a
notice to any process stops all of them at the same step (`train/interrupt.py`).
"""

import logging
import os

import jax

from mg_jax.core.errors import UserError

_log = logging.getLogger(__name__)
_NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def initialize() -> None:
  """Joins the other processes; returns when all are there. Call it before any device is touched.

  Raises:
    UserError: when the environment is incomplete, names no cluster, or the others do not come.
  """
  told = {name: os.environ.get(name) for name in _NAMES}
  arguments = _parse(told) if any(told.values()) else {}
  try:
    jax.distributed.initialize(**arguments)
  except ValueError as e:
    raise UserError(
      f"--distributed finds no cluster here; set {', '.join(_NAMES)}, or leave it out to train in "
      f"one process ({e})"
    ) from e
  except jax.errors.JaxRuntimeError as e:
    reason = next(iter(str(e).splitlines()), "")[:200]
    raise UserError(
      f"the processes did not find each other ({reason}); check {_NAMES[0]} and that all started"
    ) from e
  _log.info("process %d of %d", jax.process_index(), jax.process_count())


def _parse(told: dict[str, str | None]) -> dict[str, str | int]:
  """Arguments of jax.distributed.initialize from the three variables, all of them or none."""
  missing = [name for name, value in told.items() if not value]
  if missing:
    given = [name for name in told if name not in missing]
    raise UserError(f"{' and '.join(given)} is set but {' and '.join(missing)} is not; set all")
  address, count, index = told.values()
  if not address.rpartition(":")[0] or not address.rpartition(":")[2].isdigit():
    raise UserError(f"{_NAMES[0]} is {address!r}; give host:port of process 0")
  if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
    raise UserError(
      f"{_NAMES[1]} is {count!r} and {_NAMES[2]} {index!r}; give a count and a number below it"
    )
  return {
    "coordinator_address": address, "num_processes": int(count), "process_id": int(index)
  }  # fmt: skip
