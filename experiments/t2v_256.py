"""Joint text to image and video at 256 px, the second stage [MG 3.2.2, Table 3].

Starts from a run of `t2i_256.py`, given with `--config.train.warm_start.workdir=DIR`: spatial
position tables grow two-fold, temporal ones get one row per latent frame, 32 in all. Phase 2
continues in the workdir of phase 1, whose steps count: `t2v_256.py:phase=2`. `:tiny` also learns
the toy world from random parameters.
"""

from ml_collections import ConfigDict

from experiments import t2i_256
from mg_jax.core.config import is_tiny, split_arg
from mg_jax.core.errors import UserError

# Table 3: (global batch, learning rate, steps). The first row's 113 k follows from its 173.6 M
# samples and from the total; the table prints 123 k.
PHASES = {1: (1536, 6e-5, 113_000), 2: (3072, 6e-5, 72_000)}
LATENT_FRAMES, TINY_LATENT_FRAMES = 32, 16
TINY_STEPS = 500  # of each phase after the first


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: those of `t2i_256`, phase (1 or 2, a row of Table 3), and known.

  known: also trains to start from a given first frame and to continue given frames.
  """
  own, rest = split_arg(arg, phase=1, known=False)
  config = t2i_256.get_config(rest)
  tiny = is_tiny(arg)
  config.train.experiment = "t2v_256"
  # Images stay in the mix at 1 : 10 [MG 3.2.2]; the few clips of the toy world do without.
  config.data.update(image_weight=0 if tiny else 1, video_weight=1 if tiny else 10)
  config.sampling.frames = config.data.frames if tiny else 256
  t2i_256.set_tables(
    config, rows=TINY_LATENT_FRAMES if tiny else LATENT_FRAMES,
    sides=2 * t2i_256.side_tokens(config),
  )
  t2i_256.start_from(config, "t2i_256", tiny=tiny)
  if own.known:
    add_known(config)
  if not tiny:
    config.data.durations = "paper"
    # Tensor parallel 4 [MG Table 3]. The paper does not say what it recomputes.
    config.mesh = (1, -1, 1, 4)
    config.model.dit.remat = "attention"
  set_phase(config, PHASES, own.phase, tiny=tiny)
  return config


def add_known(config: ConfigDict) -> None:
  """Image-to-video and extension, which the paper's text-to-video model does not have.

  A first frame is a latent of its own beside x_t, as the autoencoder is not causal: the latent of a
  still is not the first latent of its clip, see `docs/first_frame.md`. Frames that are continued
  are clean latents. Either is trained with half or a quarter of the samples.
  """
  channels = config.model.dit.channels
  config.conditions = ConfigDict({
    "first": {
      "kind": "latent", "channels": channels,
      "route": {"kind": "concat", "features": channels + 1},
    }
  })  # fmt: skip
  config.model.dit.routes.known = {"kind": "clean"}
  config.objective.prefix = 0.25
  config.objective.drop = config.objective.drop.to_dict() | {"first": 0.5}
  config.train.warm_start.allow_missing = ("/first_concat/",)


def set_phase(config: ConfigDict, phases: dict[int, tuple], phase: int, *, tiny: bool) -> None:
  """Batch size and learning rate of one row of Table 3, and the steps up to its end.

  A tiny run keeps its own in phase 1; later phases scale them by the same factors.
  """
  if phase not in phases:
    known = ", ".join(map(str, phases))
    raise UserError(f"{config.train.experiment} has no phase {phase}; known are {known}")
  batch, rate, _ = phases[phase]
  config.train.phase = phase
  if tiny:
    first_batch, first_rate, _ = phases[1]
    # Rounded to a multiple of 8, which divides over devices.
    config.data.global_batch = max(1, round(config.data.global_batch * batch / first_batch / 8)) * 8
    config.optim.lr *= rate / first_rate
    config.train.steps += (phase - 1) * TINY_STEPS
    return
  config.data.global_batch, config.optim.lr = batch, rate
  config.train.steps = sum(phases[n][2] for n in phases if n <= phase)
