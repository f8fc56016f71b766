"""Joint text to image and video at 768 px, the last stage of pre-training [MG 3.2.2, Table 3].

Starts from a run of `t2v_256.py`, given with `--config.train.warm_start.workdir=DIR`: spatial
position tables grow three-fold. Four phases, each continuing in the workdir of the previous one
(`t2v_768.py:phase=2` and so on): the learning rate drops at each plateau, and context parallelism 2
halves the batch in the last two.
"""

from ml_collections import ConfigDict

from experiments import t2i_256, t2v_256
from mg_jax.core.config import is_tiny, split_arg

PHASES = {
  1: (1536, 6e-5, 19_600),
  2: (1536, 3e-5, 11_000),
  3: (768, 2e-5, 15_900),
  4: (512, 1e-5, 28_000),
}


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `t2v_256`, with phases 1 to 4. Tiny doubles the side of the frame."""
  own, rest = split_arg(arg, phase=1)
  config = t2v_256.get_config(rest)
  tiny = is_tiny(arg)
  config.train.experiment = "t2v_768"
  size = 2 * config.data.height if tiny else 768
  config.data.update(height=size, width=size)
  config.sampling.update(height=size, width=size)
  frames, side, _ = config.model.dit.max_thw
  t2i_256.set_tables(config, rows=frames, sides=3 * side)
  t2i_256.start_from(config, "t2v_256", tiny=tiny)
  t2v_256.set_phase(config, PHASES, own.phase, tiny=tiny)
  if not tiny:
    config.mesh = (1, -1, 2 if own.phase > 2 else 1, 4)
  return config
