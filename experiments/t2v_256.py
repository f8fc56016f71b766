"""Joint text to image and video at 256 px, the second stage [MG 3.2.2, Table 3].

Starts from the images-only stage: spatial position tables grow two-fold, temporal ones appear.
"""

from ml_collections import ConfigDict

from experiments import t2i_256
from mg_jax.core.errors import UserError

# Table 3: (global batch, learning rate, steps). The first row's 113 k follows from its 173.6 M
# samples and from the total; the table prints 123 k.
PHASES = {1: (1536, 6e-5, 113_000), 2: (3072, 6e-5, 72_000)}


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `t2i_256`, and phase (1 or 2, a row of Table 3)."""
  arg, phase = take_phase(arg)
  config = t2i_256.get_config(arg)
  tiny = config.data.source == "toy"
  config.train.experiment = "t2v_256"
  # Images stay in at 1 : 10 [MG 3.2.2]; the toy world's clips are few enough to do without.
  config.data.update(image_weight=0 if tiny else 1, video_weight=1 if tiny else 10)
  config.sampling.frames = config.data.frames if tiny else 256
  if not tiny:
    set_phase(config, PHASES, phase)
    # tensor parallel 4 [MG Table 3]
    config.mesh = (1, -1, 1, 4)
  return config


def take_phase(arg: str | None) -> tuple[str, int]:
  """Splits "phase=N" off an argument string."""
  items = [item for item in (arg or "").split(",") if item]
  phases = [item.partition("=")[2] for item in items if item.startswith("phase=")]
  if phases and not phases[-1].isdigit():
    raise UserError(f"config argument 'phase={phases[-1]}' is not of type int")
  rest = ",".join(item for item in items if not item.startswith("phase="))
  return rest, int(phases[-1]) if phases else 1


def set_phase(config: ConfigDict, phases: dict[int, tuple], phase: int) -> None:
  """Batch size, learning rate and steps of one row of Table 3."""
  if phase not in phases:
    known = ", ".join(map(str, phases))
    raise UserError(f"{config.train.experiment} has no phase {phase}; known are {known}")
  config.data.global_batch, config.optim.lr, config.train.steps = phases[phase]
