"""When to stop early: Ctrl-C, SIGTERM and preemption notices, agreed on by all processes.

Under `jax.distributed`, its own service listens for SIGTERM and picks one step for every process; a
Python handler would hide the notice from it, so none is installed. Such a run stops after the
compilation of its first step. A run without it need not wait for that: before the first step there
is nothing to save, so the process ends `core.termination.GRACE` seconds later.
"""

import contextlib
import signal
import threading

import jax
from jax.experimental import multihost_utils

from mg_jax.core.termination import on_sigterm


class Interrupt:
  """Signals the loop to save and stop; a context manager, as it may install signal handlers.

  A second Ctrl-C raises KeyboardInterrupt at once; a second SIGTERM changes nothing.

  Attributes:
    unsaved: whether there are unsaved steps, so that the process must not end yet.
  """

  def __init__(self):
    self.unsaved = False
    self._received: str | None = None
    self._handlers = contextlib.ExitStack()

  def __enter__(self) -> "Interrupt":
    main = threading.current_thread() is threading.main_thread()
    if main and not jax.distributed.is_initialized():
      self._handlers.callback(
        signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, self._on_sigint)
      )
      self._handlers.enter_context(
        on_sigterm(
          self._on_sigterm,
          may_end=lambda: not self.unsaved,
          sentence="stopped by SIGTERM before the first step, so there is nothing to save; the "
          "same command continues",
        )
      )
    return self

  def __exit__(self, *_) -> None:
    self._handlers.close()

  def reason(self, step: int) -> str | None:
    """Why to stop before this step, or None. Every process has to call this at every step."""
    if jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(step):
      return "a preemption notice"
    return self._received

  def _on_sigterm(self) -> None:
    self._received = "SIGTERM"

  def _on_sigint(self, number: int, frame) -> None:
    del number, frame
    if self._received == "Ctrl-C":
      raise KeyboardInterrupt
    self._received = "Ctrl-C"
