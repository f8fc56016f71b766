"""Reconstructs a video or a sound with a trained autoencoder and measures its fidelity.

python launch/reconstruct.py --workdir=runs/tae --video=in.mp4 --out=out.mp4
python launch/reconstruct.py --workdir=runs/dacvae --sound=in.mp3 --out=out.wav
python launch/reconstruct.py --workdir=runs/tae --latents=FOLDER --out=out.mp4   # by encode.py
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
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained autoencoder's run.")
_VIDEO = flags.DEFINE_string("video", None, "Video to reconstruct.")
_SOUND = flags.DEFINE_string("sound", None, "File with sound to reconstruct, for an audio codec.")
_LATENTS = flags.DEFINE_string("latents", None, "Latents to decode: a folder of encode.py.")
_OUT = flags.DEFINE_string("out", None, "Output: for a video an mp4 of original, reconstruction, "
                           "difference; for sound a wav; for latents an mp4.")  # fmt: skip
_SECONDS = flags.DEFINE_float("seconds", None, "Stop after this time; default at the end.")
_SIZE = flags.DEFINE_list("size", [], "Pixels: SHORTER_SIDE or HEIGHT,WIDTH; default the video's.")
_FPS = flags.DEFINE_float("fps", None, "Frames per second; default the video's.")
_TILES = flags.DEFINE_list("tiles", [], "FRAMES,SIDE[,OVERLAP,BORDER] of tiles; default 32,1024.")
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; default the newest.")


@figures.measured
def main(argv: list[str]) -> dict | None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if sum(map(bool, (_VIDEO.value, _SOUND.value, _LATENTS.value))) != 1:
    raise UserError("give one of --video, --sound and --latents; see --help")
  if missing := [flag.name for flag in (_WORKDIR, _OUT) if not flag.value]:
    raise UserError(f"--{missing[0]} is missing; see --help")
  for flag in () if _VIDEO.value else (_SIZE, _FPS, _TILES if _SOUND.value else _SECONDS):
    if flag.value:
      raise UserError(f"--{flag.name} is for --video; leave it out")
  # Imported late: --help and mistakes should not wait for a backend.
  from mg_jax.data.media import fitting
  from mg_jax.evaluation.reconstruct import reconstruct
  from mg_jax.evaluation.reconstruct_sound import reconstruct_sound
  from mg_jax.inference import load
  from mg_jax.models.codecs import tiling
  from mg_jax.sampling.latents import decode_latents

  if _SOUND.value:
    codec = load.load_codec(_WORKDIR.value, step=_STEP.value)
    report = reconstruct_sound(codec, _SOUND.value, _OUT.value, seconds=_SECONDS.value)
    print(
      f"{_OUT.value}: mel distance {report['mel']:.3f}, STFT distance {report['stft']:.3f}, "
      f"SI-SDR {report['si_sdr']:.2f} dB over {report['seconds']:.2f} s"
    )
    return report
  size, tiles = fitting.parse_size(_SIZE.value), tiling.parse(_TILES.value)
  autoencoder = load.load_autoencoder(_WORKDIR.value, step=_STEP.value, tiling=tiles)
  if _LATENTS.value:
    print(f"{_OUT.value}: {decode_latents(autoencoder, _LATENTS.value, _OUT.value)} frames")
    return None
  report = reconstruct(
    autoencoder, _VIDEO.value, _OUT.value, size=size, fps=_FPS.value, seconds=_SECONDS.value
  )
  print(
    f"{_OUT.value}: PSNR {report['psnr']:.2f} dB, SSIM {report['ssim']:.4f} "
    f"over {report['frames']} frames of {report['height']}x{report['width']}"
  )
  return report


if __name__ == "__main__":
  config.run(main)
