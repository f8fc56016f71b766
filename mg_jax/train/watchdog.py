"""Ends a process whose step never comes to its end, and says so first.

The end itself, with the stacks of all threads and exit code 1, is left to `faulthandler`, whose
thread needs nothing of Python and so works when everything else hangs. A thread of ours puts a
sentence before the stacks where it still can.
"""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Iterator

_EARLY = 0.9  # of the time, when the sentence is said


class Watchdog:
  """Watches steps of at most so many seconds; 0 for none."""

  def __init__(self, seconds: float):
    """Prepares; nothing is watched yet."""
    self._seconds = seconds
    self._changed = threading.Condition()
    self._deadline: float | None = None
    self._sentence, self._closed = "", False

  @contextlib.contextmanager
  def open(self) -> Iterator["Watchdog"]:
    """Within, steps may be watched."""
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
    """Begins to watch, or begins anew; `step` is the one that is running."""
    if not self._seconds:
      return
    faulthandler.dump_traceback_later(self._seconds, exit=True)
    with self._changed:
      self._deadline = time.monotonic() + _EARLY * self._seconds
      self._sentence = (
        f"step {step} takes longer than {self._seconds:g} s (train.watchdog_seconds), so this "
        "process ends; the stacks show what it waits for, the data or another process; the same "
        "command goes on from the newest checkpoint"
      )
      self._changed.notify()

  def disarm(self) -> None:
    """Leaves what comes now all the time it takes."""
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
