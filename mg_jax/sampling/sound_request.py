"""What is asked of a model of sound, how it is sampled, and what comes out."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.sampling import guidance as cfg
from mg_jax.sampling.prompts import MAX_SEED

# (start, end) in s -> frames uint8 (T, H, W, 3) of that span and their rate.
Video = Callable[[float, float], tuple[np.ndarray, float]]


@dataclasses.dataclass(frozen=True)
class SoundSettings:
  """How to sample; everything of a sound but its request.

  Attributes:
    steps: solver steps, equally long.
    method: "midpoint" (two calls of the network a step) or "euler".
    guidance: scale against the field without any condition; 1 is the conditional model alone. Or
      scales of single conditions, see `guidance.parse`.
    dynamic_guidance: sounds of several windows are guided by a scale that rises with time and has
      `guidance` as its mean; one window always has a constant one.
    candidates: sounds made for a request, of which the scorer chooses one.
    window_s: longest sound that is made at once, in s; longer ones are made in windows.
    hop_s: from one window to the next; by default three quarters of a window, as in the paper.
    long_form: how windows are joined, see `sampling.sampler`.
    window_shape: weights of multi-diffusion within a window.
    beam: candidates that are kept after each segment of "autoregressive"; 0 ranks only the whole.
  """

  steps: int = 64
  method: Literal["midpoint", "euler"] = "midpoint"
  guidance: float | int | str = 3.0
  dynamic_guidance: bool = True
  candidates: int = 8
  window_s: float | int = 30.0
  hop_s: float | int | None = None
  long_form: Literal["multidiffusion", "autoregressive"] = "multidiffusion"
  window_shape: Literal["triangular", "uniform"] = "triangular"
  beam: int = 0

  def __post_init__(self):
    for name in ("steps", "candidates"):
      if getattr(self, name) < 1:
        raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
    cfg.parse(self.guidance, None)
    if not 0 < self.window_s <= 3600:
      raise UserError(f"window_s is {self.window_s}; choose a time above 0, at most 3600 s.")
    if self.hop_s is not None and not 0 < self.hop_s <= self.window_s:
      raise UserError(f"hop_s is {self.hop_s}; choose at most window_s = {self.window_s}.")
    if not 0 <= self.beam <= self.candidates:
      raise UserError(f"beam is {self.beam}; choose 0 to candidates = {self.candidates}.")
    for name, known in _CHOICES.items():
      if getattr(self, name) not in known:
        raise UserError(f'{name} is "{getattr(self, name)}"; set it to {" or ".join(known)}.')


_CHOICES = {
  "method": ("midpoint", "euler"),
  "long_form": ("multidiffusion", "autoregressive"),
  "window_shape": ("triangular", "uniform"),
}


@dataclasses.dataclass(frozen=True)
class Request:
  """One sound to make.

  Attributes:
    seconds: its length.
    captions: full captions in the field order of the training captions, one for the whole or one
      for each window of `Soundtrack.spans`; "" is none.
    video: frames of a span of the video on demand, those at times k / fps in [start, end), at the
      model's size; None is no video.
    known: float32 (samples,) in [-1, 1], silence where nothing is known.
    keep: spans (start, end) in s of `known` that are given and stay as they are.
    given: values of other conditions by name, as `Given.read` returns them.
    seed: 0..2**32-1.
  """

  seconds: float
  captions: tuple[str, ...] = ("",)
  video: Video | None = None
  known: np.ndarray | None = None
  keep: tuple[tuple[float, float], ...] = ()
  given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  seed: int = 0

  def __post_init__(self):
    if not 0 < self.seconds <= 86_400:
      raise UserError(f"seconds is {self.seconds}; choose a length of at most a day.")
    if not self.captions:
      raise UserError('captions is empty; give ("",) for a sound without any.')
    if not 0 <= self.seed <= MAX_SEED:
      raise UserError(f"seed {self.seed} is not within 0..{MAX_SEED}.")
    if self.keep and self.known is None:
      raise UserError("keep names spans of known sound, but there is none; give known.")
    if self.known is not None and self.known.ndim != 1:
      raise UserError(f"known has shape {self.known.shape}; give one channel, (samples,).")
    for start, end in self.keep:
      if not 0 <= start < end <= self.seconds:
        raise UserError(f"keep has ({start}, {end}); spans lie within 0..{self.seconds} s.")


@dataclasses.dataclass(frozen=True)
class Made:
  """A sound.

  Attributes:
    wave: float32 (samples,) in [-1, 1].
    scores: of the candidates, the higher the better; of one candidate (0.0,).
    chosen: which of them it is.
  """

  wave: np.ndarray
  scores: tuple[float, ...]
  chosen: int
