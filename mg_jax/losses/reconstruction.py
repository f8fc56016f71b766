"""Losses of the autoencoders: reconstruction, KL and the outlier penalty; PSNR [MG 3.1.1].

All are means per element unless stated; videos are (B, T, H, W, 3) in [-1, 1], latents
(B, T, H, W, C). A weight per frame, (B, T), masks out padding frames.
"""

import jax.numpy as jnp

from mg_jax.core.typing import Array, Float

OUTLIER_RADIUS = 3.0  # r of the outlier penalty [MG 3.1.1]


def weighted_mean(
  x_BT: Float[Array, "B T *S"], weight_BT: Float[Array, "B T"] | None = None
) -> Float[Array, ""]:
  """Mean over all elements, weighted per frame; 0 if no frame counts."""
  if weight_BT is None:
    return jnp.mean(x_BT)
  frames_BT = jnp.mean(x_BT, axis=tuple(range(2, x_BT.ndim)))
  return jnp.sum(frames_BT * weight_BT) / jnp.maximum(jnp.sum(weight_BT), 1.0)


def l1(
  prediction: Float[Array, "B T *S"],
  target: Float[Array, "B T *S"],
  weight_BT: Float[Array, "B T"] | None = None,
) -> Float[Array, ""]:
  """Mean absolute error."""
  return weighted_mean(jnp.abs(prediction - target), weight_BT)


def mse(
  prediction: Float[Array, "B T *S"],
  target: Float[Array, "B T *S"],
  weight_BT: Float[Array, "B T"] | None = None,
) -> Float[Array, ""]:
  """Mean squared error."""
  return weighted_mean(jnp.square(prediction - target), weight_BT)


def kl(
  mean: Float[Array, "B T *S"],
  logvar: Float[Array, "B T *S"],
  weight_BT: Float[Array, "B T"] | None = None,
) -> Float[Array, ""]:
  """KL divergence of N(mean, exp(logvar)) from N(0, 1), in nats per latent value."""
  nats = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
  return weighted_mean(nats, weight_BT)


def radii(latent_BTHWC: Float[Array, "B T H W C"]) -> tuple[Array, Array]:
  """(|X_ij - Mean(X)| (B, T, H, W), |Std(X)| (B, T, 1, 1)) of every frame X.

  Mean and Std are per channel over the positions of the frame, and |.| is the norm over channels.
  """
  x = latent_BTHWC.astype(jnp.float32)
  mean = jnp.mean(x, axis=(2, 3), keepdims=True)
  # The floor keeps the gradient of the square root finite on constant latents.
  std = jnp.sqrt(jnp.mean(jnp.square(x - mean), axis=(2, 3)) + 1e-12)
  distance = jnp.sqrt(jnp.sum(jnp.square(x - mean), axis=-1) + 1e-12)
  return distance, jnp.sqrt(jnp.sum(jnp.square(std), axis=-1))[..., None, None]


def outlier_penalty(
  latent_BTHWC: Float[Array, "B T H W C"],
  weight_BT: Float[Array, "B T"] | None = None,
  *,
  radius: float = OUTLIER_RADIUS,
) -> Float[Array, ""]:
  """Penalises latent vectors far from the mean of their frame [MG 3.1.1].

  For every frame: the mean over positions of max(|X_ij - Mean(X)| - r |Std(X)|, 0), see `radii`.
  Averaged over frames: the time axis is folded into the batch, as in the paper.
  """
  distance, std = radii(latent_BTHWC)
  return weighted_mean(jnp.maximum(distance - radius * std, 0.0), weight_BT)


def outlier_rate(
  latent_BTHWC: Float[Array, "B T H W C"], *, radius: float = OUTLIER_RADIUS
) -> Float[Array, "B T"]:
  """Fraction of the positions of each frame that are penalised."""
  distance, std = radii(latent_BTHWC)
  return jnp.mean((distance > radius * std).astype(jnp.float32), axis=(2, 3))


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
