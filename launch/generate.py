"""Generates videos or images from prompts, and sound for videos, from text, or around known sound.

python launch/generate.py --workdir=runs/t2v --prompt="a red star moves left"
python launch/generate.py --task=soundtrack --workdir=runs/sound --video=in.mp4 --out=out.mp4
python launch/generate.py --task=sound --workdir=runs/sound --prompt=rain --seconds=10 --out=out.wav

On several hosts, start it once per host with the same flags and --distributed.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_TASKS = ("video", "soundtrack", "sound")
_FLAGS = (
  flags.DEFINE_enum("task", "video", _TASKS, "What to generate; soundtrack is sound for a video."),
  flags.DEFINE_string("workdir", None, "Folder of a trained run."),
  flags.DEFINE_multi_string("prompt", [], "Prompt; may be repeated: clips, or sound windows."),
  flags.DEFINE_string("prompts", None, "File of prompts: .txt, one per line, or .jsonl."),
  flags.DEFINE_string("out", None, "Folder, or for one prompt a file (.mp4, .png for images), "
                      "default <workdir>/generated; .mp4 for a soundtrack, .wav for sound."),
  flags.DEFINE_integer("seed", 0, "Seed of the first prompt; the next ones count up."),
  flags.DEFINE_integer("frames", None, "Frames of a clip; default the run's."),
  flags.DEFINE_float("fps", None, "Frames per second; default the run's."),
  flags.DEFINE_integer("height", None, "Height in pixels; default the run's."),
  flags.DEFINE_integer("width", None, "Width in pixels; default the run's."),
  flags.DEFINE_string("guidance", None, "Scale of guidance by the conditions, 1 for none; or of "
                      "each, as in first:1.5,text:7.5; default the run's."),
  flags.DEFINE_integer("steps", None, "Solver steps; default the run's."),
  flags.DEFINE_string("schedule", None, "Times: linear_quadratic or linear; default the run's."),
  flags.DEFINE_string("method", None, "Solver: euler or midpoint; default the run's."),
  flags.DEFINE_bool("image", False, "Generate images: one frame, saved as PNG."),
  flags.DEFINE_list("tiles", [], "FRAMES,SIDE[,OVERLAP,BORDER] of tiles; default 32,1024."),
  flags.DEFINE_list("mesh", [], "Sizes of the mesh axes data,fsdp,context,tensor, over which "
                    "sampling is spread; default: one device, or all of them on the data axis with "
                    "--distributed."),
  flags.DEFINE_string("dtype", None, "Type of the generator's weights, such as bfloat16; default: "
                      "as saved."),
  flags.DEFINE_bool("distributed", False, "Join the other processes of this command."),
  flags.DEFINE_bool("overwrite", False, "Replace outputs that exist already."),
  flags.DEFINE_string("first_frame", None, "Image that a clip starts from."),
  flags.DEFINE_multi_string("condition", [], "NAME=VALUE of another condition of the model: the "
                            "number of a class, an image or .npy file. May be repeated."),
  flags.DEFINE_string("video", None, "Video that gets a soundtrack, its picture copied; or that is "
                      "continued, with --task=video --extend."),
  flags.DEFINE_string("sound", None, "Sound to extend or fill; default that of the video."),
  flags.DEFINE_multi_string("music", [], "A prompt of music; default none. May be repeated."),
  flags.DEFINE_float("seconds", None, "Length of sound from text alone, for which it is required."),
  flags.DEFINE_multi_float("extend", [], "Seconds to add after the clip or the sound; of a sound, "
                           "negative ones are added before."),
  flags.DEFINE_multi_string("infill", [], "START:END in seconds of a part to replace."),
  flags.DEFINE_integer("candidates", None, "Sounds to keep the best of; default the run's."),
  flags.DEFINE_float("window_s", None, "Seconds of sound made at once; default the run's."),
  flags.DEFINE_float("hop_s", None, "Seconds from one window to the next; default the run's."),
  flags.DEFINE_string("long_form", None, "How windows are joined: multidiffusion or "
                      "autoregressive; default the run's."),
)  # fmt: skip


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; give prompts as --prompt=TEXT")
  options = {holder.name: holder.value for holder in _FLAGS}
  if not options["workdir"]:
    raise UserError("give --workdir, the folder of a trained run")
  # Imported late: --help and mistakes should not wait for a backend.
  from mg_jax.app.generation import generate

  generate(options)


if __name__ == "__main__":
  config.run(main)
