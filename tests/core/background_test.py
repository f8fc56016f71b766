"""What threads and libraries say while a command fails."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MAIN = r"""
  import logging, sys, threading, types
  from mg_jax.core import config
  from mg_jax.core.errors import UserError

  def main(argv):
    def fail():
      raise RuntimeError("a disk\nand a page of settings")
    for _ in range(3):
      thread = threading.Thread(target=fail, name="writer")
      thread.start()
      thread.join()
    for n in range(5):
      logging.getLogger("library").error("part %d failed\nat length", n)
      logging.getLogger("asyncio").error("Task exception was never retrieved")
    sys.unraisablehook(types.SimpleNamespace(exc_value=ValueError("late")))
    raise {error}
  config.run(main)
"""


def _run(error):
  script = textwrap.dedent(_MAIN).replace("{error}", error)
  env = {**os.environ, "PYTHONPATH": str(ROOT)}
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, env=env, timeout=60
  )
  return done.returncode, done.stderr.splitlines()


def test_a_mistake_has_the_last_word_and_threads_a_line_each():
  code, err = _run('UserError("no such folder; make it")')
  assert code == 2
  assert err == [
    "thread writer: ended by a disk", "library: part 0 failed", "error: no such folder; make it"
  ]  # fmt: skip


def test_a_bug_shows_everything():
  code, err = _run('KeyError("lost")')
  text = "\n".join(err)
  assert code == 1 and err[-1] == "KeyError: 'lost'"
  for words in ("Errors in the background:", "and a page of settings", "part 4 failed", "late"):
    assert words in text
