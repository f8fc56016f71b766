"""Trains a small autoencoder and a small text-to-video model from scratch, samples and scores.

Everything lands in one folder; run again, it goes on where it stopped.
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_log = logging.getLogger("mg_jax")
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Where everything goes.")
_MINUTES = flags.DEFINE_float("minutes", 10.0, "Training time of both models together.")
_COUNT = flags.DEFINE_integer("count", 64, "Held-out prompts to sample and score.")

TAE_SHARE = 0.35  # of the training time


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if _MINUTES.value <= 0 or _COUNT.value < 1:
    raise UserError("--minutes and --count must be positive")
  from experiments import t2v_256, tae
  from mg_jax.train import experiment, scoring
  from mg_jax.train.export import load_text_to_video

  workdir = pathlib.Path(_WORKDIR.value)
  autoencoder, generator = tae.get_config("tiny"), t2v_256.get_config("tiny")
  generator.autoencoder = str(workdir / "tae")
  shares = {"tae": (autoencoder, TAE_SHARE), "t2v": (generator, 1 - TAE_SHARE)}
  for name, (settings, share) in shares.items():
    settings.data.cache = str(workdir / "data")
    settings.train.compile_cache = str(workdir / "compiled")
    settings.train.max_seconds = 60 * _MINUTES.value * share
    if experiment.run(settings, str(workdir / name)).status == "interrupted":
      return
  pipeline = load_text_to_video(workdir / "t2v")
  report = scoring.score(
    pipeline, workdir / "samples", world=generator.data.world, count=_COUNT.value
  )
  _log.info("\n%s", report.table)
  _log.info("clips, contact sheet and scores.json: %s", workdir / "samples")


if __name__ == "__main__":
  config.run(main)
