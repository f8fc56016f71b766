"""Autoencoding: the objective of the temporal autoencoder [MG 3.1.1].

Batches are {"video": uint8 (B, T, H, W, 3)}; T may differ between batches, one frame is an image.
The latent is sampled from the posterior in training and is its mean in evaluation.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mg_jax.core.rng import stream
from mg_jax.core.sharding import shard
from mg_jax.losses import reconstruction as losses
from mg_jax.models.tae import TAE


@dataclasses.dataclass(frozen=True)
class AutoencodingWeights:
  """Weights of the loss terms, all of which are means per element.

  The paper weighs the outlier penalty by 1e5 beside a reconstruction loss *summed* over pixels;
  beside a mean that is 1e5 / (3 * 256 * 256), about 0.5 [MG 3.1.1].
  """

  l1: float = 1.0
  mse: float = 0.0
  kl: float = 1e-6
  outlier: float = 0.5


@dataclasses.dataclass(frozen=True)
class Autoencoding:
  """Trains a TAE; see `mg_jax.objectives.base.Objective` for the protocol."""

  model: TAE
  weights: AutoencodingWeights = AutoencodingWeights()
  roles: tuple[str, ...] = ("autoencoder",)

  def init(self, key: jax.Array, batch: dict) -> dict:
    video = jnp.asarray(batch["video"], jnp.float32) / 127.5 - 1.0
    params = self.model.init(key, video[:1])["params"]
    if self.model.shortcut:
      params = self.model.fit_shortcut(params, video)
    return {"autoencoder": params}

  def _forward(self, params, batch, key=None):
    video = shard(batch["video"], "batch", "time", "height", "width", "channels")
    video = video.astype(jnp.float32) / 127.5 - 1.0
    variables = {"params": params["autoencoder"]}
    mean, logvar = self.model.apply(variables, video, method="encode")
    latent = mean
    if key is not None:
      latent = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
    decoded = self.model.apply(variables, latent, frames=video.shape[1], method="decode")
    return video, mean, logvar, decoded

  def loss(self, role, params, batch, key, step, carry):
    del role, step
    video, mean, logvar, decoded = self._forward(params, batch, stream(key, "posterior"))
    terms = {
      "l1": losses.l1(decoded, video),
      "mse": losses.mse(decoded, video),
      "kl": losses.kl(mean, logvar),
      "outlier": losses.outlier_penalty(mean),
    }
    total = sum(getattr(self.weights, name) * value for name, value in terms.items())
    return total, (terms | {"loss": total}, carry)

  def evaluate(self, params, batch, key):
    """PSNR in dB averaged over clips, L1, and the spread of latents and posterior."""
    del key
    video, mean, logvar, decoded = self._forward(params, batch)
    axes = tuple(range(1, mean.ndim))
    rows = {
      "psnr": losses.psnr(decoded, video),
      "l1": jnp.mean(jnp.abs(decoded - video), axis=axes),
      "latent_std": jnp.std(mean, axis=axes),
      "posterior_std": jnp.mean(jnp.exp(0.5 * logvar), axis=axes),
    }
    valid = jnp.asarray(batch.get("valid", jnp.ones(video.shape[0])), jnp.float32)
    return {name: row @ valid / jnp.maximum(valid.sum(), 1.0) for name, row in rows.items()}

  def reconstruct(self, params, video):
    """uint8 (B, T, H, W, 3) through the latent mean and back, as uint8."""
    decoded = self._forward(params, {"video": video})[-1]
    return jnp.round((jnp.clip(decoded, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
