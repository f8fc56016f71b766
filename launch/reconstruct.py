"""Reconstructs a video with a trained autoencoder and measures how faithful that is.

python launch/reconstruct.py --workdir=runs/tae --video=in.mp4 --out=out.mp4
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_log = logging.getLogger("mg_jax")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained autoencoder's run.")
_VIDEO = flags.DEFINE_string("video", None, "The video.")
_OUT = flags.DEFINE_string("out", None, "Original, reconstruction, difference: an mp4.")
_SECONDS = flags.DEFINE_float("seconds", None, "Stop after this time; default the whole video.")
_SIZE = flags.DEFINE_list("size", [], "Pixels: SHORTER_SIDE or HEIGHT,WIDTH; default the video's.")
_FPS = flags.DEFINE_float("fps", None, "Frames per second; default the video's.")
_TILES = flags.DEFINE_list("tiles", [], "FRAMES,SIDE[,OVERLAP,BORDER] of tiles; default 32,1024.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint; default the newest.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  for flag in (_WORKDIR, _VIDEO, _OUT):
    if not flag.value:
      raise UserError(f"--{flag.name} is missing; see --help")
  if len(_SIZE.value) > 2 or not all(text.isdecimal() and int(text) for text in _SIZE.value):
    raise UserError(f"--size={','.join(_SIZE.value)} is no SHORTER_SIDE or HEIGHT,WIDTH in pixels")
  sides = tuple(map(int, _SIZE.value))
  # After the flags are parsed: --help and mistakes should not wait for a backend.
  from mg_jax.models import tiling
  from mg_jax.train.export import load_autoencoder
  from mg_jax.train.reconstruct import reconstruct

  report = reconstruct(
    load_autoencoder(_WORKDIR.value, step=_STEP.value, tiling=tiling.parse(_TILES.value)),
    _VIDEO.value,
    _OUT.value,
    size=(sides[0] if len(sides) == 1 else sides) if sides else None,
    fps=_FPS.value,
    seconds=_SECONDS.value,
  )
  print(
    f"{_OUT.value}: PSNR {report['psnr']:.2f} dB, SSIM {report['ssim']:.4f} "
    f"over {report['frames']} frames of {report['height']}x{report['width']}"
  )


if __name__ == "__main__":
  config.run(main)
