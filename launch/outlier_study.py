"""Trains one autoencoder per setting of the outlier penalty, and compares them.

python launch/outlier_study.py --config=experiments/tae_image.py:tiny --workdir=runs/outliers \
  --config.train.steps=200
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import config_flags

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.evaluation import figures

_log = logging.getLogger("mg_jax")
_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment of an autoencoder.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/outliers", "Folder of runs, table and plot.")
_WEIGHTS = flags.DEFINE_list("weights", ["0", "0.05", "0.5", "5"], "Weights of the penalty.")
_RADII = flags.DEFINE_list("radii", ["3"], "Thresholds r of the penalty.")
_REDUCTIONS = flags.DEFINE_list("reductions", ["mean"], "Reductions: mean, sum or both.")


@figures.measured
def main(argv: list[str]) -> dict | None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if _CONFIG.value is None:
    raise UserError("--config is missing; give an experiment such as experiments/tae_image.py:tiny")
  try:
    weights, radii = ([float(x) for x in flag.value] for flag in (_WEIGHTS, _RADII))
  except ValueError as e:
    raise UserError(f"--weights and --radii must be comma-separated numbers ({e})") from e
  from mg_jax.evaluation import outliers

  cells = outliers.grid(weights, radii, _REDUCTIONS.value)
  rows = outliers.study(config.to_dict(_CONFIG.value), _WORKDIR.value, cells)
  _log.info("\n%s", outliers.table(rows))
  if len(rows) < len(cells):
    return None
  outliers.plot(rows, pathlib.Path(_WORKDIR.value) / outliers.PLOT)
  return {cell.name: row for cell, row in zip(cells, rows, strict=True)}


if __name__ == "__main__":
  config.run(main)
