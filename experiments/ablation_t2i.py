"""First step of the paper's ablations [MG 3.6]: a 5B model of landscape images, 352 x 192 px.

The recipe to start from without thousands of GPUs: 512 GPUs, 96 k steps. Step 2 is
`ablation_t2v.py`.
"""

from ml_collections import ConfigDict

from experiments import t2i_256
from mg_jax.core.config import is_tiny

HEIGHT, WIDTH = 192, 352


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `t2i_256`, with the model "5b" by default."""
  config = t2i_256.get_config(",".join(["model=5b", *filter(None, [arg])]))
  config.train.experiment = "ablation_t2i"
  if is_tiny(arg):
    return config
  config.data.update(height=HEIGHT, width=WIDTH)
  config.sampling.update(height=HEIGHT, width=WIDTH)
  t2i_256.set_tables(config, rows=1, sides=t2i_256.side_tokens(config))
  config.optim.lr = 3e-4
  config.train.steps = 96_000
  return config
