"""Finetuning of Movie Gen Audio on cinematic soundtracks and on fine sound alone [MG 6.2].

Starts from the run of `soundtrack.py` that `--config.train.warm_start.workdir=DIR` names, with its
codec. Batches of video and of sound alone come as 10 to 1; chunks are of 10 and of 30 s. The
averaged weights are used.
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
  # Down to 1e-8.
  config.optim.update(schedule="linear", final=1e-4)
  config.train.update(steps=500 if tiny else 50_000, ema=0.99 if tiny else 0.999)
  if tiny:
    config.optim.update(lr=3e-4, warmup=20)
  else:
    config.data.update(global_batch=256, video_weight=10, sound_weight=1)
  return config
