"""Benchmarks the expensive parts against the same work in PyTorch, on one CPU.

python launch/bench.py --suites=tae_encode,tae_decode --figure=bench.json

Suites: dit_block_forward, dit_block_step, tae_encode, tae_decode, tae_step, text_t5,
text_clip, dacvae_encode, dacvae_decode, sampling; and with --size=large product,
layer_5b_16k, layer_5b_73k, layer_30b_16k, layer_30b_73k, for GPUs (gpu.py). Both sides alternate,
each in its own process; peers need `pip install -e .[parity]`, here or for the Python of
--peer_python.
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from launch.bench_suites import driver, report, suites
from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.evaluation import figures

_log = logging.getLogger("mg_jax")
_SUITES = flags.DEFINE_list("suites", [], "Suites to run; default all.")
_SIZE = flags.DEFINE_enum("size", "default", suites.SIZES, "Sizes of the inputs.")
_RUNS = flags.DEFINE_integer("runs", 9, "Samples per program.")
_THREADS = flags.DEFINE_integer("threads", 2, "Threads per side.")
_PEERS = flags.DEFINE_bool("peers", True, "Also time the peers; if false, ours on any platform.")
_PYTHON = flags.DEFINE_string("peer_python", None, "Python of the peers; default this one.")


@figures.measured
def main(argv: list[str]) -> tuple[dict, dict]:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if _RUNS.value < 1 or _THREADS.value < 1:
    raise UserError("--runs and --threads must be at least 1")
  chosen, rows = driver.choose(_SUITES.value, _SIZE.value), []
  with driver.sides(_THREADS.value, peer_python=_PYTHON.value) as (ours, torch):
    about = driver.about(ours, torch)
    known = about["machine"] | about["versions"]
    _log.info("%s", ", ".join(f"{name} {value}" for name, value in known.items() if value))
    for measured in driver.run(
      chosen, ours, torch, size=_SIZE.value, runs=_RUNS.value, peers=_PEERS.value, log=_log.info
    ):
      rows += measured
      # After each suite, so that no measurement is lost if a later suite is stopped.
      print(report.table(measured), flush=True)
  return report.values(rows), about


if __name__ == "__main__":
  config.run(main)
