"""How a video is sampled."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.losses import flow
from mg_jax.sampling import guidance as cfg

LINEAR_RATIO = flow.LINEAR_STEPS // flow.STEPS  # keeps t = 0.1 half-way at any number of steps


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to sample; everything of a clip but its prompt and seed.

  Attributes:
    frames, height, width: of the video, in pixels; frames = 1 is an image.
    fps: named in the prompt of the model, and the speed at which the clip is to be shown.
    steps: solver steps.
    guidance: text scale; 1 is the conditional model alone and costs half. Or scales of single
      conditions, see `guidance.parse`.
    schedule: "linear_quadratic" (with the paper's ratio at any number of steps) or "linear".
    method: "euler" or "midpoint".
  """

  frames: int
  height: int
  width: int
  fps: float | int
  steps: int = flow.STEPS
  guidance: float | int | str = cfg.GUIDANCE
  schedule: str = "linear_quadratic"
  method: str = "euler"

  def __post_init__(self):
    for name in ("frames", "height", "width", "steps"):
      if getattr(self, name) < 1:
        raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
    if not 0.5 <= self.fps <= 1000:
      raise UserError(f"fps is {self.fps}; choose a frame rate between 0.5 and 1000.")
    cfg.parse(self.guidance, None)
    if self.method not in ("euler", "midpoint"):
      raise UserError(f'method is "{self.method}"; set it to "euler" or "midpoint".')
    self.times()

  def times(self) -> np.ndarray:
    """The (steps + 1,) times of the schedule."""
    if self.schedule == "linear":
      return flow.linear_schedule(self.steps)
    if self.schedule == "linear_quadratic":
      return flow.linear_quadratic_schedule(self.steps, LINEAR_RATIO * self.steps)
    raise UserError(f'schedule is "{self.schedule}"; set it to "linear_quadratic" or "linear".')


def changed(settings: Any, changes: Mapping[str, Any]) -> Any:
  """Settings of which some are changed.

  Args:
    settings: `Settings`, or another dataclass.
    changes: new values by name.

  Raises:
    UserError: unknown names, values out of range.
  """
  known = {field.name for field in dataclasses.fields(settings)}
  for name in changes:
    if name not in known:
      raise UserError(f"there is no setting {name}; known are {', '.join(sorted(known))}.")
  return dataclasses.replace(settings, **changes)
