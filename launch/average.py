"""Averages the weights of several runs, or of several steps of one, into a new run.

python launch/average.py --from=runs/sft_a,runs/sft_b:4000 --weights=0.5,0.5 --to=runs/sft

The result is sampled and evaluated like any run; training starts from it by a warm start.
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_log = logging.getLogger("mg_jax")
_FROM = flags.DEFINE_list("from", [], "Workdirs, each as DIR or DIR:STEP; default the newest step.")
_WEIGHTS = flags.DEFINE_list("weights", [], "Weight of each, with sum 1; default equal.")
_TO = flags.DEFINE_string("to", None, "Workdir to create.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  for name, flag in (("from", _FROM), ("to", _TO)):
    if not flag.value:
      raise UserError(f"--{name} is missing; see --help")
  try:
    weights = [float(text) for text in _WEIGHTS.value] or None
  except ValueError as e:
    raise UserError(f"--weights={','.join(_WEIGHTS.value)} are not numbers; give 0.5,0.5") from e
  # Imported late: --help and mistakes should not wait for a backend.
  from mg_jax.train import averaging

  count = averaging.average(_FROM.value, _TO.value, weights=weights)
  _log.info("%s: the mean of %s, %d leaves", _TO.value, " and ".join(_FROM.value), count)


if __name__ == "__main__":
  config.run(main)
