"""The temporal autoencoder [MG 3.1.1]: `tae.py` at the paper's size, `tae.py:tiny` on a CPU.

Inflated from an image autoencoder, given with `--config.train.warm_start.workdir=DIR`: a run of
`tae_image.py`, or a published one converted by `launch/convert.py`; temporal layers start as the
identity. `:tiny` also learns the toy world from random parameters. The paper gives the
architecture, the 1 : 3 mix of image and video batches and that lengths vary.
"""

from ml_collections import ConfigDict

from experiments import tae_image
from mg_jax.core.config import is_tiny
from mg_jax.models.codecs.inflate import TEMPORAL


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `tae_image`."""
  config = tae_image.get_config(arg)
  tiny = is_tiny(arg)
  config.train.experiment = "tae"
  config.model.temporal = True
  # The tiny clips have so few frames that they do without images.
  config.data.update(image_weight=0 if tiny else 1, video_weight=1 if tiny else 3)
  config.train.warm_start.update(
    after="a run of experiments/tae_image.py", required=not tiny, into="autoencoder",
    allow_missing=(TEMPORAL,),
  )
  if tiny:
    config.model.patch = (4, 4, 4)
    # Tiny runs keep no averaged weights.
    config.train.warm_start.ema = False
    # The stem and the linear map work on blocks that are as long as wide.
    config.train.warm_start.grow = ((r"_(in|out)/(kernel|bias)$", "inflate"),)
  else:
    config.data.lengths = (17, 24, 32)
    config.train.steps = 300_000
  return config
