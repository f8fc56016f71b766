"""Plots metrics of one or more runs over their steps, and saves the numbers and configs too.

python launch/curves.py --workdirs=runs/tae --names=autoencoder/loss,eval/psnr --out=curves.png
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_WORKDIRS = flags.DEFINE_list("workdirs", [], "Folders of runs, one line each.")
_NAMES = flags.DEFINE_list("names", [], "Metrics of metrics.jsonl, one panel each.")
_OUT = flags.DEFINE_string("out", "curves.png", "Picture to write.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  for flag in (_WORKDIRS, _NAMES):
    if not flag.value:
      raise UserError(f"--{flag.name} is missing; see --help")
  from mg_jax.evaluation import curves

  curves.plot(_WORKDIRS.value, _NAMES.value, _OUT.value)
  print(_OUT.value)


if __name__ == "__main__":
  config.run(main)
