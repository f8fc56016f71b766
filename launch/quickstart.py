"""Trains a small autoencoder and a small text-to-video model from scratch, samples and scores.

Everything is saved in one folder; run again, it resumes.
"""

import logging
import pathlib
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.data.sources.toy import WORLDS
from mg_jax.evaluation import figures

_log = logging.getLogger("mg_jax")
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Folder of all runs and samples.")
_MINUTES = flags.DEFINE_float("minutes", 10.0, "Total training time of both models.")
_SIZE = flags.DEFINE_integer("size", 32, "Side of the frames, in pixels.")
_FRAMES = flags.DEFINE_integer("frames", 16, "Frames per clip of two seconds.")
_SHARE = flags.DEFINE_float("tae_share", 0.4, "Fraction of the time for the autoencoder.")
_WORLD = flags.DEFINE_enum("world", "simple", WORLDS, "Toy world.")
_COUNT = flags.DEFINE_integer("count", 64, "Held-out prompts to sample and score.")
STEPS = 1_000_000  # more than fit in the time, which ends the training


@figures.measured
def main(argv: list[str]) -> Callable[[], dict] | None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if _MINUTES.value <= 0 or _COUNT.value < 1:
    raise UserError("--minutes and --count must be positive")
  if not 0 < _SHARE.value < 1:
    raise UserError("--tae_share must lie between 0 and 1")
  from experiments import t2v_256, tae
  from mg_jax.evaluation import curves, toy_video
  from mg_jax.inference.load import load_text_to_video
  from mg_jax.stages import experiment

  workdir, start = pathlib.Path(_WORKDIR.value), time.monotonic()
  size = f"tiny,size={_SIZE.value},frames={_FRAMES.value}"
  autoencoder, generator = tae.get_config(size), t2v_256.get_config(size)
  generator.autoencoder = str(workdir / "tae")
  shares = {"tae": (autoencoder, _SHARE.value), "t2v": (generator, 1 - _SHARE.value)}
  for name, (settings, share) in shares.items():
    settings.data.world = _WORLD.value
    settings.data.cache = str(workdir / "data")
    settings.train.steps = STEPS
    settings.train.max_seconds = 60 * _MINUTES.value * share
    if experiment.run(settings, str(workdir / name)).status == "interrupted":
      return None
  pipeline = load_text_to_video(workdir / "t2v")
  report = toy_video.score(
    pipeline, workdir / "samples", world=generator.data.world, count=_COUNT.value
  )
  _log.info("\n%s", report.table)
  _log.info("clips, contact sheet and scores.json: %s", workdir / "samples")
  results = {"samples": report.rates, "seconds": time.monotonic() - start}
  return lambda: results | {name: curves.ends(workdir / name) for name in shares}


if __name__ == "__main__":
  config.run(main)
