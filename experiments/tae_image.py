"""The image autoencoder that the temporal one is inflated from, its first stage [MG 3.1.1].

The paper starts from a trained image autoencoder of the latent-diffusion family and does not train
one; published weights work too. Channels, losses, learning rate and resolution follow that family.
`:tiny` trains on frames of the toy world.
"""

from ml_collections import ConfigDict

from mg_jax.core.config import module_fields, parse_arg, section
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.models.codecs.tae import TAE
from mg_jax.objectives.autoencoding import AutoencodingWeights
from mg_jax.stages.experiment import EvalConfig
from mg_jax.train.loop import TrainConfig
from mg_jax.train.optim import OptimConfig

# Clips of the toy world. With 4,000 the generator's held-out loss at middle times was 15 % above
# that on its own clips.
TINY_CLIPS = 12_000


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: tiny; size (side in pixels) and frames, with tiny."""
  args = parse_arg(arg, tiny=False, size=32, frames=16)
  config = ConfigDict()
  config.stage = "autoencoding"
  config.mesh = (-1, 1, 1, 1)
  config.model = ConfigDict(module_fields(TAE, temporal=False, dtype="bfloat16"))
  # The term "lpips" is active once objective.lpips_files names its weights.
  config.objective = section(AutoencodingWeights, lpips=1.0)
  config.data = section(
    DataConfig, source="folder", caption_required=False, frames=32, height=256, width=256,
    fps=16.0, windows=8, image_weight=1, video_weight=0, global_batch=64,
  )
  config.optim = section(OptimConfig, lr=1e-4, warmup=1000)
  config.train = section(
    TrainConfig, experiment="tae_image", steps=500_000, ema=0.999, checkpoint_every=2000
  )
  config.eval = section(EvalConfig, every=5000)
  if args.tiny:
    tiny(config, size=args.size, frames=args.frames)
  return config


def tiny_fps(frames: int) -> float:
  """Frame rate of tiny clips: `frames` frames over the two seconds of a simple scene."""
  return max(8.0, frames / 2)


def tiny(config: ConfigDict, *, size: int, frames: int) -> None:
  """A model that learns the toy world in minutes on two cores."""
  config.model.update(
    channels=128, multipliers=(1, 1), blocks=1, patch=(1, 4, 4), shortcut=True, groups=8,
    dtype="float32",
  )
  # L1 predicts a median, the background wherever a moving object might be: L2 learns faster.
  config.objective.update(l1=0.0, mse=2.0, lpips=0.0)
  # A large frame has more patches to learn from: more steps of fewer clips.
  config.data.update(
    source="toy", clips=TINY_CLIPS, frames=frames, height=size, width=size, fps=tiny_fps(frames),
    windows=4, global_batch=16 if size <= 32 else 8,
  )
  config.optim.update(lr=1e-3, warmup=20, schedule="linear", weight_decay=1e-4)
  config.train.update(steps=2000, ema=0.0, checkpoint_every=500)
  config.eval.update(every=500, limit=128)
