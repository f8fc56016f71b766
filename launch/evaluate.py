"""Scores a generator: generates clips for held-out prompts, or sound for held-out clips.

Clips, and sounds with --measure=sound, are measured by the oracles of the toy world; infill and
seams also work for runs on folders of files.

python launch/evaluate.py --workdir=runs/t2v --count=100
python launch/evaluate.py --workdir=runs/soundtrack --condition=video
python launch/evaluate.py --workdir=runs/soundtrack --measure=infill   # or seams, of long sounds
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.data.sources.toy import WORLDS
from mg_jax.evaluation import figures

_log = logging.getLogger("mg_jax")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of text to video or of sound.")
_OUT = flags.DEFINE_string("out", None, "Output folder; default <workdir>/evaluation.")
_COUNT = flags.DEFINE_integer("count", 64, "Number of held-out prompts.")
_PROMPTS = flags.DEFINE_string("prompts", None, "File of prompts instead of held-out ones.")
_WORLD = flags.DEFINE_enum("world", "simple", WORLDS, "Toy world of the prompts.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the first clip; the next ones count up.")
_GUIDANCE = flags.DEFINE_float("guidance", None, "Text guidance; 1 is none.")
_STEPS = flags.DEFINE_integer("steps", None, "Solver steps.")
_CONDITION = flags.DEFINE_enum(
  "condition", "both", ["both", "video", "text"], "What a model of sound is conditioned on."
)
_MEASURE = flags.DEFINE_enum(
  "measure", "sound", ["sound", "infill", "seams"], "Measurement of a model of sound."
)


@figures.measured
def main(argv: list[str]) -> dict | None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if not _WORKDIR.value or _COUNT.value < 1:
    raise UserError("give --workdir, the folder of a generator's run, and a --count of 1 or more")
  # Imported late: --help and mistakes should not wait for a backend.
  from mg_jax.evaluation import toy_context, toy_sound
  from mg_jax.evaluation.toy_video import score
  from mg_jax.inference.load import load_text_to_video
  from mg_jax.inference.load_sound import load_soundtrack, soundtrack_data
  from mg_jax.sampling import prompts
  from mg_jax.train.runs import stage_of

  folder = pathlib.Path(_OUT.value or pathlib.Path(_WORKDIR.value) / "evaluation")
  changes = {h.name: h.value for h in (_GUIDANCE, _STEPS) if h.value is not None}
  if stage_of(_WORKDIR.value) == "soundtrack":
    given = {} if _MEASURE.value == "seams" else {"condition": _CONDITION.value}
    measure = {
      "sound": toy_sound.score_sound, "infill": toy_context.score_infill,
      "seams": toy_context.score_seams,
    }[_MEASURE.value]  # fmt: skip
    report = measure(
      load_soundtrack(_WORKDIR.value), soundtrack_data(_WORKDIR.value), folder,
      count=_COUNT.value, seed=_SEED.value, **given, **changes,
    )  # fmt: skip
    _log.info("%s\n%s", folder, report.table)
    return report.rows
  report = score(
    load_text_to_video(_WORKDIR.value), folder, world=_WORLD.value, count=_COUNT.value,
    texts=prompts.read(_PROMPTS.value) if _PROMPTS.value else None, seed=_SEED.value, **changes,
  )  # fmt: skip
  _log.info("%s\n%s", folder / "scores.json", report.table)
  return report.rates


if __name__ == "__main__":
  config.run(main)
