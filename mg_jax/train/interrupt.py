"""When to stop early: Ctrl-C, SIGTERM and preemption notices, on which all processes agree.

Where `jax.distributed` runs, its own service listens for SIGTERM and picks one step for every
process; a Python handler would hide the notice from it, so none is installed then.
"""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Interrupt:
  """Tells the loop whether to save and stop; a context manager, as it may hold signal handlers.

  A second Ctrl-C raises KeyboardInterrupt at once; a second SIGTERM changes nothing.
  """

  def __init__(self):
    self._received: str | None = None
    self._previous: dict[int, object] = {}

  def __enter__(self) -> "Interrupt":
    main = threading.current_thread() is threading.main_thread()
    if main and not jax.distributed.is_initialized():
      for number in (signal.SIGINT, signal.SIGTERM):
        self._previous[number] = signal.signal(number, self._receive)
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    self._previous.clear()

  def reason(self, step: int) -> str | None:
    """Why to stop before this step, or None. Every process has to ask at every step."""
    if jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(step):
      return "a preemption notice"
    return self._received

  def _receive(self, number: int, frame) -> None:
    del frame
    if number == signal.SIGINT and self._received == "Ctrl-C":
      raise KeyboardInterrupt
    self._received = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
