"""Errors of libraries and their threads: one line each, kept in full for the traceback of a bug.

A failed write makes the threads of a library print hundreds of tracebacks, some of them after the
sentence that says what to do. The error itself reaches the main thread, which reports it. So each
library prints one line per period, and `Held.text` keeps everything, for the traceback of a bug.
"""

import collections
import logging
import re
import sys
import threading
import time
import traceback

from mg_jax.core.errors import first_line, refusal

_MOST = 100  # errors kept
_PAUSE = 60.0  # seconds between two lines of one library: an error is followed by its consequences
# asyncio repeats errors of tasks that nobody awaits any more: another error came first.
_REPEATING = ("asyncio",)
_LIBRARY = re.compile(r"(?:site|dist)-packages/(\w+)")


class Held(logging.Handler):
  """Keeps errors and prints a line of each; `silent` stops the printing."""

  def __init__(self):
    super().__init__(logging.ERROR)
    self.silent = False
    self._kept: collections.deque[str] = collections.deque(maxlen=_MOST)
    self._printed: dict[str, float] = {}

  @property
  def text(self) -> str:
    """Everything kept, "" if nothing."""
    return "\n".join(self._kept)

  def emit(self, record: logging.LogRecord) -> None:
    """Keeps a record, and prints its first line unless its library printed one just now."""
    self._kept.append(self.format(record))
    if record.name in _REPEATING:
      return

    library = _LIBRARY.search(record.pathname)
    refused = refusal(record.exc_info[1]) if record.exc_info and record.exc_info[1] else None
    line = refused.reason if refused else record.getMessage().partition("\n")[0][:200]
    self._print(library.group(1) if library else record.name, line)

  def keep(self, error: BaseException | None) -> None:
    """Keeps what a thread raised."""
    if error is not None:
      self._kept.append("".join(traceback.format_exception(error)).rstrip())

  def listen(self) -> None:
    """Replaces the log handler of libraries and the error hooks of threads, for good."""
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
    self._print(name, f"ended by {reason}")

  def _print(self, source: str, line: str) -> None:
    now = time.monotonic()
    if not self.silent and now - self._printed.get(source, -_PAUSE) >= _PAUSE:
      self._printed[source] = now
      print(f"{source}: {line}", file=sys.stderr, flush=True)
