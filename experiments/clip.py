"""A CLIP from scratch, trained as MetaCLIP: `clip.py` at the size of G/14, `clip.py:tiny` on a CPU.

Movie Gen encodes prompts with the text tower of a finished MetaCLIP [MG 3.1.4] and says nothing
about its training, so every setting here is a choice: those published for CLIP's largest ViT, L/14,
which MetaCLIP keeps: batch 32768, 12.8 billion pairs, Adam with b2 0.98 and eps 1e-6, weight decay
0.2, 2000 steps of warm-up, cosine, no gradient clipping. The folder of the published tokenizer's
files is given with `--config.text.text.files=DIR`; `:tiny` uses bytes, of which 77 hold about a
sentence.
"""

from ml_collections import ConfigDict

from mg_jax.core.config import parse_arg, section
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.text.readers import TextConfig
from mg_jax.models import zoo
from mg_jax.objectives.contrastive import Contrastive
from mg_jax.stages.experiment import EvalConfig
from mg_jax.train.loop import TrainConfig
from mg_jax.train.optim import OptimConfig


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: tiny; model (a name of `zoo.clip`)."""
  args = parse_arg(arg, tiny=False, model="g14")
  config = ConfigDict()
  config.stage = "contrastive"
  config.mesh = (-1, 1, 1, 1)
  config.model = ConfigDict(zoo.clip("tiny" if args.tiny else args.model))
  config.text = ConfigDict({"text": vars(TextConfig(tokenizer="clip", length=77))})
  config.objective = section(Contrastive, without=("model", "roles"))
  size = config.model.vision.size
  config.data = section(
    DataConfig, source="folder", frames=1, height=size, width=size, fps=1.0, windows=8,
    global_batch=32768, captions="all",
  )
  config.optim = section(
    OptimConfig, lr=4e-4, warmup=2000, schedule="cosine", b2=0.98, eps=1e-6, weight_decay=0.2,
    clip=0.0,
  )
  config.train = section(
    TrainConfig, experiment="clip", steps=390_000, ema=0.0, checkpoint_every=2000
  )
  config.eval = section(EvalConfig, every=5000, batch=1024, limit=8192, previews=0)
  if args.tiny:
    tiny(config)
  else:
    # In float32, activations of 64 pairs with G/14 do not fit on an H200.
    for tower in (config.model.text, config.model.vision):
      tower.update(dtype="bfloat16", remat="full")
  return config


def tiny(config: ConfigDict) -> None:
  """A model that learns the stills of the toy world in minutes on two cores.

  A single frame shows no motion, so it is the middle one of each scene and its captions name places
  instead. Two frames at 1 fps of scenes of two seconds: the second is the middle. Half of the
  wordings are long; they are left to `clip_long.py`.
  """
  config.text.text.tokenizer = "bytes"
  config.data.update(
    source="toy", world="stills", clips=20_000, held_out=256, variants=15, frames=2,
    windows=4, global_batch=64, captions="short",
  )
  # After 120 steps Muon had a loss of 1.2, AdamW (at 1e-3, with one more layer) 2.5.
  config.optim.update(
    kind="muon", lr=4e-3, warmup=20, schedule="linear", eps=1e-8, weight_decay=0.05, clip=1.0
  )
  config.train.update(steps=500, ema=0.97, checkpoint_every=250)
  config.eval.update(every=100, batch=256, limit=256)
