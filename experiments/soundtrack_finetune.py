"""Finetuning of Movie Gen Audio on cinematic soundtracks and on high-quality sound [MG 6.2].

Starts from the run of `soundtrack.py` given with `--config.train.warm_start.workdir=DIR`, with its
codec. There are 10 batches of video per batch of sound alone; chunks are 10 and 30 s. The averaged
weights are used.
"""

from ml_collections import ConfigDict

from experiments import soundtrack
from mg_jax.core.config import is_tiny


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `soundtrack`."""
  config = soundtrack.get_config(arg)
  tiny = is_tiny(arg)
  config.train.experiment = "soundtrack_finetune"
  config.train.warm_start.update(
    after="a run of experiments/soundtrack.py", required=True, into="model",
    ema=config.train.ema > 0,
  )
  # Decays to 1e-8.
  config.optim.update(schedule="linear", final=1e-4)
  config.train.update(steps=500 if tiny else 50_000, ema=0.99 if tiny else 0.999)
  if tiny:
    config.optim.update(lr=3e-4, warmup=20)
  else:
    config.data.update(global_batch=256, video_weight=10, sound_weight=1)
  return config
