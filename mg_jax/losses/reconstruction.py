"""Losses of the autoencoders: reconstruction, KL and the outlier penalty; PSNR [MG 3.1.1].

All are means per element, except where said; videos are (B, T, H, W, 3) in [-1, 1], latents
(B, T, H, W, C).
"""

import jax.numpy as jnp

from mg_jax.core.typing import Array, Float

OUTLIER_RADIUS = 3.0  # r of the outlier penalty [MG 3.1.1]


def l1(prediction: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, ""]:
  """Mean absolute error."""
  return jnp.mean(jnp.abs(prediction - target))


def mse(prediction: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, ""]:
  """Mean squared error."""
  return jnp.mean(jnp.square(prediction - target))


def kl(mean: Float[Array, "..."], logvar: Float[Array, "..."]) -> Float[Array, ""]:
  """KL divergence of N(mean, exp(logvar)) from N(0, 1), in nats per latent value."""
  return 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)


def outlier_penalty(
  latent_BTHWC: Float[Array, "B T H W C"], *, radius: float = OUTLIER_RADIUS
) -> Float[Array, ""]:
  """Penalises latent vectors far from the mean of their frame [MG 3.1.1].

  For every frame: the mean over positions of max(|X_ij - Mean(X)| - r |Std(X)|, 0), where Mean and
  Std are per channel over the frame and |.| is the norm over channels. Averaged over frames: the
  time axis is folded into the batch, as in the paper.
  """
  x = latent_BTHWC.astype(jnp.float32)
  mean = jnp.mean(x, axis=(2, 3), keepdims=True)
  # The floor keeps the gradient of the square roots finite on constant latents.
  std = jnp.sqrt(jnp.mean(jnp.square(x - mean), axis=(2, 3)) + 1e-12)
  distance = jnp.sqrt(jnp.sum(jnp.square(x - mean), axis=-1) + 1e-12)
  limit = radius * jnp.sqrt(jnp.sum(jnp.square(std), axis=-1))[..., None, None]
  return jnp.mean(jnp.maximum(distance - limit, 0.0))


def psnr(
  prediction: Float[Array, "B *dims"], target: Float[Array, "B *dims"], *, data_range: float = 2.0
) -> Float[Array, "B"]:
  """Peak signal-to-noise ratio in dB of each sample, over all its pixels.

  Args:
    prediction: clipped to the range of the target before comparing.
    target: values spanning `data_range`, centred on zero (2.0 for [-1, 1]).
  """
  half = data_range / 2
  error = jnp.clip(prediction, -half, half) - target
  mean = jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))
  return 10.0 * jnp.log10(data_range**2 / jnp.maximum(mean, 1e-12))
