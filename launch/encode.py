"""Computes the latents and text features for training a generator, or the latents of one video.

python launch/encode.py --config=experiments/t2v_256.py:tiny --config.autoencoder=runs/tae \
  --workdir=runs/t2v
python launch/encode.py --workdir=runs/tae --video=in.mp4 --out=FOLDER   # back: reconstruct.py
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
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run that will train on them; with "
                               "--video, of the autoencoder's run.")  # fmt: skip
_VIDEO = flags.DEFINE_string("video", None, "Instead of --config, a video to encode.")
_OUT = flags.DEFINE_string("out", None, "Folder for the latents of the video.")
_SECONDS = flags.DEFINE_float("seconds", None, "Seconds of the video to encode; default all.")
_SIZE = flags.DEFINE_list("size", [], "Pixels: SHORTER_SIDE or HEIGHT,WIDTH; default the video's.")
_FPS = flags.DEFINE_float("fps", None, "Frames per second; default the video's.")
_TILES = flags.DEFINE_list("tiles", [], "FRAMES,SIDE[,OVERLAP,BORDER] of tiles; default 32,1024.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint of the autoencoder; default the newest.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Split the work with other processes.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if bool(_CONFIG.value) == bool(_VIDEO.value) or bool(_VIDEO.value) != bool(_OUT.value):
    raise UserError("give either --config, or --video and --out; see --help")
  if not _WORKDIR.value:
    raise UserError("--workdir is missing; see --help")
  for flag in (_DISTRIBUTED,) if _VIDEO.value else (_SECONDS, _SIZE, _FPS, _TILES, _STEP):
    if flag.value:
      raise UserError(f"--{flag.name} is for {'--config' if _VIDEO.value else '--video'}")
  # Imported late: --help and mistakes should not wait for a backend.
  from mg_jax.data.media import fitting
  from mg_jax.inference import load
  from mg_jax.models.codecs import tiling
  from mg_jax.sampling.latents import encode_video
  from mg_jax.stages import experiment

  if _VIDEO.value:
    size, tiles = fitting.parse_size(_SIZE.value), tiling.parse(_TILES.value)
    frames = encode_video(
      load.load_autoencoder(_WORKDIR.value, step=_STEP.value, tiling=tiles), _VIDEO.value,
      _OUT.value, size=size, fps=_FPS.value, seconds=_SECONDS.value,
    )  # fmt: skip
    _log.info("%s: latents of %d frames", _OUT.value, frames)
    return

  if _DISTRIBUTED.value:
    from mg_jax.core import distributed

    distributed.initialize()
  folder, counts = experiment.encode_data(_CONFIG.value, _WORKDIR.value)
  _log.info("%s: %d training clips, %d held out", folder, counts["train"], counts["validation"])


if __name__ == "__main__":
  config.run(main)
