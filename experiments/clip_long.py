"""The long-prompt stage of a CLIP [MG appendix A.1]: texts of 256 tokens instead of 77.

Starts from the run of `clip.py`, or a CLIP converted by `launch/convert.py`, that is given with
`--config.train.warm_start.workdir=DIR`. The position table grows; only it and the biases of the
text tower are trained, norms included, because full finetuning soon overfits the uniform style of
synthetic captions. Captions are a mix of long and short. The paper gives neither batch, learning
rate and steps nor how the table grows. Here it is stretched: short texts then start worse than if
the first 20 positions stayed, and are no worse after training.
"""

from ml_collections import ConfigDict

from experiments import clip
from mg_jax.core.config import is_tiny

LENGTH = 256
# All parameters except the positions and the biases of the text tower.
FROZEN = r"^(?!text/(positions|.*bias)$)"


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `clip`."""
  config = clip.get_config(arg)
  tiny = is_tiny(arg)
  config.train.experiment = "clip_long"
  config.model.text.length = LENGTH
  config.text.text.length = LENGTH
  config.data.captions = "mixed"
  config.optim.update(freeze=(FROZEN,), lr=3e-3 if tiny else 1e-3, warmup=20 if tiny else 500)
  config.train.warm_start.update(
    after="a run of experiments/clip.py", required=True, into="model", ema=config.train.ema > 0,
    grow=((r"^model/text/positions$", "interpolate"),),
  )
  config.train.steps = 400 if tiny else 10_000
  if tiny:
    config.data.global_batch = 32
  return config
