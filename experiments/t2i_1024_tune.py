"""Quality tuning of text to image at 1024 px on a few thousand images by artists [MG 3.8].

Starts from a run of `t2i_1024.py`, given with `--config.train.warm_start.workdir=DIR`. Learning
rate (constant after warm-up), batch, steps and warm-up are the paper's.
"""

from ml_collections import ConfigDict

from experiments import t2i_256, t2i_1024
from mg_jax.core.config import is_tiny


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `t2i_1024`."""
  config = t2i_1024.get_config(arg)
  tiny = is_tiny(arg)
  config.train.experiment = "t2i_1024_tune"
  t2i_256.start_from(config, "t2i_1024", tiny=tiny)
  config.optim.schedule = "constant"
  if tiny:
    config.optim.update(lr=1e-4, warmup=50)
    config.train.steps = 300
    return config
  config.data.global_batch = 64
  config.optim.update(lr=1e-5, warmup=2000)
  config.train.update(steps=6000, ema=0.999, checkpoint_every=500)
  config.eval.every = 500
  return config
