"""The temporal autoencoder [MG 3.1.1]: `tae.py` at the paper's size, `tae.py:tiny` on a CPU.

The paper gives the architecture and the 1 : 3 mix of image and video batches; channels, learning
rate and resolution are the choices of the open latent-diffusion family. It starts from an image
autoencoder, the paper's or one of the same size, by --config.train.warm_start.weights=FOLDER (made
by launch/convert.py) or .workdir=RUN, which leaves what is temporal at the identity.
"""

from ml_collections import ConfigDict

from mg_jax.core.config import module_fields, parse_arg, section
from mg_jax.data.recipe import DataConfig
from mg_jax.models.inflate import TEMPORAL
from mg_jax.models.tae import TAE
from mg_jax.objectives.autoencoding import AutoencodingWeights
from mg_jax.train.experiment import EvalConfig
from mg_jax.train.loop import TrainConfig
from mg_jax.train.optim import OptimConfig

# Of the toy world. With 4,000 the generator's held-out loss stays 15 % above that on its own clips.
TINY_CLIPS = 12_000


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: tiny; size (pixels of the side) and frames, for tiny."""
  args = parse_arg(arg, tiny=False, size=32, frames=16)
  config = ConfigDict()
  config.stage = "autoencoding"
  config.mesh = (-1, 1, 1, 1)
  config.model = ConfigDict(module_fields(TAE, dtype="bfloat16"))
  config.objective = section(AutoencodingWeights)
  config.data = section(
    DataConfig, source="folder", caption_required=False, frames=32, height=256, width=256,
    fps=16.0, windows=8, image_weight=1, video_weight=3, global_batch=64,
  )
  config.optim = section(OptimConfig, lr=1e-4, warmup=1000)
  config.train = section(
    TrainConfig, experiment="tae", steps=300_000, ema=0.999, checkpoint_every=2000,
    warm_start={"into": "autoencoder", "allow_missing": (TEMPORAL,)},
  )
  config.eval = section(EvalConfig, every=5000)
  if args.tiny:
    tiny(config, size=args.size, frames=args.frames)
  return config


def tiny_fps(frames: int) -> float:
  """Frame rate of tiny clips: simple scenes last two seconds, which many frames share."""
  return max(8.0, frames / 2)


def tiny(config: ConfigDict, *, size: int, frames: int) -> None:
  """A model that learns the toy world in minutes on two cores."""
  config.model.update(
    channels=128, multipliers=(1, 1), blocks=1, patch=(4, 4, 4), shortcut=True, groups=8,
    dtype="float32",
  )
  # A median is the background wherever a moving object might be: squared error learns faster.
  config.objective.update(l1=0.0, mse=2.0)
  # A large frame has more patches to learn from: more steps of fewer clips.
  config.data.update(
    source="toy", clips=TINY_CLIPS, frames=frames, height=size, width=size, fps=tiny_fps(frames),
    windows=4, image_weight=0, video_weight=1, global_batch=16 if size <= 32 else 8,
  )
  config.optim.update(lr=1e-3, warmup=20, schedule="linear", weight_decay=1e-4)
  config.train.update(steps=2000, ema=0.0, checkpoint_every=500)
  config.eval.update(every=500, limit=128)
