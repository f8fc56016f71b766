"""Reconstructs a video or a sound with a trained autoencoder and measures how faithful that is.

python launch/reconstruct.py --workdir=runs/tae --video=in.mp4 --out=out.mp4
python launch/reconstruct.py --workdir=runs/dacvae --sound=in.mp3 --out=out.wav
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.train import figures

_log = logging.getLogger("mg_jax")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained autoencoder's run.")
_VIDEO = flags.DEFINE_string("video", None, "The video.")
_SOUND = flags.DEFINE_string("sound", None, "Or any file with sound, for an audio codec.")
_OUT = flags.DEFINE_string("out", None, "Of a video: original, reconstruction, difference: an mp4. "
                           "Of a sound: the reconstruction, a wav.")  # fmt: skip
_SECONDS = flags.DEFINE_float("seconds", None, "Stop after this time; default all there is.")
_SIZE = flags.DEFINE_list("size", [], "Pixels: SHORTER_SIDE or HEIGHT,WIDTH; default the video's.")
_FPS = flags.DEFINE_float("fps", None, "Frames per second; default the video's.")
_TILES = flags.DEFINE_list("tiles", [], "FRAMES,SIDE[,OVERLAP,BORDER] of tiles; default 32,1024.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint; default the newest.")


@figures.measured
def main(argv: list[str]) -> dict | None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if bool(_VIDEO.value) == bool(_SOUND.value):
    raise UserError("give one of --video and --sound; see --help")
  for flag in (_WORKDIR, _OUT):
    if not flag.value:
      raise UserError(f"--{flag.name} is missing; see --help")
  if len(_SIZE.value) > 2 or not all(text.isdecimal() and int(text) for text in _SIZE.value):
    raise UserError(f"--size={','.join(_SIZE.value)} is no SHORTER_SIDE or HEIGHT,WIDTH in pixels")
  sides = tuple(map(int, _SIZE.value))
  # After the flags are parsed: --help and mistakes should not wait for a backend.
  from mg_jax.models import tiling
  from mg_jax.train import export
  from mg_jax.train.reconstruct import reconstruct
  from mg_jax.train.reconstruct_sound import reconstruct_sound

  if _SOUND.value:
    codec = export.load_codec(_WORKDIR.value, step=_STEP.value)
    report = reconstruct_sound(codec, _SOUND.value, _OUT.value, seconds=_SECONDS.value)
    print(
      f"{_OUT.value}: mel distance {report['mel']:.3f}, STFT distance {report['stft']:.3f}, "
      f"SI-SDR {report['si_sdr']:.2f} dB over {report['seconds']:.2f} s"
    )
    return report
  report = reconstruct(
    export.load_autoencoder(_WORKDIR.value, step=_STEP.value, tiling=tiling.parse(_TILES.value)),
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
  return report


if __name__ == "__main__":
  config.run(main)
