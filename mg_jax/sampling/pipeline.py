"""Text, a first frame or a beginning to video: uint8 clips out [MG 3.4].

Prompt -> tags and tokens of every text stream -> features -> guided flow from noise to a
normalised latent (B, t, h, w, C) -> decoded video (B, T, H, W, 3). The noise of a clip depends on
its seed alone, and every call of the network has the same batch size, so neighbours do not change a
clip. An image is a clip of one frame. Clips larger than a tile are decoded tile by tile [MG 3.1.1].

A request may give values of conditions besides text (`data.conditions`). A first frame is such a
condition, the latent of a still image; the frames that a clip is to continue are latents that the
sampler holds clean. On a mesh, clips are spread over its batch axes,
and the network over the others.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import batch_axes, row_multiple, use_mesh
from mg_jax.core.pixels import from_uint8, to_uint8
from mg_jax.core.rng import stream
from mg_jax.core.sharding import split
from mg_jax.core.tree import whole
from mg_jax.core.typing import Array, PyTree
from mg_jax.data.conditions import Condition, Latent, View, check_known, given_name, latent_name
from mg_jax.data.transforms import prompt_tags
from mg_jax.models.codecs.tiling import TiledAutoencoder, Tiling
from mg_jax.models.conditioning import KNOWN
from mg_jax.models.encoders.streams import Streams
from mg_jax.sampling import guidance as cfg
from mg_jax.sampling import prompts as prompt_rules
from mg_jax.sampling.guided import sample_latents
from mg_jax.sampling.sampler import Known
from mg_jax.sampling.settings import Settings, changed


@dataclasses.dataclass
class TextToVideo:
  """A generator with its autoencoder, ready to call.

  Attributes:
    model: the generator, with `routes()` and `encode`.
    params: its parameters, unboxed; on `mesh` where there is one.
    autoencoder: with `latent_shape` and the methods `encode` and `decode`, like
      models.codecs.tae.TAE.
    autoencoder_params: its parameters, unboxed.
    mean, std: per-channel statistics (C,) that training normalised latents with.
    settings: what a call uses by default.
    text: its text streams, the frozen encoders loaded.
    conditions: its other conditions, by name.
    batch: clips per network call; short calls are padded to it.
    origin: which weights these are, for the record of what is generated.
    tiling: how clips are decoded that are larger than a tile; smaller tiles need less memory.
    mesh: of the devices that share the work; None for the first device alone.
  """

  model: nn.Module
  params: PyTree
  autoencoder: nn.Module
  autoencoder_params: PyTree
  mean: np.ndarray
  std: np.ndarray
  settings: Settings
  text: Streams
  conditions: Mapping[str, Condition] = dataclasses.field(default_factory=dict)
  batch: int = 1
  origin: str = ""
  tiling: Tiling = Tiling()
  mesh: Mesh | None = None
  _compiled: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

  def __post_init__(self):
    self.batch = self._rows(self.settings)

  def _rows(self, settings: Settings) -> int:
    """Clips of a call: those times branches of guidance divide over the devices of a batch."""
    least = row_multiple(self.mesh, len(self._branches(settings)))
    return -(-self.batch // least) * least

  def __call__(
    self,
    prompts: str | Sequence[str],
    *,
    seeds: Sequence[int] | None = None,
    given: Sequence[Mapping[str, Any]] = (),
    **changes: Any,
  ) -> np.ndarray:
    """Generates one clip per prompt.

    Args:
      prompts: a text or several; an empty one gives an unconditional clip, a huge one is cut.
      seeds: one per prompt, 0..2**32-1; by default 0, 1, 2, ...
      given: for each prompt, values of conditions by name: of a first frame (`first_frame`) uint8
        (height, width, 3), of others as `Given.read` returns them; empty for none.
      **changes: fields of `Settings` to use instead of `self.settings`.

    Returns:
      uint8 (N, frames, height, width, 3).

    Raises:
      UserError: on settings the model cannot do, and when it produces values that are not finite.
    """
    settings = self.resolve(**changes)
    prompts = [prompts] if isinstance(prompts, str) else prompts
    seeds = range(len(prompts)) if seeds is None else seeds
    given = list(given) or [{}] * len(prompts)
    for name, values in (("seeds", seeds), ("groups of conditions", given)):
      if len(prompts) != len(values):
        raise UserError(
          f"there are {len(prompts)} prompts but {len(values)} {name}; give one each."
        )
    for seed in seeds:
      if not 0 <= seed <= prompt_rules.MAX_SEED:
        raise UserError(f"seed {seed} is not within 0..{prompt_rules.MAX_SEED}.")
    clips = []
    rows = self._rows(settings)
    for i in range(0, len(prompts), rows):
      part = slice(i, i + rows)
      latents = self._latents(prompts[part], seeds[part], settings, given=given[part])
      clips.append(self.decode(latents, settings)[: len(prompts[part])])
    shape = (0, settings.frames, settings.height, settings.width, 3)
    return np.concatenate(clips) if clips else np.zeros(shape, np.uint8)

  def extend(
    self, video: np.ndarray, added: int, *, prompt: str = "", seed: int = 0, **changes: Any
  ) -> np.ndarray:
    """Continues a clip, window by window, each holding the end of what there is as clean latents.

    Args:
      video: uint8 (T, height, width, 3) at the rate and size of the settings.
      added: how many frames are added.
      prompt: what happens in them.
      seed: 0..2**32-1.
      **changes: fields of `Settings`; `frames` is the length of a window.

    Returns:
      uint8 (T + added, height, width, 3). The last latent frame of `video` fades into what the
      autoencoder makes of it, so that nothing jumps where the new frames begin.

    Raises:
      UserError: a model that is not trained to continue clips, a clip too short or of another size.
    """
    settings = self.resolve(**changes)
    window = self._latent_shape(settings)[0]
    if KNOWN not in self.model.routes() or window < 2:
      raise UserError(
        "this model was not trained to continue clips; train one with "
        "experiments/t2v_256.py:known=true"
      )
    if video.shape[1:] != (settings.height, settings.width, 3):
      raise UserError(
        f"the clip is {video.shape[1]}x{video.shape[2]}; fit it to "
        f"{settings.height}x{settings.width}"
      )
    per_latent = self.autoencoder.factors[0]
    context = min(max(1, window // 2), len(video) // per_latent)
    if not context:
      raise UserError(f"the clip has {len(video)} frames; at least {per_latent} are needed")
    tail = video[len(video) - context * per_latent :]
    latents = self.encode(tail[None])
    for turn in range(-(-added // ((window - context) * per_latent))):
      held = latents[:, -context:]
      made = self._latents([prompt], [seed], settings, held=held, turn=turn)[:1, context:]
      latents = np.concatenate([latents, whole(made)], axis=1)
    full = dataclasses.replace(settings, frames=latents.shape[1] * per_latent)
    decoded = self.decode(latents, full)[0]
    before, after = decoded[: len(tail)], decoded[len(tail) : len(tail) + added]
    fade = np.linspace(0, 1, per_latent + 1)[1:, None, None, None]
    mixed = video[-per_latent:] * (1 - fade) + before[-per_latent:] * fade
    return np.concatenate([video[:-per_latent], np.round(mixed).astype(np.uint8), after])

  def resolve(self, **changes: Any) -> Settings:
    """The settings of a call, checked against the model without running it.

    Raises:
      UserError: unknown names, values out of range, frames or sizes the model has no room for.
    """
    settings = changed(self.settings, changes)
    self._sampler(settings, held=False)
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

  @property
  def first_frame(self) -> str:
    """The condition that a first frame is given as.

    Raises:
      UserError: if there is none.
    """
    for name, condition in self.conditions.items():
      if isinstance(condition, Latent):
        return name
    raise UserError(
      "this model was not trained to take a first frame; train one with "
      "experiments/t2v_256.py:known=true"
    )

  def _conditions(
    self, texts: Sequence[str], given: Sequence[Mapping[str, Any]], settings: Settings
  ) -> dict[str, Any]:
    """All conditions of a batch; those that a request does not name are as training had them."""
    for values in given:
      check_known(values, self.conditions)
    cond: dict[str, Any] = self.tokens(texts, settings)
    view = View(self._latent_shape(settings)[:3])
    records = [self._record(values, settings) for values in given]
    for name, condition in self.conditions.items():
      rows = [condition.row(name, record, view) for record in records]
      cond[name] = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    return cond

  def _record(self, values: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Values as a record holds them: of a first frame its latent."""
    record, size = {}, (settings.height, settings.width)
    for name, value in values.items():
      if not isinstance(self.conditions[name], Latent):
        record[given_name(name)] = value
        continue
      if value.shape != (*size, 3):
        raise UserError(
          f"the first frame is {value.shape[0]}x{value.shape[1]}; fit it to {size[0]}x{size[1]}"
        )
      record[latent_name(name)] = self.encode(value[None, None])[0]
    return record

  def encode(self, video: np.ndarray) -> np.ndarray:
    """Normalised latents of uint8 (B, T, H, W, 3)."""
    if "encode" not in self._compiled:
      self._compiled["encode"] = jax.jit(
        lambda params, video: self.autoencoder.apply(
          {"params": params}, from_uint8(video), method="encode"
        )[0]
      )
    latents = self._compiled["encode"](self.autoencoder_params, video)
    return (np.asarray(whole(latents), np.float32) - self.mean) / self.std

  def _latents(
    self, texts: Sequence[str], seeds: Sequence[int], settings: Settings, *,
    given: Sequence[Mapping[str, Any]] = (), held: np.ndarray | None = None, turn: int = 0,
  ) -> Array:
    """Normalised latents (batch, t, h, w, C), the rows behind `texts` being padding.

    Args:
      texts, seeds, given: of the clips.
      settings: how.
      held: normalised latents (1, k, h, w, C) that every clip begins with.
      turn: number of the window, whose noise is its own.
    """
    rows = self._rows(settings)
    padding = rows - len(texts)
    given = [*given, *[{}] * (rows - len(given))]
    cond = self._conditions([*texts, *[""] * padding], given, settings)
    known = None
    if held is not None:
      shape = self._latent_shape(settings)
      latent, mask = np.zeros((1, *shape), np.float32), np.zeros((1, *shape[:3]), bool)
      latent[:, : held.shape[1]], mask[:, : held.shape[1]] = held, True
      known = Known(jnp.asarray(latent), jnp.asarray(mask))
    run = self._sampler(settings, held=held is not None)
    batch = split((cond, np.array([*seeds, *[0] * padding], np.uint32)), self.mesh)
    with use_mesh(self.mesh):
      return run(
        self.params, self.text.params, *batch, np.uint32(turn), self._weights(settings),
        settings.times().astype(np.float32), known,
      )  # fmt: skip

  def decode(self, latents: Array | np.ndarray, settings: Settings) -> np.ndarray:
    """uint8 (B, frames, height, width, 3) of normalised latents (B, t, h, w, C).

    Raises:
      UserError: latents that are not finite.
    """
    if self.tiling.cuts(settings.frames, settings.height, settings.width):
      host = whole(latents)
      _check_finite(np.isfinite(host))
      return self._decode_tiles(host * self.std + self.mean, settings)
    with use_mesh(self.mesh):
      decoder = self._decoder(settings.frames)
      video, finite = decoder(self.autoencoder_params, self.mean, self.std, latents)
      _check_finite(whole(finite))
      return whole(video)

  def _decoder(self, frames: int) -> Any:
    """Decodes a clip for each device at a time: that takes far more memory than sampling."""
    ways = batch_axes(self.mesh)

    def decode(params, mean, std, latents):
      def some(x: Array) -> tuple[Array, Array]:
        video = self.autoencoder.apply(
          {"params": params}, x * std + mean, frames=frames, method="decode"
        )
        return to_uint8(video), jnp.isfinite(video).all()

      rows = ways if len(latents) % ways == 0 else 1
      # Row b of a batch is held by device b * ways // B.
      grouped = latents.reshape(rows, -1, *latents.shape[1:]).swapaxes(0, 1)
      video, finite = jax.lax.map(some, grouped)
      return video.swapaxes(0, 1).reshape(-1, *video.shape[2:]), finite

    key = "decode", frames
    return self._compiled.setdefault(key, jax.jit(decode))

  def _decode_tiles(self, latents_BTHWC: np.ndarray, settings: Settings) -> np.ndarray:
    """Decodes clip after clip, tile after tile, on the first device of every process."""
    if "tiles" not in self._compiled:
      params = self.autoencoder_params
      if self.mesh:
        params = jax.tree.map(lambda a: a.addressable_data(0), params)
      self._compiled["tiles"] = TiledAutoencoder(self.autoencoder, params, self.tiling)
    size = (settings.frames, settings.height, settings.width, 3)
    video = np.empty((len(latents_BTHWC), *size), np.uint8)
    for clip, latent in zip(video, latents_BTHWC, strict=True):
      start = 0
      for part in self._compiled["tiles"].pixel_stream([latent], frames=settings.frames):
        clip[start : start + len(part)] = part
        start += len(part)
    return video

  def _branches(self, settings: Settings) -> tuple[cfg.Branch, ...]:
    text = tuple(self.text.readers)
    return cfg.branches(settings.guidance, (*text, *self.conditions), default=text)

  def _weights(self, settings: Settings) -> np.ndarray:
    return np.array([branch.weight for branch in self._branches(settings)], np.float32)

  def _sampler(self, settings: Settings, *, held: bool) -> Any:
    """The jitted function of these shapes and branches; made, and its shapes checked, once."""
    branches = self._branches(settings)
    size = (settings.frames, settings.height, settings.width)
    keeps = tuple(branch.keep for branch in branches)
    key = (size, settings.steps, keeps, settings.method, held)
    if key not in self._compiled:
      shape = self._latent_shape(settings)

      def run(params, text_params, cond, seeds_B, turn, weights, times, known):
        noise = jax.vmap(lambda seed: jax.random.normal(_noise_key(seed, turn), shape))(seeds_B)
        return sample_latents(
          self.model, self.text, branches, params, text_params, cond, noise, times,
          weights=weights, known=known, method=settings.method,
        )  # fmt: skip

      if not held:
        self._check_shapes(run, settings)
      self._compiled[key] = jax.jit(run)
    return self._compiled[key]

  def _check_shapes(self, run: Any, settings: Settings) -> None:
    try:
      rows = self._rows(settings)
      cond = self._conditions([""] * rows, [{}] * rows, settings)
      jax.eval_shape(
        run, self.params, self.text.params, cond, np.zeros(rows, np.uint32), np.uint32(0),
        self._weights(settings), settings.times().astype(np.float32), None,
      )  # fmt: skip
    except UserError as e:
      raise UserError(
        f"the model cannot make {settings.frames} frames of {settings.height}x{settings.width}: {e}"
      ) from e


def _check_finite(finite: np.ndarray) -> None:
  if not finite.all():
    raise UserError("the model produced values that are not finite; try another checkpoint.")


def _noise_key(seed: Array, turn: Array) -> Array:
  key = stream(jax.random.key(seed), "noise")
  return jnp.where(turn == 0, key, jax.random.fold_in(key, turn))
