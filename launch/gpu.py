"""All that is measured on one CUDA GPU, in one call: agreement with the CPU, speed, a training.

python launch/gpu.py --out=runs/gpu --minutes=9

Each task leaves its result in the folder and is passed over when run again; the training goes on
where it stopped. Tasks run in processes of their own, so that none inherits another's memory.
"""

import json
import logging
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.data import atomic

_log = logging.getLogger("mg_jax")
_OUT = flags.DEFINE_string("out", "runs/gpu", "Folder of the results.")
_MINUTES = flags.DEFINE_float("minutes", 9.0, "Everything together.")
_TASKS = flags.DEFINE_list("tasks", ["parity", "bench", "train"], "What to run, in this order.")
_SIZE = flags.DEFINE_integer("size", 128, "Side of the frames of the training.")
_FRAMES = flags.DEFINE_integer("frames", 32, "Frames of its clips.")
_BENCH = flags.DEFINE_string("bench_size", "large", "Size of the shapes of the benchmark.")

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESERVE_S = 75  # of the training's share: compiling, encoding the clips, sampling at the end


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  commands = {"parity": _parity, "bench": _bench, "train": _train}
  for name in _TASKS.value:
    if name not in commands:
      raise UserError(f"no task is named {name!r}; known are {', '.join(commands)}")
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  # Unset, the benchmark would choose the CPU; empty, jax takes the best there is.
  env = {"JAX_PLATFORMS": "", **os.environ}
  end, failed = time.monotonic() + 60 * _MINUTES.value, []
  for name in _TASKS.value:
    done = out / f"{name}.done.json"
    if done.exists():
      _log.info("%s: done before, %s", name, done)
      continue
    left = end - time.monotonic()
    start = time.monotonic()
    result = subprocess.run(commands[name](out.resolve(), left), cwd=ROOT, env=env, check=False)
    took = round(time.monotonic() - start, 1)
    if result.returncode:
      failed.append(name)
      _log.error("%s: failed with code %d after %s s", name, result.returncode, took)
    else:
      atomic.write_json(done, {"seconds": took})
  if failed:
    raise UserError(f"{' and '.join(failed)} failed, see above; run again to repeat only those")
  print(json.dumps({"out": os.fspath(out), "tasks": _TASKS.value}))


def _parity(out: pathlib.Path, left: float) -> list[str]:
  return [sys.executable, "-m", "launch.bench_suites.parity", str(out / "parity.json")]


def _bench(out: pathlib.Path, left: float) -> list[str]:
  return [
    sys.executable, "launch/bench.py", "--peers=false", f"--size={_BENCH.value}",
    f"--json={out / 'bench.json'}",
  ]  # fmt: skip


def _train(out: pathlib.Path, left: float) -> list[str]:
  minutes = max(0.1, (left - RESERVE_S) / 60)
  return [
    sys.executable, "launch/quickstart.py", f"--workdir={out / 'train'}", f"--size={_SIZE.value}",
    f"--frames={_FRAMES.value}", f"--minutes={minutes:.2f}",
  ]  # fmt: skip


if __name__ == "__main__":
  config.run(main)
