"""Adversarial finetuning of the temporal autoencoder, its last stage [MG 3.1.1].

Starts from `tae.py`, whose workdir is given with `--config.train.warm_start.workdir=DIR`. Weight,
adaptive weight and discriminator are those of latent diffusion; the paper names a discriminator and
gives no details. `--config.discriminator.temporal=True` judges clips instead of frames, in case of
flicker.
"""

from ml_collections import ConfigDict

from experiments import tae
from mg_jax.core.config import is_tiny, module_fields
from mg_jax.models.codecs.discriminators import PatchDiscriminator


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `tae_image`."""
  config = tae.get_config(arg)
  tiny = is_tiny(arg)
  config.train.experiment = "tae_gan"
  config.objective.gan = 0.5
  config.discriminator = ConfigDict(module_fields(PatchDiscriminator, dtype=config.model.dtype))
  config.train.warm_start.update(
    after="a run of experiments/tae.py", allow_missing=(r"^discriminator/",), grow=()
  )
  # One section per role, so that each has its own flags.
  config.optim.update(lr=1e-4 if tiny else 1e-5, schedule="constant")
  critic = config.optim.copy_and_resolve_references()
  critic.update(lr=1e-3 if tiny else 1e-4, weight_decay=0.0)
  config.optim = ConfigDict({"autoencoder": config.optim, "discriminator": critic})
  if tiny:
    config.discriminator.update(channels=16, multipliers=(1, 2), groups=8)
    config.train.steps = 500
  else:
    config.train.steps = 100_000
  return config
