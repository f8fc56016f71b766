"""Supervised finetuning of text to video [MG 3.3] on few hand-picked clips, captions corrected.

Starts from a run of `t2v_768.py`, given with `--config.train.warm_start.workdir=DIR`. Clips have
16 s at 16 fps, or 10.67 s at 24 fps; there are no images. Several runs with other subsets, seeds
and learning rates are averaged at the end, as in the paper:

    python launch/average.py --from=runs/sft_a,runs/sft_b --to=runs/sft

The paper gives the cosine schedule, 512 GPUs and a small batch. Learning rate, batch and steps are
choices: those of its text-to-image finetuning [MG 3.8] where given.
"""

from ml_collections import ConfigDict

from experiments import t2i_256, t2v_768
from mg_jax.core.config import is_tiny, split_arg
from mg_jax.core.errors import UserError

PEAK, TINY_PEAK = 1e-5, 1e-4


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `t2i_256`."""
  if (phase := split_arg(arg, phase=1)[0].phase) != 1:
    raise UserError(f"t2v_sft has no phase {phase}; leave phase out")
  config = t2v_768.get_config(arg)
  tiny = is_tiny(arg)
  config.train.experiment = "t2v_sft"
  t2i_256.start_from(config, "t2v_768", tiny=tiny)
  config.optim.update(lr=TINY_PEAK if tiny else PEAK, warmup=20 if tiny else 200, schedule="cosine")
  config.data.update(image_weight=0, video_weight=1)
  if tiny:
    config.train.steps = 500
    return config
  config.data.update(durations="sft", global_batch=64)
  config.mesh = (1, -1, 2, 4)
  config.train.update(steps=5000, ema=0.999, checkpoint_every=500)
  config.eval.every = 500
  return config
