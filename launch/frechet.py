"""Frechet distance between two sets of images or videos, or between two files of features.

python launch/frechet.py --reference=CLIPS --samples=runs/t2v/clips --features=weights/clip \
  --out=runs/t2v/frechet
python launch/frechet.py --reference=real.npy --samples=made.npy   # features from elsewhere
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_REFERENCE = flags.DEFINE_string("reference", None, "Folder of real images or videos, or their "
                                 "features: a .npy of shape (N, D).")  # fmt: skip
_SAMPLES = flags.DEFINE_string("samples", None, "Folder or .npy to compare with it.")
_FEATURES = flags.DEFINE_string("features", None, "CLIP whose vision tower computes features: a "
                                "run, or a folder made by convert.py; for folders.")  # fmt: skip
_OUT = flags.DEFINE_string("out", None, "Folder for reference.npy, samples.npy; for folders.")
_FRAMES = flags.DEFINE_integer("frames", 8, "Frames per video, evenly spaced.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  sources = {holder.name: holder.value for holder in (_REFERENCE, _SAMPLES)}
  if not all(sources.values()):
    raise UserError("give --reference and --samples, each a folder or a .npy of features")
  folders = [name for name, source in sources.items() if pathlib.Path(source).is_dir()]
  if folders and not (_FEATURES.value and _OUT.value):
    raise UserError(
      f"--{folders[0]} is a folder; give --features, a CLIP that computes its features, and --out"
    )
  # Imported late: --help and mistakes should not wait for a backend.
  from mg_jax.evaluation.features import write_features
  from mg_jax.inference.export import encoder_folder
  from mg_jax.metrics.frechet import frechet
  from mg_jax.models.encoders.vision import FrozenVision

  tower = FrozenVision(encoder_folder(_FEATURES.value)) if folders else None
  for name in folders:
    target = pathlib.Path(_OUT.value) / f"{name}.npy"
    sources[name] = write_features(sources[name], target, tower=tower, frames=_FRAMES.value)
  result = frechet(sources["reference"], sources["samples"])
  rows, others = result.counts
  print(f"{result.name} {result.value:.6g}: {rows} and {others} rows of {result.size} dimensions")


if __name__ == "__main__":
  config.run(main)
