"""All measurements on one CUDA GPU in one call: agreement with the CPU, speed against PyTorch (if
installed), memory against plans, a training.

python launch/gpu.py --out=runs/gpu --minutes=6.5

Each task saves its result in the folder and is skipped when run again; the training resumes.
Tasks run in their own processes, so that none inherits another's memory.
"""

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
_MINUTES = flags.DEFINE_float("minutes", 6.5, "Minutes of training, without the other tasks.")
_TASKS = flags.DEFINE_list(
  "tasks", ["parity", "bench", "memory", "train"], "Tasks to run, in this order."
)
_SIZE = flags.DEFINE_integer("size", 128, "Side of the training frames in pixels.")
_FRAMES = flags.DEFINE_integer("frames", 32, "Frames per training clip.")
_BENCH = flags.DEFINE_string("bench_size", "large", "Layer size: large, or tiny for a trial.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  out = pathlib.Path(_OUT.value).resolve()
  size = (f"--size={_SIZE.value}", f"--frames={_FRAMES.value}", f"--minutes={_MINUTES.value}")
  layers = "product,layer_5b_16k,layer_5b_73k,layer_30b_16k,layer_30b_73k"
  bench = ("launch/bench.py", f"--suites={layers}", f"--size={_BENCH.value}", "--runs=3")
  tasks = {  # command of each, and its product
    "parity": (("-m", "launch.bench_suites.parity", f"{out}/parity.json"), "parity.json"),
    "bench": ((*bench, f"--figure={out}/bench.json"), "bench.json"),
    "memory": (("-m", "launch.bench_suites.memory", f"{out}/memory.json"), "memory.json"),
    "train": (
      ("launch/quickstart.py", f"--workdir={out}/train", *size), "train/samples/scores.json"
    ),
  }
  unknown = [name for name in _TASKS.value if name not in tasks]
  if unknown:
    raise UserError(f"no task is named {unknown[0]!r}; known are {', '.join(tasks)}")
  out.mkdir(parents=True, exist_ok=True)
  failed = [name for name in _TASKS.value if not _done(name, *tasks[name], out)]
  if failed:
    raise UserError(f"{' and '.join(failed)} failed, see above; run again to repeat only those")
  _log.info("results: %s", out)


def _done(name: str, arguments: tuple[str, ...], product: str, out: pathlib.Path) -> bool:
  """Runs a task unless it was done before."""
  receipt, start = out / f"{name}.done.json", time.monotonic()
  if receipt.exists():
    _log.info("%s: done before, see %s", name, receipt)
    return True
  root = pathlib.Path(__file__).resolve().parent.parent
  # Unset, the benchmark would choose the CPU; empty, jax chooses the best platform.
  env = {"JAX_PLATFORMS": "", **os.environ}
  code = subprocess.run([sys.executable, *arguments], cwd=root, env=env, check=False).returncode
  # An interrupted training also exits with 0, but without its product.
  if code or not (out / product).exists():
    return False
  atomic.write_json(receipt, {"seconds": round(time.monotonic() - start, 1)})
  return True


if __name__ == "__main__":
  config.run(main)
