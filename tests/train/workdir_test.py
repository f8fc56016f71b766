"""The lock and the checks of a workdir."""

import fcntl
import os
import subprocess
import sys

import pytest

from mg_jax.core.errors import UserError
from mg_jax.train.workdir import LOCK, locked, prepare, resolve


def test_a_second_job_is_refused_and_told_who_holds_it(tmp_path):
  path = prepare(tmp_path)
  with locked(path):
    with pytest.raises(UserError, match=f"in use by process {os.getpid()} on host"), locked(path):
      pass
  with locked(path):
    pass


def test_no_file_is_left_by_a_job_that_fails(tmp_path):
  with pytest.raises(ValueError, match="no data"), locked(prepare(tmp_path)):
    raise ValueError("no data")
  assert not list(tmp_path.iterdir())


def test_a_file_that_was_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
  """As if the job before ended between the opening of the file and the lock."""
  path, flock, removed = prepare(tmp_path), fcntl.flock, []

  def late(file, how):
    if not removed:
      removed.append((path / LOCK).unlink())
    flock(file, how)

  monkeypatch.setattr(fcntl, "flock", late)
  with locked(path), pytest.raises(UserError, match="is in use by"), locked(path):
    pass
  assert removed


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
  script = (
    "import sys, fcntl, os, signal\n"
    "f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); f.write('pid 1'); f.flush()\n"
    "os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  subprocess.run([sys.executable, "-S", "-c", script, str(tmp_path / LOCK)])
  assert (tmp_path / LOCK).read_text() == "pid 1"
  with locked(prepare(tmp_path)):
    assert f'"pid": {os.getpid()}' in (tmp_path / LOCK).read_text()


def test_the_lock_of_a_living_process_holds(tmp_path):
  script = (
    "import sys, fcntl\n"
    "f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); f.write('host x'); f.flush()\n"
    "print('ready', flush=True); sys.stdin.read()\n"
  )
  command = [sys.executable, "-S", "-c", script, str(tmp_path / LOCK)]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
    assert other.stdout.readline()
    with pytest.raises(UserError, match="in use by another process"), locked(resolve(tmp_path)):
      pass


def test_paths_are_made_absolute_and_checked(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert prepare("run") == resolve(tmp_path / "run") and (tmp_path / "run").is_dir()
  assert str(resolve("gs://bucket/run")) == "gs://bucket/run"
  with pytest.raises(UserError, match="no workdir"):
    prepare("")
  with pytest.raises(UserError, match="create it first"):
    prepare("a/b/c")
  (tmp_path / "taken").write_text("")
  with pytest.raises(UserError, match="cannot be written"):
    prepare("taken")
