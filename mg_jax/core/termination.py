"""SIGTERM handling for a main thread that may be deep inside a compilation, and closed pipes.

Python runs signal handlers between two bytecodes of its own, which may be minutes away, and whoever
sent the signal kills the process after some tens of seconds. A thread that the kernel wakes at once
ends the process in time, if no work would be lost.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

GRACE = 20.0  # seconds for the main thread, of the 30 that most schedulers give
CODE = 128 + signal.SIGTERM  # the shell's exit code of a process that SIGTERM ended
SENTENCE = "stopped by SIGTERM; the same command starts again"


class Terminated(BaseException):
  """Raised on SIGTERM, through everything, so that unfinished files are removed."""


@contextlib.contextmanager
def on_sigterm(
  handle: Callable[[], None],
  *,
  may_end: Callable[[], bool] = lambda: True,
  sentence: str = SENTENCE,
) -> Iterator[None]:
  """Inside, SIGTERM calls `handle`; a body still running GRACE seconds later is cut off.

  Only works in the main thread; in another one it does nothing.

  Args:
    handle: called in the main thread at its next bytecode.
    may_end: whether the process may then be ended; otherwise the body takes as long as it needs.
    sentence: printed before ending the process with exit code CODE.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  reading, writing = socket.socketpair()
  writing.setblocking(False)
  done, owner = threading.Event(), os.getpid()

  def receive(number: int, frame) -> None:
    del frame
    if os.getpid() != owner:  # a forked child has nothing to save
      signal.signal(number, signal.SIG_DFL)
      os.kill(os.getpid(), number)
    handle()

  def wait() -> None:
    while data := reading.recv(64):
      if signal.SIGTERM in data and not done.wait(GRACE) and may_end():
        print(sentence, file=sys.stderr, flush=True)
        os._exit(CODE)

  thread = threading.Thread(target=wait, name="sigterm", daemon=True)
  before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
  previous = signal.signal(signal.SIGTERM, receive)
  thread.start()
  try:
    yield
  finally:
    done.set()
    signal.signal(signal.SIGTERM, previous)
    signal.set_wakeup_fd(before, warn_on_full_buffer=False)
    writing.close()  # which ends the thread
    thread.join()
    reading.close()


@contextlib.contextmanager
def on_closed_output() -> Iterator[None]:
  """Inside, the process exits with code 141 if the reader of its output leaves, as `head` does."""
  try:
    try:
      yield
    except SystemExit:
      sys.stdout.flush()  # Python itself flushes it too late to handle errors
      raise
  except BrokenPipeError:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
      raise  # of another pipe
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left
    sys.exit(128 + signal.SIGPIPE)


# Otherwise a signal to a forked child would wake the thread of its parent.
os.register_at_fork(after_in_child=lambda: _forget())


def _forget() -> None:
  if threading.current_thread() is threading.main_thread():
    signal.set_wakeup_fd(-1)
