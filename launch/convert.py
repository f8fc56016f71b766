"""Converts weights to a folder that mg_jax reads: a published checkpoint, or what a run trained.

python launch/convert.py --from=CHECKPOINT --to=weights/t5 --kind=t5 --dtype=bfloat16
python launch/convert.py --from=OWNER/NAME --to=weights/dacvae --kind=dacvae
python launch/convert.py --from=GENERATOR/text_encoder_2 --to=weights/t5 --kind=t5
python launch/convert.py --from=runs/clip --to=weights/toy_clip --kind=run
python launch/convert.py --from=runs/t2v --to=weights/toy_t5 --kind=encoder

t5: the encoder of T5 1.0 and 1.1, FLAN-T5, UL2, ByT5, mT5 and UMT5, in the layout of transformers.
clip: CLIP and MetaCLIP, or a single tower, in the layout of transformers or of open_clip.
autoencoder: diffusers' AutoencoderKL without quantisation convolutions, as in SD3.5 and FLUX, with
any widths. dacvae: Meta's DACVAE. Relatives that compute something else are rejected by name.
The files of a tokenizer are copied too, from the checkpoint's folder or `tokenizer` next to it.
run: what a run trained, an autoencoder, codec, CLIP or generator; the folder stands for the run
wherever weights are named. encoder: of a generator's run, its text encoder alone.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.evaluation import figures

_FROM = flags.DEFINE_string(
  "from", None, "Folder with a config and weights, OWNER/NAME[/FOLDER], or a run's workdir."
)
_TO = flags.DEFINE_string("to", None, "Folder to create.")
_KIND = flags.DEFINE_enum(
  "kind", None, ["t5", "clip", "autoencoder", "dacvae", "run", "encoder"],
  "Required: family of the model, or run or encoder for what a run trained; see above.",
)
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16", "float16"], "Dtype of the weights."
)
_WEIGHT_NORM = flags.DEFINE_bool(
  "weight_norm", False, "Keep directions and norms of a codec's kernels, for training."
)


@figures.measured
def main(argv: list[str]) -> dict | None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  for name, flag in (("from", _FROM), ("to", _TO), ("kind", _KIND)):
    if not flag.value:
      raise UserError(f"--{name} is missing; see --help")
  # Imported late: --help and mistakes should not wait for a backend.
  from mg_jax.train import profile

  start = time.monotonic()
  if _KIND.value in ("run", "encoder"):
    if _WEIGHT_NORM.value:
      raise UserError("--weight_norm is for published codecs; a run keeps what it trained with")
    from mg_jax.inference import export

    write = export.export if _KIND.value == "run" else export.export_encoder
    written = write(_FROM.value, _TO.value, dtype=_DTYPE.value)
  else:
    from mg_jax.models.weights import hub, published

    source = hub.fetch(_FROM.value)
    written = published.convert(
      source, _TO.value, _KIND.value, dtype=_DTYPE.value, weight_norm=_WEIGHT_NORM.value
    )
  measured = {"seconds": time.monotonic() - start, "peak_gib": profile.memory_gib()}
  what = written.get("model") or f"step {written['step']} of {written['run']['stage']}"
  print(f"{_TO.value}: {written['kind']} in {written['dtype']}, {what}")
  return measured


if __name__ == "__main__":
  config.run(main)
