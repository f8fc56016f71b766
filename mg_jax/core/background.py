"""Errors of libraries and of their threads: told in a line each, kept whole for a bug.

A failed write makes the threads of a library print hundreds of tracebacks, some of them after the
sentence that says what to do. The error itself comes back to the main thread, which tells it. So
the log of libraries and what ends a thread are shown as the first line of each kind of error, and
`Held.text` has everything, for the traceback of a bug.
"""

import collections
import logging
import re
import sys
import threading
import traceback

_MOST = 100  # errors that are kept
# asyncio repeats what tasks raised that nobody waits for any more: another one has failed before.
_REPEATING = ("asyncio",)


class Held(logging.Handler):
  """Keeps errors; `silent` also keeps it from telling them."""

  def __init__(self):
    super().__init__(logging.ERROR)
    self.silent = False
    self._kept: collections.deque[str] = collections.deque(maxlen=_MOST)
    self._told: set[str] = set()

  @property
  def text(self) -> str:
    """All that was kept, "" for nothing."""
    return "\n".join(self._kept)

  def emit(self, record: logging.LogRecord) -> None:
    """Keeps a record, and shows its first line once; numbers do not make another one of it."""
    self._kept.append(self.format(record))
    if record.name not in _REPEATING:
      self._tell(record.getMessage())

  def keep(self, error: BaseException | None) -> None:
    """Keeps what a thread raised."""
    if error is not None:
      self._kept.append("".join(traceback.format_exception(error)).rstrip())

  def _tell(self, text: str) -> None:
    line = text.partition("\n")[0][:200]
    kind = re.sub(r"\d+", "", line)[:80]
    if not self.silent and kind not in self._told:
      self._told.add(kind)
      print(line, file=sys.stderr, flush=True)

  def _of_thread(self, args: threading.ExceptHookArgs) -> None:
    self.keep(args.exc_value)
    name = "a thread" if args.thread is None else f"thread {args.thread.name}"
    self._tell(f"{name} ended with {args.exc_type.__name__}: {args.exc_value}")


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
