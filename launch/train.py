"""Trains an experiment, or resumes it.

python launch/train.py --config=experiments/tae.py:tiny --workdir=runs/tae
python launch/train.py --config=experiments/tae.py:tiny --workdir=runs/tae --config.optim.lr=3e-4

Any field of the config is set like that; --dump_config prints them all with their values.
On several hosts the launchers in this folder start it once per host, with --distributed.
"""

import functools
import pathlib
import sys
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import config_flags

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.evaluation import figures

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as experiments/tae.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics, previews.")
_DUMP = flags.DEFINE_bool("dump_config", False, "Print the config as JSON and stop.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of this run.")
_STOPPED = flags.DEFINE_integer(
  "stopped_code", 0, "Exit code of a run that was stopped early and saved."
)


@figures.measured
def main(argv: list[str]) -> Callable[[], dict] | None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if _CONFIG.value is None:
    raise UserError("--config is missing; give an experiment such as experiments/tae.py:tiny")
  # Imported late: --help and mistakes should not wait for a backend.
  from mg_jax.evaluation import curves
  from mg_jax.stages import experiment

  if _DUMP.value:
    print(experiment.describe(_CONFIG.value))
    return None
  if not _WORKDIR.value:
    raise UserError("--workdir is missing; give a folder for the run")
  if _DISTRIBUTED.value:
    from mg_jax.core import distributed

    distributed.initialize()
  if experiment.run(_CONFIG.value, _WORKDIR.value).status == "interrupted":
    sys.exit(_STOPPED.value)
  return functools.partial(curves.ends, _WORKDIR.value)


if __name__ == "__main__":
  config.run(main)
