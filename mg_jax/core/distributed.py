"""Multi-process training: configured by the environment, or detected by jax.

One process runs on each host. `JAX_COORDINATOR_ADDRESS` (host:port of process 0),
`JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` configure it; if none is set, jax queries the cluster (TPU
pods, GKE, Slurm). The coordinator accepts any connection, so keep its port in a private network.
Install no SIGTERM handler after this: jax has its own, by which a notice to any process stops all
of them at the same step (`train/interrupt.py`).
"""

import logging
import os

import jax

from mg_jax.core.errors import UserError

_log = logging.getLogger(__name__)
_NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def initialize() -> None:
  """Joins the other processes; blocks until all have joined. Call before touching any device.

  Raises:
    UserError: when the environment is incomplete, names no cluster, or the others do not join.
  """
  values = {name: os.environ.get(name) for name in _NAMES}
  arguments = _parse(values) if any(values.values()) else {}
  try:
    jax.distributed.initialize(**arguments)
  except ValueError as e:
    raise UserError(
      f"--distributed detects no cluster; set {', '.join(_NAMES)}, or leave it out to train in "
      f"one process ({e})"
    ) from e
  except jax.errors.JaxRuntimeError as e:
    reason = next(iter(str(e).splitlines()), "")[:200]
    raise UserError(
      f"the processes did not find each other ({reason}); check {_NAMES[0]} and that all started"
    ) from e
  _log.info("process %d of %d", jax.process_index(), jax.process_count())


def _parse(values: dict[str, str | None]) -> dict[str, str | int]:
  """Arguments of jax.distributed.initialize from the three variables, all set or all unset."""
  missing = [name for name, value in values.items() if not value]
  if missing:
    given = [name for name in values if name not in missing]
    raise UserError(f"{' and '.join(given)} is set but {' and '.join(missing)} is not; set all")
  address, count, index = values.values()
  if not address.rpartition(":")[0] or not address.rpartition(":")[2].isdigit():
    raise UserError(f"{_NAMES[0]} is {address!r}; give host:port of process 0")
  if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
    raise UserError(
      f"{_NAMES[1]} is {count!r} and {_NAMES[2]} {index!r}; give a count and a number below it"
    )
  return {
    "coordinator_address": address, "num_processes": int(count), "process_id": int(index)
  }  # fmt: skip
