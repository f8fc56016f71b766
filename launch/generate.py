"""Generates videos or images from prompts.

python launch/generate.py --workdir=runs/t2v --prompt="a red star moves left"
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_log = logging.getLogger("mg_jax")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained text-to-video run.")
_PROMPT = flags.DEFINE_multi_string("prompt", [], "A prompt; may be repeated.")
_PROMPTS = flags.DEFINE_string("prompts", None, "File of prompts: .txt, one a line, or .jsonl.")
_OUT = flags.DEFINE_string("out", None, "Folder, or for one prompt a file (.mp4, .png for images).")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the first prompt; the next ones count up.")
_FRAMES = flags.DEFINE_integer("frames", None, "Frames of a clip.")
_FPS = flags.DEFINE_float("fps", None, "Frames per second.")
_HEIGHT = flags.DEFINE_integer("height", None, "Pixels.")
_WIDTH = flags.DEFINE_integer("width", None, "Pixels.")
_GUIDANCE = flags.DEFINE_float("guidance", None, "Text guidance; 1 is none.")
_STEPS = flags.DEFINE_integer("steps", None, "Solver steps.")
_SCHEDULE = flags.DEFINE_string("schedule", None, "linear_quadratic or linear.")
_METHOD = flags.DEFINE_string("method", None, "euler or midpoint.")
_IMAGE = flags.DEFINE_bool("image", False, "Make images: one frame, saved as PNG.")
_TILES = flags.DEFINE_list("tiles", [], "FRAMES,SIDE[,OVERLAP,BORDER] of tiles; default 32,1024.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Make clips anew that are there already.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; give prompts as --prompt=TEXT")
  if not _WORKDIR.value:
    raise UserError("give --workdir, the folder of a trained text-to-video run")
  # After the flags are parsed: --help and mistakes should not wait for a backend.
  from mg_jax.models import tiling
  from mg_jax.sampling import outputs, prompts
  from mg_jax.train.export import load_text_to_video

  listed = prompts.read(_PROMPTS.value) if _PROMPTS.value else []
  if not (entries := [(text, None) for text in _PROMPT.value] + listed):
    raise UserError("there is no prompt; give --prompt or --prompts")
  planned, notices = prompts.plan(entries, seed=_SEED.value)
  pipeline = load_text_to_video(_WORKDIR.value, tiling=tiling.parse(_TILES.value))
  holders = (_FRAMES, _FPS, _HEIGHT, _WIDTH, _GUIDANCE, _STEPS, _SCHEDULE, _METHOD)
  changes = {h.name: h.value for h in holders if h.value is not None}
  settings = pipeline.resolve(**changes | ({"frames": 1} if _IMAGE.value else {}))
  notices += prompts.cut(planned, pipeline.text.readers, tags=pipeline.tags(settings))
  for notice in notices:
    _log.warning("%s", notice)
  out = _OUT.value or pathlib.Path(_WORKDIR.value) / "generated"
  folder, planned = outputs.place(out, planned, settings, overwrite=_OVERWRITE.value)
  made = outputs.generate(pipeline, planned, folder, settings, overwrite=_OVERWRITE.value)
  new = 0
  for prompt, _ in made:
    new += 1
    _log.info("%s", outputs.clip_path(folder, prompt, settings))
  if new < len(planned):
    _log.info("%d of %d clips were there already", len(planned) - new, len(planned))
  if len(planned) > 1:
    _log.info("%s", outputs.write_sheet(folder, planned, settings))


if __name__ == "__main__":
  config.run(main)
