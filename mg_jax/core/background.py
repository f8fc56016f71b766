"""Errors of libraries and of their threads: told in a line each, kept whole for a bug.

A failed write makes the threads of a library print hundreds of tracebacks, some of them after the
sentence that says what to do. The error itself comes back to the main thread, which tells it. So
a library has one line for what goes wrong at a time, and `Held.text` has everything, for the
traceback of a bug.
"""

import collections
import logging
import re
import sys
import threading
import time
import traceback

from mg_jax.core.errors import first_line, refusal

_MOST = 100  # errors that are kept
_PAUSE = 60.0  # seconds in which a library has one line: an error is followed by what it led to
# asyncio repeats what tasks raised that nobody waits for any more: another one has failed before.
_REPEATING = ("asyncio",)
_LIBRARY = re.compile(r"(?:site|dist)-packages/(\w+)")


class Held(logging.Handler):
  """Keeps errors; `silent` also keeps it from telling them."""

  def __init__(self):
    super().__init__(logging.ERROR)
    self.silent = False
    self._kept: collections.deque[str] = collections.deque(maxlen=_MOST)
    self._told: dict[str, float] = {}

  @property
  def text(self) -> str:
    """All that was kept, "" for nothing."""
    return "\n".join(self._kept)

  def emit(self, record: logging.LogRecord) -> None:
    """Keeps a record, and shows its first line if its library has shown none just now."""
    self._kept.append(self.format(record))
    if record.name in _REPEATING:
      return
    found = _LIBRARY.search(record.pathname)
    told = refusal(record.exc_info[1]) if record.exc_info and record.exc_info[1] else None
    line = told.reason if told else record.getMessage().partition("\n")[0][:200]
    self._tell(found.group(1) if found else record.name, line)

  def keep(self, error: BaseException | None) -> None:
    """Keeps what a thread raised."""
    if error is not None:
      self._kept.append("".join(traceback.format_exception(error)).rstrip())

  def listen(self) -> None:
    """Takes over the log of libraries and the hooks of threads, for the rest of the process."""
    logging.getLogger().handlers = [self]
    main, shown = threading.main_thread(), sys.excepthook

    def of_thread(kind, error, trace) -> None:
      # Threads of C++ libraries report to the same hook as the main thread.
      if threading.current_thread() is main:
        shown(kind, error, trace)
      else:
        self.keep(error)

    sys.excepthook = of_thread
    sys.unraisablehook = lambda args: self.keep(args.exc_value)
    threading.excepthook = self._of_thread

  def _of_thread(self, args: threading.ExceptHookArgs) -> None:
    self.keep(args.exc_value)
    name = "a thread" if args.thread is None else f"thread {args.thread.name}"
    reason = args.exc_type.__name__ if args.exc_value is None else first_line(args.exc_value)
    self._tell(name, f"ended by {reason}")

  def _tell(self, source: str, line: str) -> None:
    now = time.monotonic()
    if not self.silent and now - self._told.get(source, -_PAUSE) >= _PAUSE:
      self._told[source] = now
      print(f"{source}: {line}", file=sys.stderr, flush=True)
