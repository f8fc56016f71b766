"""Converts weights to a folder of ours: a Hugging Face checkpoint, or the encoder of a run.

python launch/convert.py --from=CHECKPOINT --to=weights/t5 --kind=t5 --dtype=bfloat16
python launch/convert.py --from=OWNER/NAME --to=weights/dacvae --kind=dacvae
python launch/convert.py --from=runs/clip --to=weights/toy_clip --kind=run
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_FROM = flags.DEFINE_string(
  "from", None, "Folder with config.json and weights, OWNER/NAME[/FOLDER], or a run's workdir."
)
_TO = flags.DEFINE_string("to", None, "Folder to be made.")
_KIND = flags.DEFINE_enum(
  "kind", None, ["t5", "clip", "autoencoder", "dacvae", "run"],
  "Family of the model, or run: the workdir of a training.",
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "Of the result.")
_WEIGHT_NORM = flags.DEFINE_bool(
  "weight_norm", False, "Keep directions and norms of a codec's kernels, to train on with them."
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  for name, flag in (("from", _FROM), ("to", _TO), ("kind", _KIND)):
    if not flag.value:
      raise UserError(f"--{name} is missing; see --help")
  # After the flags are parsed: --help and mistakes should not wait for a backend.
  if _KIND.value == "run":
    if _WEIGHT_NORM.value:
      raise UserError("--weight_norm is for published codecs; a run keeps what it trained with")
    from mg_jax.train import export

    written = export.export_encoder(_FROM.value, _TO.value, dtype=_DTYPE.value)
  else:
    from mg_jax.models import hub, published

    source = hub.fetch(_FROM.value)
    written = published.convert(
      source, _TO.value, _KIND.value, dtype=_DTYPE.value, weight_norm=_WEIGHT_NORM.value
    )
  print(f"{_TO.value}: {written['kind']} in {written['dtype']}, {written['model']}")


if __name__ == "__main__":
  config.run(main)
