"""Text to image at 1024 px, the image-only variant of the generator [MG 3.8].

The temporal autoencoder is replaced by an image autoencoder (`tae_image.py`), and the model,
started from a run of `t2i_256.py` with `--config.train.warm_start.workdir=DIR`, trains on images of
1024 px in five aspect ratios. The spatial upsampler starts from such a model [MG 3.1.5]. The
paper gives no batch, learning rate and steps of this stage. `t2i_1024_tune.py` follows.
"""

from ml_collections import ConfigDict

from experiments import t2i_256
from mg_jax.core.config import is_tiny

SIDES = 96  # tokens; the longest side of the five aspect ratios has 85


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `t2i_256`. Tiny doubles the side of the frame."""
  config = t2i_256.get_config(arg)
  tiny = is_tiny(arg)
  config.train.experiment = "t2i_1024"
  size = 2 * config.data.height if tiny else 1024
  config.data.update(height=size, width=size)
  config.sampling.update(height=size, width=size)
  sides = 2 * t2i_256.side_tokens(config) if tiny else SIDES
  t2i_256.set_tables(config, rows=1, sides=sides)
  t2i_256.start_from(config, "t2i_256", tiny=tiny)
  if not tiny:
    config.data.update(durations="paper", global_batch=1536)
    config.model.dit.remat = "attention"
    config.optim.lr = 5e-5
    config.train.steps = 60_000
  return config
