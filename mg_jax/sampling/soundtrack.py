"""Sound for a video, from text, or around sound that is given [MG 6.2].

Which mode it is follows from what a request holds: a video, captions, both, spans of known sound
to extend or to fill between, or none of them. What is missing takes its null.

On a mesh, candidates, windows and branches of guidance are spread over its batch axes, and the
network over the others. The codec and a frozen tower run on the first device of every process.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import row_multiple, use_mesh
from mg_jax.core.rng import stream
from mg_jax.core.tree import whole
from mg_jax.core.typing import Array, PyTree
from mg_jax.data.conditions import Condition, View, check_known, given_name, nearest_frames
from mg_jax.losses import flow
from mg_jax.models import conditioning
from mg_jax.models.codecs.chunking import ChunkedCodec
from mg_jax.models.encoders.streams import Streams
from mg_jax.models.encoders.vision import FrozenVision
from mg_jax.models.generator import Generator
from mg_jax.sampling import guidance as cfg
from mg_jax.sampling import sampler
from mg_jax.sampling.sampler import Known
from mg_jax.sampling.scorers import Scorer, fit
from mg_jax.sampling.settings import changed
from mg_jax.sampling.sound_request import Made, Request, SoundSettings, Video
from mg_jax.sampling.windows import Windows, starts

CONTEXT = "context"  # the condition that holds known sound
ROWS = 8  # windows of a call of the network, candidates times windows of each
FADE_S = 0.02  # of what the sound that is made is off by next to what is given


@dataclasses.dataclass
class Soundtrack:
  """A generator of sound with its codec, ready to call.

  Attributes:
    model: the generator, with the routes "text", "video" and "context".
    params: its parameters, unboxed; on `mesh` if there is one.
    codec: makes and reads its latents.
    mean, std: per channel (C,), with which training normalised latents.
    settings: what a call uses by default.
    text: its text streams, the frozen encoders loaded.
    side: of the frames that it takes, in pixels.
    vision: the frozen tower; None where the generator has its own.
    conditions: its other conditions, by name.
    scorer: ranks candidates.
    origin: which weights these are, for the record of what is made.
    mesh: of the devices that share the work; None for the first device alone.
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
  conditions: Mapping[str, Condition] = dataclasses.field(default_factory=dict)
  scorer: Scorer = fit
  origin: str = ""
  mesh: Mesh | None = None
  _compiled: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

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
    settings = changed(self.settings, changes)
    self._branches(settings)
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
    latents, scores = self._latents(request, samples, settings)
    if not np.isfinite(latents).all():
      raise UserError("the model produced values that are not finite; try another checkpoint.")
    chosen = int(np.argmax(scores))
    latent_LC = latents[chosen, :, 0, 0]
    wave = self.codec.decode(latent_LC * self.std + self.mean, length=samples)
    return Made(self._spliced(wave, request), tuple(float(x) for x in scores), chosen)

  def _latents(
    self, request: Request, samples: int, settings: SoundSettings
  ) -> tuple[np.ndarray, np.ndarray]:
    """Normalised latents (N, L, 1, 1, C) of all candidates, and their scores (N,)."""
    starts_J, window, length = self._windows(request.seconds, settings)
    cond_J = self._conditions(request, starts_J, window)
    known = self._known(request, length, samples)
    segments = settings.long_form == "autoregressive" and len(starts_J) > 1
    make = self._segments if segments else self._whole
    noise = self._noise(request.seed, settings.candidates, length)
    with use_mesh(self.mesh):
      latents, scores = make(noise, known, cond_J, np.uint32(request.seed), settings)
    return whole(latents), whole(scores)

  def _whole(self, noise, known: Known, cond_J, seed: np.uint32, settings: SoundSettings):
    """All windows at once: latents (N, L, 1, 1, C) and their scores."""
    starts_J, window, length = self._cut(noise.shape[1], settings)
    windows = Windows.of(
      (length, 1, 1), window=(window, 1, 1), hop=(self._hop(settings, window), 1, 1),
      shape=settings.window_shape,
    )
    rising = settings.dynamic_guidance and len(windows) > 1
    multiple = self._multiple(settings)
    rows = -(-ROWS // multiple) * multiple

    def run(params, noise, known, cond_J, weights, times, seed):
      field = self._field(params, cond_J, weights, settings, rising=rising)
      latents = sampler.sample(
        field, noise, times, method=settings.method, known=known, beside=_context(known),
        windows=windows, rows=rows, multiple=multiple,
      )  # fmt: skip
      return latents, self._scores(params, cond_J, latents, known, windows, seed)

    keeps = tuple(branch.keep for branch in self._branches(settings))
    key = ("whole", length, window, tuple(starts_J), settings.method, rising,
           settings.window_shape, keeps)  # fmt: skip
    compiled = self._compiled.setdefault(key, jax.jit(run))
    count = len(noise)
    part = min(count, rows)  # the last one is filled up, so that there is one program
    noise = jnp.concatenate([noise, jnp.repeat(noise[-1:], -count % part, axis=0)])
    parts = [
      compiled(self.params, noise[i : i + part], known, cond_J, *self._knobs(settings), seed)
      for i in range(0, count, part)
    ]
    return tuple(jnp.concatenate(arrays)[:count] for arrays in zip(*parts, strict=True))

  def _segments(self, noise, known: Known, cond_J, seed: np.uint32, settings: SoundSettings):
    """One window after the other: latents (N, L, 1, 1, C) and their scores."""
    starts_J, window, length = self._cut(noise.shape[1], settings)
    rising = settings.dynamic_guidance
    one = Windows.of((window, 1, 1), window=(window, 1, 1), hop=(window, 1, 1))
    multiple = self._multiple(settings)

    def solve(params, cond_J, weights, times, noise, given, context, segment, j):
      field = self._field(params, cond_J, weights, settings, rising=rising, first=j)
      return sampler.follow(
        field, noise, times, method=settings.method, known=given, segment=segment,
        beside={CONTEXT: context}, windows=one, multiple=multiple,
      )  # fmt: skip

    def score(params, cond_J, latents, known, seed, j):
      return self._scores(params, cond_J, latents, known, one, seed, first=j)

    keeps = tuple(branch.keep for branch in self._branches(settings))
    key = "segments", window, settings.method, rising, keeps
    solve, score = self._compiled.setdefault(key, (jax.jit(solve), jax.jit(score)))
    knobs, select = self._knobs(settings), None
    if settings.beam and len(noise) > 1:

      def select(latents, j):
        part = slice(int(starts_J[j]), int(starts_J[j]) + window)
        given = jax.tree.map(lambda a: a[:, part], known)
        scores = score(self.params, cond_J, latents, given, seed, j)
        return sampler.best(whole(scores), keep=settings.beam)

    latents = sampler.Autoregression(
      functools.partial(solve, self.params, cond_J, *knobs), select
    )(noise, known, starts_J=starts_J, window=window, steps=settings.steps)
    windows = Windows.of(
      (length, 1, 1), window=(window, 1, 1), hop=(self._hop(settings, window), 1, 1)
    )
    rank = self._compiled.setdefault(
      ("score", length, window, tuple(starts_J)),
      jax.jit(lambda *args: self._scores(*args[:4], windows, args[4])),
    )
    return latents, rank(self.params, cond_J, latents, known, seed)

  def _knobs(self, settings: SoundSettings) -> tuple[np.ndarray, np.ndarray]:
    """What one program takes as arguments: weights of the branches, and times."""
    return (
      np.array([branch.weight for branch in self._branches(settings)], np.float32),
      flow.linear_schedule(settings.steps).astype(np.float32),
    )

  def _windows(self, seconds: float, settings: SoundSettings) -> tuple[np.ndarray, int, int]:
    """First latents of the windows, latents of a window, latents of the whole."""
    length = -(-max(1, round(seconds * self.rate)) // self.codec.model.hop)
    return self._cut(length, settings)

  def _cut(self, length: int, settings: SoundSettings) -> tuple[np.ndarray, int, int]:
    """`_windows` of a number of latents."""
    window = min(length, max(1, round(settings.window_s * self.codec.model.latent_rate)))
    return starts(length, window=window, hop=self._hop(settings, window)), window, length

  def _hop(self, settings: SoundSettings, window: int) -> int:
    hop_s = 0.75 * settings.window_s if settings.hop_s is None else settings.hop_s
    return min(window, max(1, round(hop_s * self.codec.model.latent_rate)))

  def _conditions(self, request: Request, starts_J: np.ndarray, window: int) -> dict[str, Any]:
    """The conditions of all windows, (J, ...) each, encoded; all but the context."""
    if len(request.captions) not in (1, len(starts_J)):
      raise UserError(
        f"there are {len(request.captions)} captions for {len(starts_J)} windows; give one for "
        "each, or one for all."
      )
    check_known(request.given, self.conditions)
    given = {given_name(name): value for name, value in request.given.items()}
    view, found = View((window, 1, 1)), []
    for j, start in enumerate(starts_J.tolist()):
      caption = request.captions[j % len(request.captions)]
      cond: dict[str, Any] = {"video": self._video(request.video, start, window, request.seconds)}
      for name, reader in self.text.readers.items():
        ids, mask = (reader(caption)[key] for key in ("ids", "mask"))
        # As for text to video, no words are no tokens: the null that guidance contrasts with.
        cond[name] = {"ids": ids, "mask": mask & bool(caption)}
      for name, condition in self.conditions.items():
        cond[name] = condition.row(name, given, view)
      cond = jax.tree.map(lambda a: np.asarray(a)[None], cond)
      with use_mesh(self.mesh):
        found.append(self._encode(self.params, self.text.params, cond))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)

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

  def _known(self, request: Request, length: int, samples: int) -> Known:
    """Latents that lie in given spans, with the one before and after them."""
    channels, hop = self.codec.model.latent, self.codec.model.hop
    mask_L, latents_LC = np.zeros(length, bool), np.zeros((length, channels), np.float32)
    if request.keep:
      wave = np.zeros(samples, np.float32)
      for begin, end in self._kept(request):
        wave[begin:end] = request.known[begin:end]
        # A latent depends on its neighbours, which are silence next to what is generated.
        first = 0 if begin == 0 else -(-begin // hop) + 1
        last = length if end >= samples else end // hop - 1
        mask_L[first : max(first, last)] = True
      latents_LC = np.where(mask_L[:, None], (self.codec.encode(wave) - self.mean) / self.std, 0)
    latent = np.asarray(latents_LC, np.float32)[None, :, None, None]
    return Known(jnp.asarray(latent), jnp.asarray(mask_L[None, :, None, None]), clean=False)

  def _kept(self, request: Request) -> list[tuple[int, int]]:
    """Given spans in samples of the result."""
    most = min(len(request.known), max(1, round(request.seconds * self.rate)))
    spans = [(round(a * self.rate), min(round(b * self.rate), most)) for a, b in request.keep]
    return [(begin, end) for begin, end in spans if begin < end]

  def _noise(self, seed: int, candidates: int, length: int) -> Array:
    """(N, L, 1, 1, C): of a candidate and a frame alone, so that longer sounds begin alike."""
    return _drawn(np.uint32(seed), candidates, length, self.codec.model.latent)

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

  @functools.cached_property
  def _encode(self) -> Any:
    def encode(params, text_params, cond):
      cond = self.text.encode(text_params, cond)
      return self.model.apply({"params": params}, cond, method="encode")

    return jax.jit(encode)

  def _field(
    self, params, cond_J, weights: Array, settings: SoundSettings, *, rising: bool, first: Any = 0
  ) -> sampler.Field:
    """The guided velocity of windows, of which the first is number `first`."""
    branches = self._branches(settings)

    def field(x: Array, t: Array, window_R: Array, beside: sampler.Beside) -> Array:
      cond = jax.tree.map(lambda a: a[first + window_R], cond_J) | beside
      cond = cfg.expand(cond, branches, keep_only=self._keep_only)
      velocity = cfg.guided(
        functools.partial(self._apply, params), branches, weights=weights, rising=rising
      )
      return velocity(x, jnp.broadcast_to(t, x.shape[:1]), cond)

    return field

  def _scores(
    self, params, cond_J, latents: Array, known: Known, windows: Windows, seed: Array, *,
    first: Any = 0,
  ) -> Array:
    """(N,) of candidates, the higher the better; a single one is not scored."""
    if len(latents) == 1:
      return jnp.zeros(1)
    multiple = row_multiple(self.mesh, 2)

    def pair(x: Array, t: Array, window_R: Array, beside: sampler.Beside) -> tuple[Array, Array]:
      count = len(x)
      # The last row is repeated, so that both branches of all rows divide over the devices.
      row_R = np.minimum(np.arange(-(-count // multiple) * multiple), count - 1)
      x, window_R, beside = jax.tree.map(lambda a: a[row_R], (x, window_R, beside))
      cond = jax.tree.map(lambda a: a[first + window_R], cond_J) | beside
      branches = cfg.chain((tuple(cond), 0.5))
      cond = cfg.expand(cond, branches, keep_only=self._keep_only)
      v = self._apply(params, jnp.repeat(x, 2, axis=0), jnp.broadcast_to(t, 2 * len(x)), cond)
      return v[: 2 * count : 2], v[1 : 2 * count : 2]

    beside = _context(known)
    return jnp.asarray(self.scorer(pair, latents, beside=beside, windows=windows, seed=seed))

  def _branches(self, settings: SoundSettings) -> tuple[cfg.Branch, ...]:
    return cfg.branches(settings.guidance, tuple(self.model.routes()), whole=True)

  def _multiple(self, settings: SoundSettings) -> int:
    return row_multiple(self.mesh, len(self._branches(settings)))

  def _apply(self, params, x: Array, t_B: Array, cond: dict[str, Any]) -> Array:
    return self.model.apply({"params": params}, x, t_B, cond)

  def _keep_only(self, cond, names):
    return conditioning.keep_only(cond, names, routes=self.model.routes())


def _context(known: Known) -> dict[str, Array]:
  """The condition that holds what is given, zeros elsewhere."""
  return {CONTEXT: jnp.where(known.mask[..., None], known.latent, 0)}


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _drawn(seed: Array, candidates: int, length: int, channels: int) -> Array:
  key = stream(jax.random.key(seed), "noise")

  def frame(candidate, index):
    return jax.random.normal(stream(key, "frame", candidate, index), (1, 1, channels))

  return jax.vmap(jax.vmap(frame, (None, 0)), (0, None))(
    jnp.arange(candidates), jnp.arange(length)
  )
