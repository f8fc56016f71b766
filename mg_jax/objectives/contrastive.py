"""Contrastive training of a CLIP on images and their captions [MG 3.1.4, appendix A.1].

Batches are {"image": uint8 (B, H, W, 3), "text": {"ids" int32 (B, S), "mask" bool (B, S)}, "index"
int32 (B,)}. Every pair is contrasted with all others of the global batch, across the mesh; with
`train.accumulate`, with those of its microbatch.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import shard
from mg_jax.core.typing import Array
from mg_jax.losses.contrastive import capped, contrastive_loss, similarities
from mg_jax.models.encoders.clip import CLIP, normalise, unit


@dataclasses.dataclass(frozen=True)
class Contrastive:
  """Trains a CLIP; see `mg_jax.objectives.base.Objective` for the protocol.

  Attributes:
    model: both towers.
    max_scale: upper bound of the scale of cosines; 100 in published training.
  """

  model: CLIP
  max_scale: float = 100.0
  roles: tuple[str, ...] = ("model",)

  def __post_init__(self):
    if not self.max_scale > 0:
      raise UserError(f"objective.max_scale is {self.max_scale}; it must be positive")

  def init(self, key, batch):
    blank = lambda a: jnp.zeros((1, *a.shape[1:]), a.dtype)  # noqa: E731
    image, text = jax.tree.map(blank, (batch["image"], batch["text"]))
    pixels = image.astype(jnp.float32)
    return {"model": self.model.init(key, pixels, text["ids"], text["mask"])["params"]}

  def features(self, params, batch) -> tuple[Array, Array]:
    """L2-normalised embeddings of images and of texts, (B, E) each, float32."""
    image = jnp.asarray(batch["image"], jnp.float32) / 255.0
    image = normalise(shard(image, "batch", "height", "width", "channels"))
    ids, mask = (
      shard(jnp.asarray(batch["text"][name]), "batch", "text_length") for name in ("ids", "mask")
    )
    variables = {"params": params["model"]}
    embeddings = (
      self.model.apply(variables, image, method="encode_image"),
      self.model.apply(variables, ids, mask, method="encode_text"),
    )
    return tuple(unit(embedding.pooled.astype(jnp.float32)) for embedding in embeddings)

  def loss(self, role, params, batch, key, step, carry):
    """Symmetric cross-entropy over the pairs of the batch."""
    del role, key, step
    log_scale = self._log_scale(params)
    loss = contrastive_loss(*self.features(params, batch), log_scale)
    return loss, ({"loss": loss, "scale": jnp.exp(log_scale)}, carry)

  def evaluate(self, params, batch, key):
    """The loss, and recall at 1 within the batch: "image_to_text" and "text_to_image".

    Retrieval is among the rows of this batch, so it gets harder with its size. An equal caption of
    another row counts as correct.
    """
    del key
    image, text = self.features(params, batch)
    valid_B = jnp.asarray(batch.get("valid", np.ones(len(image), bool)))
    loss = contrastive_loss(image, text, self._log_scale(params), valid_B=valid_B)
    ids = batch["text"]["ids"]
    equal_BB = jnp.all(ids[:, None] == ids[None], axis=-1)
    to_text_BB = jnp.where(valid_B[None], similarities(image, text), -jnp.inf)
    to_image_BB = jnp.where(valid_B[None], similarities(text, image), -jnp.inf)

    def recall(scores_BB):
      hit_B = jnp.take_along_axis(equal_BB, jnp.argmax(scores_BB, axis=1)[:, None], axis=1)[:, 0]
      return jnp.sum(hit_B & valid_B) / jnp.maximum(jnp.sum(valid_B), 1)

    return {"loss": loss, "image_to_text": recall(to_text_BB), "text_to_image": recall(to_image_BB)}

  def _log_scale(self, params) -> Array:
    return capped(params["model"]["logit_scale"], math.log(self.max_scale))
