"""Runs every stage of the generator in its tiny form, each from the previous one, on a CPU.

python launch/chain.py --workdir=runs/chain

Image autoencoder, temporal autoencoder, text to image, text to video at two sizes with all phases
of Table 3, two finetuned models and their average; and text to image at the larger size, tuned. A
table shows the effect of each switch on the held-out loss. Run again, it continues.
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.evaluation import figures

_log = logging.getLogger("mg_jax")
_WORKDIR = flags.DEFINE_string("workdir", "runs/chain", "Folder of all runs.")
_STEPS = flags.DEFINE_integer("steps", 200, "Steps per stage, and per phase of a stage.")
_CLIPS = flags.DEFINE_integer("clips", 1000, "Toy clips to train on.")
# Run, experiment, phase, run that it starts from, run of its autoencoder.
LINKS = (
  ("tae_image", "tae_image", 1, "", ""),
  ("tae", "tae", 1, "tae_image", ""),
  ("t2i_256", "t2i_256", 1, "", "tae"),
  ("t2v_256", "t2v_256", 1, "t2i_256", "tae"),
  ("t2v_256", "t2v_256", 2, "", "tae"),
  ("t2v_768", "t2v_768", 1, "t2v_256", "tae"),
  *(("t2v_768", "t2v_768", phase, "", "tae") for phase in (2, 3, 4)),
  ("sft_a", "t2v_sft", 1, "t2v_768", "tae"),
  ("sft_b", "t2v_sft", 1, "t2v_768", "tae"),
  ("t2i_1024", "t2i_1024", 1, "t2i_256", "tae_image"),
  ("t2i_1024_tune", "t2i_1024_tune", 1, "t2i_1024", "tae_image"),
)


@figures.measured
def main(argv: list[str]) -> dict:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if _STEPS.value < 1 or _CLIPS.value < 1:
    raise UserError("--steps and --clips must be at least 1")
  import importlib

  from mg_jax.stages import chain

  folder = pathlib.Path(_WORKDIR.value)
  links = []
  for run, name, phase, after, autoencoder in LINKS:
    arg = "tiny" + (f",phase={phase}" if phase > 1 else "")
    settings = config.to_dict(importlib.import_module(f"experiments.{name}").get_config(arg))
    if autoencoder:
      settings["autoencoder"] = str(folder / autoencoder)
      # Finetuning uses other clips, and each of its runs its own.
      settings["data"]["seed"] = {"sft_a": 1, "sft_b": 2}.get(run, 0)
    settings["data"].update(clips=_CLIPS.value, cache=str(folder / "data"))
    steps = _STEPS.value * phase
    settings["train"].update(steps=steps)
    settings["eval"].update(every=steps, previews=0)
    links.append(chain.Link(run, settings, after))
  switches = chain.run(links, folder, mean=("sft_a", "sft_b"))
  _log.info("\n%s\n%s", chain.table(switches), folder / "chain.json")
  return {switch.stage.replace(", ", " "): vars(switch) for switch in switches}


if __name__ == "__main__":
  config.run(main)
