"""Ends a process with a hanging step, after printing a message.

Ending it, with the stacks of all threads and exit code 1, is left to `faulthandler`, whose thread
needs no Python and so works if everything else hangs. A thread of ours prints a message before the
stacks if it still can.
"""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Iterator

_EARLY = 0.9  # fraction of the time after which the message is printed


class Watchdog:
  """Watches steps of at most `seconds`; 0 disables it."""

  def __init__(self, seconds: float):
    """Prepares; does not watch yet."""
    self._seconds = seconds
    self._changed = threading.Condition()
    self._deadline: float | None = None
    self._sentence, self._closed = "", False

  @contextlib.contextmanager
  def open(self) -> Iterator["Watchdog"]:
    """Inside, steps may be watched."""
    thread = threading.Thread(target=self._wait, name="watchdog", daemon=True)
    if self._seconds:
      thread.start()
    try:
      yield self
    finally:
      self.disarm()
      with self._changed:
        self._closed = True
        self._changed.notify()
      if self._seconds:
        thread.join()

  def arm(self, step: int) -> None:
    """Starts or restarts the timer; `step` is the running one."""
    if not self._seconds:
      return
    faulthandler.dump_traceback_later(self._seconds, exit=True)
    with self._changed:
      self._deadline = time.monotonic() + _EARLY * self._seconds
      self._sentence = (
        f"step {step} takes longer than {self._seconds:g} s (train.watchdog_seconds), so this "
        "process ends; the stacks show what it waits for, the data or another process; the same "
        "command continues from the newest checkpoint"
      )
      self._changed.notify()

  def disarm(self) -> None:
    """Stops the timer until the next `arm`."""
    if self._seconds:
      faulthandler.cancel_dump_traceback_later()
      with self._changed:
        self._deadline = None
        self._changed.notify()

  def _wait(self) -> None:
    with self._changed:
      while not self._closed:
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if left is not None and left <= 0:
          print(self._sentence, file=sys.stderr, flush=True)
          self._deadline = None
        else:
          self._changed.wait(left)
