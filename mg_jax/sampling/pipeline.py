"""Text to video: prompts and seeds in, uint8 clips out [MG 3.4].

Prompt -> tags and tokens of every text stream -> features -> guided flow from noise to a
normalised latent (B, t, h, w, C) -> decoded video (B, T, H, W, 3). The noise of a clip depends on
its seed alone, and every call of the network has the same batch size, so neighbours do not change a
clip. An image is a clip of one frame. Clips larger than a tile are decoded tile by tile [MG 3.1.1].
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.pixels import to_uint8
from mg_jax.core.rng import stream
from mg_jax.core.typing import Array, PyTree
from mg_jax.data.transforms import prompt_tags
from mg_jax.losses import flow
from mg_jax.models import conditioning
from mg_jax.models.codecs.tiling import TiledAutoencoder, Tiling
from mg_jax.models.encoders.streams import Streams
from mg_jax.sampling import guidance as cfg
from mg_jax.sampling import prompts as prompt_rules
from mg_jax.sampling.solvers import integrate

LINEAR_RATIO = flow.LINEAR_STEPS // flow.STEPS  # keeps t = 0.1 half-way at any number of steps


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to sample; everything of a clip but its prompt and seed.

  Attributes:
    frames, height, width: of the video, in pixels; frames = 1 is an image.
    fps: named in the prompt of the model, and the speed at which the clip is to be shown.
    steps: solver steps.
    guidance: text scale; 1 is the conditional model alone and costs half.
    schedule: "linear_quadratic" (with the paper's ratio at any number of steps) or "linear".
    method: "euler" or "midpoint".
  """

  frames: int
  height: int
  width: int
  fps: float | int
  steps: int = flow.STEPS
  guidance: float | int = cfg.GUIDANCE
  schedule: str = "linear_quadratic"
  method: str = "euler"

  def __post_init__(self):
    for name in ("frames", "height", "width", "steps"):
      if getattr(self, name) < 1:
        raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
    if not 0.5 <= self.fps <= 1000:
      raise UserError(f"fps is {self.fps}; choose a frame rate between 0.5 and 1000.")
    if not (np.isfinite(self.guidance) and self.guidance >= 0):
      raise UserError(f"guidance is {self.guidance}; it must be a number of at least 0.")
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


@dataclasses.dataclass
class TextToVideo:
  """A generator with its autoencoder, ready to call.

  Attributes:
    model: the generator, with `routes()` and `encode`.
    params: its parameters, unboxed.
    autoencoder: with `latent_shape` and the methods `encode` and `decode`, like
    models.codecs.tae.TAE.
    autoencoder_params: its parameters, unboxed.
    mean, std: per-channel statistics (C,) that training normalised latents with.
    settings: what a call uses by default.
    text: its text streams, the frozen encoders loaded.
    batch: clips per network call; short calls are padded to it.
    origin: which weights these are, for the record of what is generated.
    tiling: how clips are decoded that are larger than a tile; smaller tiles need less memory.
  """

  model: nn.Module
  params: PyTree
  autoencoder: nn.Module
  autoencoder_params: PyTree
  mean: np.ndarray
  std: np.ndarray
  settings: Settings
  text: Streams
  batch: int = 1
  origin: str = ""
  tiling: Tiling = Tiling()
  _compiled: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

  def __call__(
    self, prompts: Sequence[str], *, seeds: Sequence[int], **changes: Any
  ) -> np.ndarray:
    """Generates one clip per prompt.

    Args:
      prompts: any texts; an empty one gives an unconditional clip, a huge one is cut.
      seeds: one per prompt, 0..2**32-1.
      **changes: fields of `Settings` to use instead of `self.settings`.

    Returns:
      uint8 (N, frames, height, width, 3).

    Raises:
      UserError: on settings the model cannot do, and when it produces values that are not finite.
    """
    settings = self.resolve(**changes)
    if len(prompts) != len(seeds):
      raise UserError(f"there are {len(prompts)} prompts but {len(seeds)} seeds; give one each.")
    for seed in seeds:
      if not 0 <= seed <= prompt_rules.MAX_SEED:
        raise UserError(f"seed {seed} is not within 0..{prompt_rules.MAX_SEED}.")
    clips = [
      self._chunk(prompts[i : i + self.batch], seeds[i : i + self.batch], settings)
      for i in range(0, len(prompts), self.batch)
    ]
    shape = (0, settings.frames, settings.height, settings.width, 3)
    return np.concatenate(clips) if clips else np.zeros(shape, np.uint8)

  def resolve(self, **changes: Any) -> Settings:
    """The settings of a call, checked against the model without running it.

    Raises:
      UserError: unknown names, values out of range, frames or sizes the model has no room for.
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    for name in changes:
      if name not in known:
        raise UserError(f"there is no setting {name}; known are {', '.join(sorted(known))}.")
    settings = dataclasses.replace(self.settings, **changes)
    self._sampler(settings)
    return settings

  def tokens(self, texts: Sequence[str], settings: Settings) -> dict[str, dict[str, np.ndarray]]:
    """The text conditions: for every stream ids int32 (B, S) and mask bool (B, S).

    As in training, the prompt names the frame rate where there is more than one latent frame
    [MG 3.1.4]. An empty prompt has no tokens at all, and so equals the null that guidance contrasts
    with.
    """
    tags = self.tags(settings)
    texts = [prompt_rules.check(text)[0] for text in texts]
    streams = {}
    for name, reader in self.text.readers.items():
      rows = [reader(text, **tags) for text in texts]
      streams[name] = {key: np.stack([row[key] for row in rows]) for key in ("ids", "mask")}
    return streams

  def tags(self, settings: Settings) -> dict[str, Any]:
    """What prompts start with, as arguments of a `Reader`."""
    return prompt_tags(settings.fps, frames=self._latent_shape(settings)[0])

  def _latent_shape(self, settings: Settings) -> tuple[int, int, int, int]:
    return self.autoencoder.latent_shape(settings.frames, settings.height, settings.width)

  def _chunk(self, texts: Sequence[str], seeds: Sequence[int], settings: Settings) -> np.ndarray:
    count = len(texts)
    padding = self.batch - count
    text = self.tokens([*texts, *[""] * padding], settings)
    seeds_B = np.array([*seeds, *[0] * padding], np.uint32)
    video, finite = jax.device_get(
      self._sampler(settings)(
        self.params, self.text.params, self.autoencoder_params, self.mean, self.std, text, seeds_B,
        settings.times(),
      )
    )
    if not finite[:count].all():
      raise UserError("the model produced values that are not finite; try another checkpoint.")
    if self._cuts(settings):
      return self._decode_tiles(video[:count], settings)
    return video[:count]

  def _cuts(self, settings: Settings) -> bool:
    return self.tiling.cuts(settings.frames, settings.height, settings.width)

  def _decode_tiles(self, latents_BTHWC: np.ndarray, settings: Settings) -> np.ndarray:
    if "tiles" not in self._compiled:
      self._compiled["tiles"] = TiledAutoencoder(
        self.autoencoder, self.autoencoder_params, self.tiling
      )
    size = (settings.frames, settings.height, settings.width, 3)
    video = np.empty((len(latents_BTHWC), *size), np.uint8)
    for clip, latent in zip(video, latents_BTHWC, strict=True):
      start = 0
      for part in self._compiled["tiles"].pixel_stream([latent], frames=settings.frames):
        clip[start : start + len(part)] = part
        start += len(part)
    return video

  def _sampler(self, settings: Settings) -> Any:
    """The jitted function of these shapes and branches; made, and its shapes checked, once."""
    branches = cfg.chain((tuple(self.text.readers), float(settings.guidance)))
    size = (settings.frames, settings.height, settings.width)
    key = (size, settings.steps, branches, settings.method)
    if key not in self._compiled:
      latent_shape = self._latent_shape(settings)

      def sample(params, text_params, autoencoder_params, mean, std, text, seeds_B, times):
        # Frozen encoders read a prompt once, before it is laid out in branches.
        cond = self.text.encode(text_params, text)
        cond = cfg.expand(cond, branches, keep_only=self._keep_only)
        variables = {"params": params}
        cond = self.model.apply(variables, cond, method="encode")
        apply_fn = cfg.guided(lambda x, t_B, c: self.model.apply(variables, x, t_B, c), branches)
        noise = jax.vmap(lambda seed: jax.random.normal(_noise_key(seed), latent_shape))
        latent = integrate(
          lambda x, t: apply_fn(x, jnp.broadcast_to(t, x.shape[:1]), cond),
          noise(seeds_B),
          times,
          method=settings.method,
        )

        if self._cuts(settings):
          return latent * std + mean, jnp.isfinite(latent).all((1, 2, 3, 4))

        def decode(x_THWC: Array) -> tuple[Array, Array]:
          video = self.autoencoder.apply(
            {"params": autoencoder_params},
            (x_THWC * std + mean)[None],
            frames=settings.frames,
            method="decode",
          )[0]
          pixels = to_uint8(video)
          return pixels, jnp.isfinite(video).all()

        # One clip at a time: decoding at full resolution needs far more memory than sampling.
        return jax.lax.map(decode, latent)

      self._check_shapes(sample, settings)
      self._compiled[key] = jax.jit(sample)
    return self._compiled[key]

  def _check_shapes(self, sample: Any, settings: Settings) -> None:
    text = self.tokens([""] * self.batch, settings)
    seeds = np.zeros((self.batch,), np.uint32)
    try:
      jax.eval_shape(
        sample, self.params, self.text.params, self.autoencoder_params, self.mean, self.std, text,
        seeds, settings.times(),
      )
    except UserError as e:
      raise UserError(
        f"the model cannot make {settings.frames} frames of {settings.height}x{settings.width}: {e}"
      ) from e

  def _keep_only(self, cond, names):
    return conditioning.keep_only(cond, names & cond.keys(), routes=self.model.routes())


def _noise_key(seed: Array) -> Array:
  return stream(jax.random.key(seed), "noise")
