"""Second step of the paper's ablations [MG 3.6]: images and clips of 4 to 8 s at 352 x 192 px.

Starts from a run of `ablation_t2i.py`, given with `--config.train.warm_start.workdir=DIR`. There is
one batch of 4096 images per 50 batches of 256 clips.
"""

from ml_collections import ConfigDict

from experiments import ablation_t2i, t2i_256, t2v_256
from mg_jax.core.config import is_tiny

LATENT_FRAMES = 16  # of 128 frames


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `ablation_t2i`."""
  config = ablation_t2i.get_config(arg)
  tiny = is_tiny(arg)
  config.train.experiment = "ablation_t2v"
  config.data.update(image_weight=1, video_weight=4 if tiny else 50)
  config.data.image_batch = 4 * config.data.global_batch if tiny else 4096
  config.sampling.frames = config.data.frames if tiny else 128
  rows = t2v_256.TINY_LATENT_FRAMES if tiny else LATENT_FRAMES
  t2i_256.set_tables(config, rows=rows, sides=t2i_256.side_tokens(config))
  t2i_256.start_from(config, "ablation_t2i", tiny=tiny)
  if tiny:
    return config
  config.data.update(durations="ablation", aspects="one", global_batch=256)
  config.mesh = (1, -1, 1, 2)
  config.model.dit.remat = "attention"
  config.optim.lr = 5e-5
  config.train.steps = 100_000
  return config
