"""Joint text to image and video at 768 px, the last stage of pre-training [MG 3.2.2, Table 3].

Four phases: the learning rate falls at each plateau, and context parallelism 2 halves the batch in
the last two. Spatial position tables grow three-fold from the 256 px stage.
"""

from ml_collections import ConfigDict

from experiments import t2v_256

PHASES = {
  1: (1536, 6e-5, 19_600),
  2: (1536, 3e-5, 11_000),
  3: (768, 2e-5, 15_900),
  4: (512, 1e-5, 28_000),
}


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `t2v_256`, with phases 1 to 4. Tiny doubles the side of the frame."""
  rest, phase = t2v_256.take_phase(arg)
  config = t2v_256.get_config(rest)
  tiny = config.data.source == "toy"
  config.train.experiment = "t2v_768"
  size = 2 * config.data.height if tiny else 768
  config.data.update(height=size, width=size)
  config.sampling.update(height=size, width=size)
  if not tiny:
    t2v_256.set_phase(config, PHASES, phase)
    config.mesh = (1, -1, 2 if phase > 2 else 1, 4)
  return config
