"""Sound for a video, from text, or around sound that is given [MG 6.2].

Which mode it is follows from what a request holds: a video, captions, both, spans of known sound
to extend or to fill between, or none of them. What is missing takes its null.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.rng import stream
from mg_jax.core.typing import Array, PyTree
from mg_jax.data.sources.soundtracks import nearest_frames
from mg_jax.losses import flow
from mg_jax.models import conditioning
from mg_jax.models.codecs.chunking import ChunkedCodec
from mg_jax.models.encoders.streams import Streams
from mg_jax.models.encoders.vision import FrozenVision
from mg_jax.models.generator import Generator
from mg_jax.sampling import guidance as cfg
from mg_jax.sampling import longform
from mg_jax.sampling.prompts import MAX_SEED
from mg_jax.sampling.scorers import Scorer, fit

# (start, end) in s -> frames uint8 (T, H, W, 3) of that span and their rate.
Video = Callable[[float, float], tuple[np.ndarray, float]]


@dataclasses.dataclass(frozen=True)
class SoundSettings:
  """How to sample; everything of a sound but its request.

  Attributes:
    steps: solver steps, equally long.
    method: "midpoint" (two calls of the network a step) or "euler".
    guidance: scale against the field without any condition; 1 is the conditional model alone.
    dynamic_guidance: sounds of several windows are guided by a scale that rises with time and has
      `guidance` as its mean; one window always has a constant one.
    candidates: sounds made for a request, of which the scorer chooses one.
    window_s: longest sound that is made at once, in s; longer ones are made in windows.
    hop_s: from one window to the next; by default three quarters of a window, as in the paper.
    long_form: how windows are joined, see `sampling.longform`.
    window_shape: weights of multi-diffusion within a window.
    beam: candidates that are kept after each segment of "autoregressive"; 0 ranks only the whole.
  """

  steps: int = 64
  method: Literal["midpoint", "euler"] = "midpoint"
  guidance: float | int = 3.0
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
    if not (np.isfinite(self.guidance) and self.guidance >= 0):
      raise UserError(f"guidance is {self.guidance}; it must be a number of at least 0.")
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
    seed: 0..2**32-1.
  """

  seconds: float
  captions: tuple[str, ...] = ("",)
  video: Video | None = None
  known: np.ndarray | None = None
  keep: tuple[tuple[float, float], ...] = ()
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


ROWS = 8  # windows of a call of the network
FADE_S = 0.02  # of what the sound that is made is off by next to what is given


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


@dataclasses.dataclass
class Soundtrack:
  """A generator of sound with its codec, ready to call.

  Attributes:
    model: the generator, with the routes "text", "video" and "context".
    params: its parameters, unboxed.
    codec: makes and reads its latents.
    mean, std: per channel (C,), with which training normalised latents.
    settings: what a call uses by default.
    text: its text streams, the frozen encoders loaded.
    side: of the frames that it takes, in pixels.
    vision: the frozen tower; None where the generator has its own.
    scorer: ranks candidates.
    origin: which weights these are, for the record of what is made.
  """

  model: Generator
  params: PyTree
  codec: ChunkedCodec
  mean: np.ndarray
  std: np.ndarray
  settings: SoundSettings
  text: Streams
  side: int
  vision: FrozenVision | None = None
  scorer: Scorer = fit
  origin: str = ""

  @property
  def rate(self) -> int:
    """Samples a second."""
    return self.codec.model.sample_rate

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) of the frames that `Request.video` gives."""
    return self.side, self.side

  def resolve(self, **changes: Any) -> SoundSettings:
    """The settings of a call.

    Raises:
      UserError: unknown names, values out of range, windows longer than those that were trained.
    """
    known = {field.name for field in dataclasses.fields(SoundSettings)}
    for name in changes:
      if name not in known:
        raise UserError(f"there is no setting {name}; known are {', '.join(sorted(known))}.")
    settings = dataclasses.replace(self.settings, **changes)
    if settings.window_s > self.settings.window_s:
      raise UserError(
        f"window_s is {settings.window_s}, but this model was trained on sounds of at most "
        f"{self.settings.window_s} s; leave it out, and longer sounds are made in windows."
      )
    return settings

  def spans(self, seconds: float, **changes: Any) -> list[tuple[float, float]]:
    """(start, end) in s of the windows of a sound; captions may be given for each of them."""
    starts_J, window, _ = self._windows(seconds, self.resolve(**changes))
    per_second = self.codec.model.latent_rate
    return [(s / per_second, min((s + window) / per_second, seconds)) for s in starts_J.tolist()]

  def __call__(self, request: Request, **changes: Any) -> Made:
    """Makes one sound.

    Args:
      request: what it is to be.
      **changes: fields of `SoundSettings` to use instead of `self.settings`.

    Raises:
      UserError: on settings the model cannot do, as many captions as there are neither windows nor
        one, and when the model produces values that are not finite.
    """
    settings = self.resolve(**changes)
    samples = max(1, round(request.seconds * self.rate))
    starts_J, window, length = self._windows(request.seconds, settings)
    conditions = self._conditions(request, starts_J, window)
    known = self._known(request, length, samples)
    noise_NLC = self._noise(request.seed, settings.candidates, length)
    pair = functools.partial(self._pair, conditions=conditions)
    velocity = functools.partial(
      _guided, pair, float(settings.guidance), settings.dynamic_guidance and len(starts_J) > 1
    )
    shared = {
      "starts_J": starts_J, "times": flow.linear_schedule(settings.steps),
      "method": settings.method, "rows": ROWS,
    }  # fmt: skip
    score = functools.partial(self.scorer, pair, known=known, seed=request.seed)
    if settings.long_form == "autoregressive" and len(starts_J) > 1:
      select = None
      if settings.beam and settings.candidates > 1:

        def select(x_NnC, j):
          scores = score(x_NnC, starts_J=starts_J[j : j + 1], window=window, first=j)
          return longform.best(scores, keep=settings.beam)

      latents = longform.autoregression(
        velocity, noise_NLC, known, window=window, select=select, **shared
      )
    else:
      masks_Jn = longform.masks(
        starts_J, length=length, window=window, shape=settings.window_shape
      )
      latents = longform.multi_diffusion(velocity, noise_NLC, known, masks_Jn=masks_Jn, **shared)
    if not np.isfinite(latents).all():
      raise UserError("the model produced values that are not finite; try another checkpoint.")
    scores = np.zeros(1)
    if len(latents) > 1:
      scores = score(latents, starts_J=starts_J, window=window)
    chosen = int(np.argmax(scores))
    wave = self.codec.decode(latents[chosen] * self.std + self.mean, length=samples)
    return Made(self._spliced(wave, request), tuple(float(x) for x in scores), chosen)

  def _windows(self, seconds: float, settings: SoundSettings) -> tuple[np.ndarray, int, int]:
    """First latents of the windows, latents of a window, latents of the whole."""
    per_second = self.codec.model.latent_rate
    length = -(-max(1, round(seconds * self.rate)) // self.codec.model.hop)
    window = min(length, max(1, round(settings.window_s * per_second)))
    hop_s = 0.75 * settings.window_s if settings.hop_s is None else settings.hop_s
    hop = min(window, max(1, round(hop_s * per_second)))
    return longform.starts(length, window=window, hop=hop), window, length

  def _conditions(
    self, request: Request, starts_J: np.ndarray, window: int
  ) -> list[dict[str, Any]]:
    """What the network reads of every window, encoded; all but the context."""
    if len(request.captions) not in (1, len(starts_J)):
      raise UserError(
        f"there are {len(request.captions)} captions for {len(starts_J)} windows; give one for "
        "each, or one for all."
      )
    found = []
    for j, start in enumerate(starts_J.tolist()):
      caption = request.captions[j % len(request.captions)]
      cond: dict[str, Any] = {"video": self._video(request.video, start, window, request.seconds)}
      for name, reader in self.text.readers.items():
        ids, mask = (reader(caption)[key] for key in ("ids", "mask"))
        # As for text to video, no words are no tokens: the null that guidance contrasts with.
        cond[name] = {"ids": ids, "mask": mask & bool(caption)}
      cond = jax.tree.map(lambda a: np.asarray(a)[None], cond)
      found.append(jax.device_get(self._encode(self.params, self.text.params, cond)))
    return found

  def _video(self, video: Video | None, start: int, window: int, seconds: float) -> Any:
    """One window's frames as in `data.sources.soundtracks`; the null without a video."""
    per_second = self.codec.model.latent_rate
    frames = np.zeros((1, *self.size, 3), np.uint8)
    at, seen = np.zeros(window, np.int32), video is not None
    if seen:
      begin_s, end_s = start / per_second, min((start + window) / per_second, seconds)
      frames, fps = video(begin_s, end_s)
      at = nearest_frames(len(frames), fps, window, per_second)
      # The window's last frames may be fewer: one shape for all of them.
      count = int(np.ceil(window / per_second * fps - 1e-6)) + 1
      frames = np.concatenate([frames, frames[-1:].repeat(max(0, count - len(frames)), axis=0)])
    if self.vision is None:
      return {"image": frames, "at": at, "mask": np.full(window, seen)}
    if not seen:
      return np.zeros((window, self.vision.features), np.float32)
    return self.vision(frames)[at].astype(np.float32)

  def _known(self, request: Request, length: int, samples: int) -> longform.Known:
    """Latents that lie in given spans, with the one before and after them."""
    channels, hop = self.codec.model.latent, self.codec.model.hop
    mask_L, latents_LC = np.zeros(length, bool), np.zeros((length, channels), np.float32)
    if not request.keep:
      return longform.Known(latents_LC, mask_L)
    wave = np.zeros(samples, np.float32)
    for begin, end in self._kept(request):
      wave[begin:end] = request.known[begin:end]
      # A latent depends on its neighbours, which are silence next to what is made.
      first = 0 if begin == 0 else -(-begin // hop) + 1
      last = length if end >= samples else end // hop - 1
      mask_L[first : max(first, last)] = True
    latents_LC = (self.codec.encode(wave) - self.mean) / self.std
    return longform.Known(latents_LC, mask_L)

  def _kept(self, request: Request) -> list[tuple[int, int]]:
    """Given spans in samples of the result."""
    most = min(len(request.known), max(1, round(request.seconds * self.rate)))
    spans = [(round(a * self.rate), min(round(b * self.rate), most)) for a, b in request.keep]
    return [(begin, end) for begin, end in spans if begin < end]

  def _noise(self, seed: int, candidates: int, length: int) -> np.ndarray:
    """(N, L, C): of a candidate and a frame alone, so that longer sounds begin alike."""
    key, channels = stream(jax.random.key(seed), "noise"), self.codec.model.latent

    def frame(candidate, index):
      return jax.random.normal(stream(key, "frame", candidate, index), (channels,))

    drawn = jax.vmap(jax.vmap(frame, (None, 0)), (0, None))
    return np.asarray(drawn(jnp.arange(candidates), jnp.arange(length)))

  def _spliced(self, wave: np.ndarray, request: Request) -> np.ndarray:
    """The sound with the given spans as they were.

    Where one begins or ends, what the made sound is off by there fades away within it. Nothing of
    the given sound outside its spans is used.
    """
    wave = wave.astype(np.float32)
    ramp = np.linspace(1, 0, round(FADE_S * self.rate), endpoint=False, dtype=np.float32)
    spans = self._kept(request) if request.keep else []
    off = [(request.known[[a, b - 1]] - wave[[a, b - 1]]) for a, b in spans]
    for (begin, end), (before, after) in zip(spans, off, strict=True):
      head, tail = wave[max(0, begin - len(ramp)) : begin], wave[end : end + len(ramp)]
      head += before * ramp[::-1][len(ramp) - len(head) :]
      tail += after * ramp[: len(tail)]
    wave = np.clip(wave, -1, 1)
    for begin, end in spans:
      wave[begin:end] = request.known[begin:end]
    return wave

  def _pair(
    self, x_RnC: np.ndarray, context_RnC: np.ndarray, windows: Sequence[int], t: Any, *,
    conditions: list[dict[str, Any]],
  ) -> tuple[np.ndarray, np.ndarray]:
    """Velocities (R, n, C) without any condition, and with all of them."""
    count = len(x_RnC)
    # One size of a call, so one program.
    rows = [*windows, *[windows[0]] * (ROWS - count)]
    x, context = (
      np.concatenate([a, np.repeat(a[:1], ROWS - count, axis=0)]) for a in (x_RnC, context_RnC)
    )
    cond = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(conditions[j] for j in rows))
    null, full = jax.device_get(self._velocity(self.params, x, context, np.float32(t), cond))
    return null[:count], full[:count]

  @functools.cached_property
  def _encode(self) -> Any:
    def encode(params, text_params, cond):
      cond = self.text.encode(text_params, cond)
      return self.model.apply({"params": params}, cond, method="encode")

    return jax.jit(encode)

  @functools.cached_property
  def _velocity(self) -> Any:
    routes = self.model.routes()
    keep_only = functools.partial(conditioning.keep_only, routes=routes)
    branches = (cfg.Branch(1.0, frozenset()), cfg.Branch(1.0, frozenset(routes)))

    def velocity(params, x_RnC: Array, context_RnC: Array, t: Array, cond):
      latent = lambda a: a[:, :, None, None, :]  # noqa: E731
      cond = cfg.expand(cond | {"context": latent(context_RnC)}, branches, keep_only=keep_only)
      x = jnp.repeat(latent(x_RnC), len(branches), axis=0)
      v = self.model.apply({"params": params}, x, jnp.broadcast_to(t, x.shape[:1]), cond)
      v = v[:, :, 0, 0].reshape(x_RnC.shape[0], len(branches), *x_RnC.shape[1:])
      return v[:, 0], v[:, 1]

    return jax.jit(velocity)


def _guided(pair: Any, scale: float, dynamic: bool, x, context, windows, t) -> np.ndarray:
  """The guided velocity. A dynamic scale rises with time from 1, its mean is `scale`: early on,
  where windows still agree on what there is to be, guidance would pull them apart."""
  null, full = pair(x, context, windows, t)
  now = 1 + 2 * (scale - 1) * float(t) if dynamic else scale
  return null + np.float32(now) * (full - null)
