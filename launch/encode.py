"""Computes the latents and text features that a generator trains on, once, and stores them.

python launch/encode.py --config=experiments/t2v_256.py:tiny --config.autoencoder=runs/tae \
  --workdir=runs/t2v
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import config_flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_log = logging.getLogger("mg_jax")
_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment of a generator.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run that will train on them.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Share the work with other processes.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  for name, flag in (("config", _CONFIG), ("workdir", _WORKDIR)):
    if not flag.value:
      raise UserError(f"--{name} is missing; see --help")
  # After the flags are parsed: --help and mistakes should not wait for a backend.
  from mg_jax.train import experiment

  if _DISTRIBUTED.value:
    from mg_jax.core import distributed

    distributed.initialize()
  folder, counts = experiment.encode_data(_CONFIG.value, _WORKDIR.value)
  _log.info("%s: %d training clips, %d held out", folder, counts["train"], counts["validation"])


if __name__ == "__main__":
  config.run(main)
