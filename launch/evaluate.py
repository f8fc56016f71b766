"""Scores a run: clips for held-out prompts, sound for held-out clips, or metrics of held-out data.

Clips, and sounds with --measure=sound, are measured by the oracles of the toy world; infill and
seams also work for runs on folders of files. An autoencoder, a codec or a CLIP has the metrics of
its training, with 95 % intervals over sets of the toy world from other seeds than it has seen.

python launch/evaluate.py --workdir=runs/t2v --count=100
python launch/evaluate.py --workdir=runs/i2v --measure=known           # first frames, continuation
python launch/evaluate.py --workdir=runs/soundtrack --inputs=video
python launch/evaluate.py --workdir=runs/soundtrack --measure=infill   # or seams, of long sounds
python launch/evaluate.py --workdir=cast/codec                         # or runs/tae, runs/clip

On several hosts, start it once per host with the same flags and --distributed.
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
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, or a name of the cast.")
_OUT = flags.DEFINE_string("out", None, "Default <workdir>/evaluation, or in runs/cast/NAME.")
_COUNT = flags.DEFINE_integer("count", 64, "Number of held-out prompts, or samples.")
_PROMPTS = flags.DEFINE_string("prompts", None, "File of prompts instead of held-out ones.")
_WORLD = flags.DEFINE_enum("world", "simple", WORLDS, "Toy world of the prompts.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the first clip; the next ones count up.")
_GUIDANCE = flags.DEFINE_string(
  "guidance", None, "Scale of guidance by the conditions, 1 for none; or of each, as in "
  "first:1.5,text:7.5; default the run's."
)
_STEPS = flags.DEFINE_integer("steps", None, "Solver steps; default the run's.")
_MESH = flags.DEFINE_list(
  "mesh", [], "Sizes of the mesh axes data,fsdp,context,tensor, over which sampling is spread; "
  "default: one device, or all of them on the data axis with --distributed."
)
_DTYPE = flags.DEFINE_string(
  "dtype", None, "Type of the generator's weights, such as bfloat16; default: as saved."
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of this command.")
_INPUTS = flags.DEFINE_enum(
  "inputs", "both", ["both", "video", "text"],
  "Which of a held-out clip's video and caption a model of sound is conditioned on."
)
_MEASURE = flags.DEFINE_enum(
  "measure", None, ["clips", "known", "sound", "infill", "seams", "held_out"],
  "What is measured: clips from prompts, sound, or held_out metrics of what generates nothing, the "
  "defaults; known: clips from a first frame, and continued ones; infill and seams of sound.",
)


@figures.measured
def main(argv: list[str]) -> dict | None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if not _WORKDIR.value or _COUNT.value < 1:
    raise UserError("give --workdir, the folder of a run, and a --count of 1 or more")
  # Imported late: --help and mistakes should not wait for a backend.
  from mg_jax.core import distributed, mesh, shipped
  from mg_jax.evaluation.evaluate import evaluate

  if _DISTRIBUTED.value:
    distributed.initialize(trains=False)
  folder = pathlib.Path(_OUT.value or shipped.results(_WORKDIR.value) / "evaluation")
  changes = {h.name: h.value for h in (_GUIDANCE, _STEPS) if h.value is not None}
  table, result = evaluate(
    _WORKDIR.value, folder, measure=_MEASURE.value, inputs=_INPUTS.value, count=_COUNT.value,
    world=_WORLD.value, texts=_PROMPTS.value, seed=_SEED.value,
    mesh=mesh.parse_mesh(_MESH.value), dtype=_DTYPE.value, **changes,
  )  # fmt: skip
  _log.info("%s\n%s", folder, table)
  return result


if __name__ == "__main__":
  config.run(main)
