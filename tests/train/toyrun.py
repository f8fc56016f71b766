"""A toy run as a command: what the tests of faults start, fill up, signal and kill.

python toyrun.py '{"workdir": ..., "train": {...}, ...}'; see `main` for the keys.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def command(workdir, *, steps=6, **told):
  """Arguments and environment of a run; `told` are keys of `main`."""
  told = {"workdir": str(workdir), "steps": steps, **told}
  env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
  return [sys.executable, __file__, json.dumps(told)], env


def run(workdir, **told):
  """A run that has ended: its exit code, and the lines of its stderr."""
  arguments, env = command(workdir, **told)
  done = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=120)
  return done.returncode, done.stderr.splitlines()


def start(workdir, **told):
  """A run that has been started."""
  arguments, env = command(workdir, **told)
  return subprocess.Popen(arguments, env=env, stderr=subprocess.PIPE, text=True)


def wait_for(path, process):
  """Until a file is there, or the process has ended."""
  while not path.exists():
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.02)


def main(told):
  """Trains the objective of conftest.py.

  Keys: workdir, steps, hidden, train (fields of TrainConfig), poison (batch numbers); fault_at (a
  step) and what happens in a hook of it, once `after` exists: fill (folder whose disk is filled but
  for `leave` bytes), limit (bytes that a file may have), readonly (a mount), hang (seconds, after
  making the file `ready`); compile (seconds that the first step spends inside C code, after making
  `ready`), grace (seconds, see core.termination).
  """
  import resource

  from mg_jax.core import termination
  from mg_jax.core.mesh import make_mesh
  from mg_jax.train import loop, optim
  from tests.train import conftest as toy

  termination.GRACE = told.get("grace", termination.GRACE)

  class Stuck(toy.Pair):
    def loss(self, *args):
      if told.get("compile"):
        pathlib.Path(told["ready"]).write_text("")
        _sleep_in_c(told["compile"])
      return super().loss(*args)

  def fault(state, step):
    if step != told.get("fault_at"):
      return
    while not os.path.exists(told.get("after", "/")):
      time.sleep(0.01)
    if "fill" in told:
      free = os.statvfs(told["fill"])
      with open(pathlib.Path(told["fill"]) / "filler", "wb") as file:
        file.write(bytes(free.f_bavail * free.f_frsize - told.get("leave", 0)))
    if "limit" in told:
      resource.setrlimit(resource.RLIMIT_FSIZE, (told["limit"], resource.RLIM_INFINITY))
    if "readonly" in told:
      subprocess.run(["mount", "-o", "remount,ro", told["readonly"]], check=True)
    if "hang" in told:
      pathlib.Path(told["ready"]).write_text("")
      time.sleep(told["hang"])

  config = loop.TrainConfig(
    experiment="toy", steps=told["steps"], ema=0.9, **{"log_every": 1, **told.get("train", {})}
  )
  objective = Stuck(hidden=told.get("hidden", 16), roles=("model",))
  data = toy.Stream(poison={n: float("nan") for n in told.get("poison", [])})
  result = loop.train(
    objective, data, config, told["workdir"], make_mesh((1, 1, 1, 1)),
    optim=optim.OptimConfig(lr=1e-2), hooks=[loop.Hook("fault", 1, fault)],
  )  # fmt: skip
  if result.status == "interrupted":
    sys.exit(75)


def _sleep_in_c(seconds):
  """Takes a while in C code where Python calls no handler of a signal, as a compiler does."""
  import hashlib

  begin = time.perf_counter()
  hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
  once = time.perf_counter() - begin
  hashlib.pbkdf2_hmac("sha256", b"", b"", int(100_000 * seconds / once))


if __name__ == "__main__":
  from mg_jax.core import config as configs

  _TOLD = json.loads(sys.argv.pop(1))
  configs.run(lambda argv: main(_TOLD))
