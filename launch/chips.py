"""Prints the environment variables to start jax with on a chip, as lines for a shell.

eval "$(python launch/chips.py --chip=h200)" && python launch/train.py ...
"""

import pathlib
import shlex
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags as absl_flags

from mg_jax.core import config, flags
from mg_jax.core.chips import GPUS, TPUS
from mg_jax.core.errors import UserError

_CHIP = absl_flags.DEFINE_string("chip", None, f"Chip: {', '.join(TPUS + GPUS)}.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if not _CHIP.value:
    raise UserError(f"--chip is missing; give one of {', '.join(TPUS + GPUS)}")
  for name, value in flags.environment(_CHIP.value).items():
    print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
  config.run(main)
