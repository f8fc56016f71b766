"""The contrastive loss of CLIP [Radford et al. 2021], the training of MetaCLIP [MG 3.1.4].

Row i of images and row i of texts form a pair, no other pair of the batch matches: a softmax over
the whole batch classifies the text of each image and the image of each text.
"""

import functools

import jax
import jax.numpy as jnp

from mg_jax.core.sharding import shard
from mg_jax.core.typing import Array, Bool, Float


def similarities(image_BE: Float[Array, "B E"], text_BE: Float[Array, "B E"]) -> Array:
  """Inner products of every image (rows, over the batch axes of the mesh) with every text."""
  # Cosines are multiplied by up to a hundred, so reduced-precision products would matter.
  products_BB = jnp.matmul(image_BE, text_BE.T, precision=jax.lax.Precision.HIGHEST)
  return shard(products_BB, "batch", None)


def contrastive_loss(
  image_BE: Float[Array, "B E"],
  text_BE: Float[Array, "B E"],
  log_scale: Float[Array, ""],
  *,
  valid_B: Bool[Array, "B"] | None = None,
) -> Float[Array, ""]:
  """Cross-entropy of images over texts and of texts over images, averaged.

  Args:
    image_BE: L2-normalised.
    text_BE: L2-normalised.
    log_scale: logarithm of the factor on the cosines, the inverse temperature.
    valid_B: pairs that count; other rows are masked out as both queries and targets.
  """
  logits_BB = jnp.exp(log_scale) * similarities(image_BE, text_BE)
  if valid_B is None:
    valid_B = jnp.ones(len(image_BE), bool)

  def entropy_B(logits_BB):
    # A row always keeps its own pair: a row of only -inf would be NaN.
    offered_BB = valid_B[None, :] | jnp.eye(len(valid_B), dtype=bool)
    logits_BB = jnp.where(offered_BB, logits_BB, -jnp.inf)
    return jax.nn.logsumexp(logits_BB, axis=1) - jnp.diagonal(logits_BB)

  loss_B = 0.5 * (entropy_B(logits_BB) + entropy_B(logits_BB.T))
  return jnp.sum(jnp.where(valid_B, loss_B, 0.0)) / jnp.maximum(jnp.sum(valid_B), 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def capped(value: Array, limit: float) -> Array:
  """min(value, limit), whose gradient beyond the limit still pulls the value back.

  The published training clips the parameter after every update; here an update that overshoots
  stays in the parameter, has no effect, and is undone once the gradient points inwards.
  """
  return jnp.minimum(value, limit)


def _capped_forward(value: Array, limit: float):
  return capped(value, limit), value >= limit


def _capped_backward(limit: float, beyond: Array, cotangent: Array):
  del limit
  # Descent moves against the gradient: a negative one would move it further out.
  return (jnp.where(beyond, jnp.maximum(cotangent, 0.0), cotangent),)


capped.defvjp(_capped_forward, _capped_backward)
