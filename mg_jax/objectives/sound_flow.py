"""Flow matching of soundtracks: masked prediction of sound from video, text and sound [MG 6.2].

Batches are those of `objectives.flow_matching` with latents (B, L, 1, 1, C) and "length", int32
(B,): the latents of a sample that are real. What follows is padding and carries no loss. The
condition "context" is no part of a batch: it is the latent itself with zeros where it is masked,
and training draws what is masked. One span is, at a random place, so that what is left is a
beginning, an end or both; most often nothing is left. So one model makes sound from nothing,
extends it in both directions, and fills gaps.

The loss counts the known latents too. The paper does not say; so the sampler, which starts them
from noise like all others, meets them on the path that was trained.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.core.rng import stream, streams
from mg_jax.core.typing import Array, Bool, Int
from mg_jax.objectives.flow_matching import FlowMatching

CONTEXT = "context"


@dataclasses.dataclass(frozen=True)
class SoundFlow(FlowMatching):
  """Trains the velocity network of sound; see `FlowMatching` for the other attributes.

  Attributes:
    no_context: probability that all of the context is masked.
    masked: least and largest masked share of the real latents where it is not.
  """

  no_context: float = 0.5
  masked: tuple[float, float] = (0.75, 1.0)

  def __post_init__(self):
    super().__post_init__()
    if self.prefix:
      raise UserError(f"prefix is {self.prefix}; sound goes on from its context, so leave it at 0.")
    if not 0 <= self.no_context <= 1:
      raise UserError(f"no_context is {self.no_context}; a probability lies in 0..1.")
    if len(self.masked) != 2 or not 0 <= self.masked[0] <= self.masked[1] <= 1:
      raise UserError(f"masked is {self.masked}; give two shares that rise within 0..1.")

  def _drawn(self, key, x1, weight, keep):
    """What is known of the sound, a context of its own for every draw."""
    if CONTEXT not in self.model.routes():
      return {}
    known_BL = self._known(stream(key, CONTEXT), weight[:, :, 0, 0])
    # It may be dropped with the other conditions.
    known_BL &= keep.get(CONTEXT, jnp.ones(x1.shape[:1], bool))[:, None]
    return {CONTEXT: jnp.where(known_BL[:, :, None, None, None], x1, 0)}

  def _conditions(self, batch):
    """The conditions of a batch, without any context."""
    return super()._conditions({**batch, CONTEXT: jnp.zeros_like(batch["latent"])})

  def _weight(self, batch):
    latent = batch["latent"]
    real_BL = jnp.arange(latent.shape[1]) < jnp.asarray(batch["length"])[:, None]
    return real_BL[:, :, None, None]

  def _known(self, key: Array, real_BL: Bool[Array, "B L"]) -> Bool[Array, "B L"]:
    """What is left of the real latents, drawn for each sample."""
    keys = streams(key, ("none", "share", "place"))
    rows, (least, most) = real_BL.shape[:1], self.masked
    none_B = jax.random.bernoulli(keys["none"], self.no_context, rows)
    length_B = jnp.sum(real_BL, axis=1)
    share_B = jax.random.uniform(keys["share"], rows, minval=least, maxval=most)
    span_B = jnp.where(none_B, length_B, jnp.ceil(share_B * length_B).astype(jnp.int32))
    place_B = jax.random.uniform(keys["place"], rows)
    start_B = jnp.floor(place_B * (length_B - span_B + 1)).astype(jnp.int32)
    return real_BL & ~_span(start_B, span_B, real_BL.shape[1])


def _span(
  start_B: Int[Array, "B"], count_B: Int[Array, "B"], length: int
) -> Bool[Array, "B L"]:
  index = jnp.arange(length)
  return (index >= start_B[:, None]) & (index < (start_B + count_B)[:, None])
