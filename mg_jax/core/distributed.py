"""Several processes of one command: configured by the environment, or detected by jax.

One process runs on each host, all with the same flags. `JAX_COORDINATOR_ADDRESS` (host:port of
process 0), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` configure it; if none is set, jax queries the
cluster (TPU pods, GKE, Slurm). The coordinator accepts any connection, so keep its port in a
private network. In a training install no SIGTERM handler after this: jax has its own, by which a
notice to any process stops all of them at the same step (`train/interrupt.py`).

All processes run the same program on all devices. Files are written by process 0, by `on_main`,
which also decides what depends on files that this command writes.
"""

import json
import logging
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mg_jax.core.errors import UserError

_log = logging.getLogger(__name__)
_NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_BLOCK = 4096  # bytes by which messages grow, as every size is a program of its own


def initialize(*, trains: bool = True) -> None:
  """Joins the other processes; blocks until all have joined. Call before touching any device.

  Args:
    trains: False for other commands: SIGTERM ends a process as without the others, and those other
      than the first log errors only.

  Raises:
    UserError: when the environment is incomplete, names no cluster, or the others do not join.
  """
  values = {name: os.environ.get(name) for name in _NAMES}
  arguments = _parse(values) if any(values.values()) else {}
  jax.config.update("jax_enable_preemption_service", trains)
  try:
    jax.distributed.initialize(**arguments)
  except ValueError as e:
    raise UserError(
      f"--distributed detects no cluster; set {', '.join(_NAMES)}, or leave it out to run in one "
      f"process ({e})"
    ) from e
  except jax.errors.JaxRuntimeError as e:
    reason = next(iter(str(e).splitlines()), "")[:200]
    raise UserError(
      f"the processes did not find each other ({reason}); check {_NAMES[0]} and that all started"
    ) from e
  _log.info("process %d of %d", jax.process_index(), jax.process_count())
  if not trains and not is_main():
    logging.getLogger("mg_jax").setLevel(logging.ERROR)


def is_main() -> bool:
  """Whether this process is the first, or the only one; starts no backend if it is the only one."""
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def on_main(task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
  """Calls `task` on the first process only; a barrier for all of them.

  Every process returns the result, which must be JSON (of one process, anything), or fails: the
  first one with the exception itself, the others with its message.
  """
  if not jax.distributed.is_initialized():
    return task(*args, **kwargs)
  text, failure = "", None
  if is_main():
    try:
      text = json.dumps({"result": task(*args, **kwargs)})
    except Exception as e:
      failure = e
      text = json.dumps({"failure": str(e), "mistake": isinstance(e, UserError | OSError)})
  outcome = json.loads(_broadcast(text))
  if failure is not None:
    raise failure
  if "failure" in outcome:
    kind = UserError if outcome["mistake"] else RuntimeError
    raise kind(f"process 0 failed: {outcome['failure']}")
  return outcome["result"]


def _broadcast(text: str) -> str:
  """The text of process 0."""
  data = np.frombuffer(text.encode(), np.uint8)
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  padded = np.zeros(-(-length // _BLOCK) * _BLOCK, np.uint8)
  if is_main():
    padded[:length] = data
  return bytes(multihost_utils.broadcast_one_to_all(padded)[:length]).decode()


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
