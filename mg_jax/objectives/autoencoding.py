"""Autoencoding: the objective of the temporal autoencoder [MG 3.1.1].

Batches are {"video": uint8 (B, T, H, W, 3), "frames": int32 (B,)}; T may differ between batches,
one frame is an image, and "frames" is the number of leading real frames (all if it is missing). The
latent is sampled from the posterior in training and is its mean in evaluation. With an adversarial
weight there are two roles: the discriminator is trained on the autoencoder's reconstructions of the
same step.
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.core.pixels import from_uint8, to_uint8
from mg_jax.core.rng import stream
from mg_jax.core.sharding import shard
from mg_jax.losses import gan
from mg_jax.losses import reconstruction as losses
from mg_jax.models.codecs.discriminators import PatchDiscriminator
from mg_jax.models.codecs.perceptual import LPIPS
from mg_jax.models.codecs.tae import TAE

LAST_LAYER = "decoder_out"  # of the decoder, with respect to whose kernel gradients are compared


@dataclasses.dataclass(frozen=True)
class AutoencodingWeights:
  """Weights of the loss terms, and their reduction.

  Under "mean" every term is a mean per element. Under "sum", as in latent diffusion, l1, mse and
  lpips are summed over the pixels and channels of a frame, kl over the values of a latent frame,
  and averaged over frames, which are folded into the batch for images and clips alike. The outlier
  penalty is the same in both. The paper's weight of it is 1e5, relative to terms it does not state;
  relative to a sum that equals 1e5 / (3 * 256 * 256), about 0.5, relative to a mean at 256 px
  [MG 3.1.1].

  Attributes:
    l1, mse, lpips, kl, outlier: weights.
    gan: weight of the adversarial loss, on top of the adaptive one; 0 trains no discriminator.
    gan_start: step from which the adversarial losses of both roles count.
    reduction: see above.
    radius: r of the outlier penalty.
    lpips_files: published weights of LPIPS, see `models.codecs.perceptual.load`; without any there
      is no such term.
  """

  l1: float = 1.0
  mse: float = 0.0
  lpips: float = 0.0
  kl: float = 1e-6
  outlier: float = 0.5
  gan: float = 0.0
  gan_start: int = 0
  reduction: Literal["mean", "sum"] = "mean"
  radius: float = losses.OUTLIER_RADIUS
  lpips_files: tuple[str, ...] = ()

  def __post_init__(self):
    if self.reduction not in ("mean", "sum"):
      raise UserError(f"objective.reduction is {self.reduction!r}; use 'mean' or 'sum'")
    for name in ("l1", "mse", "lpips", "kl", "outlier", "gan", "gan_start", "radius"):
      if not 0 <= getattr(self, name) < math.inf:
        raise UserError(f"objective.{name} is {getattr(self, name)}; it must not be negative")


@dataclasses.dataclass(frozen=True)
class Autoencoding:
  """Trains a TAE; see `mg_jax.objectives.base.Objective` for the protocol.

  Attributes:
    perceptual: for the term "lpips", and a metric if it is given.
    discriminator: for the term "gan", if that has a weight.
  """

  model: TAE
  weights: AutoencodingWeights = AutoencodingWeights()
  perceptual: LPIPS | None = None
  discriminator: PatchDiscriminator = PatchDiscriminator()

  @property
  def roles(self) -> tuple[str, ...]:
    return ("autoencoder", "discriminator") if self.weights.gan else ("autoencoder",)

  def init(self, key: jax.Array, batch: dict) -> dict:
    video = from_uint8(batch["video"])
    params = self.model.init(key, video[:1])["params"]
    if self.model.shortcut:
      params = self.model.fit_shortcut(params, video)
    roles = {"autoencoder": params}
    if self.weights.gan:
      key = stream(key, "discriminator")
      roles["discriminator"] = self.discriminator.init(key, video[:1])["params"]
    return roles

  def encode(self, params, batch):
    """(video in [-1, 1], mean and log-variance of the posterior) of a batch."""
    video = shard(batch["video"], "batch", "time", "height", "width", "channels")
    video = from_uint8(video)
    mean, logvar = self.model.apply({"params": params["autoencoder"]}, video, method="encode")
    return video, mean, logvar

  def _decode(self, tree, latent, frames):
    return self.model.apply({"params": tree}, latent, frames=frames, method="decode")

  def loss(self, role, params, batch, key, step, carry):
    if role == "discriminator":
      return self._discriminator_loss(params, batch, step, carry)
    video, mean, logvar = self.encode(params, batch)
    noise = jax.random.normal(stream(key, "posterior"), mean.shape)
    latent = mean + jnp.exp(0.5 * logvar) * noise
    tree, frames = params["autoencoder"], video.shape[1]
    real = _real(batch, frames)
    reconstruction = functools.partial(self._reconstruction, video=video, real=real)

    if self.weights.gan:
      # One forward pass; `pull` maps a cotangent of the pixels to the gradient of the last kernel.
      decoded, pull = jax.vjp(
        lambda kernel: self._decode(_with_last_kernel(tree, kernel), latent, frames),
        _last_kernel(tree),
      )
      pull = jax.tree.map(jax.lax.stop_gradient, pull)
      pixels = jax.lax.stop_gradient(decoded)
      (value, terms), by_error = jax.value_and_grad(reconstruction, has_aux=True)(pixels)
      fooled, by_critic = jax.value_and_grad(self._generator_loss)(pixels, params, batch)
      weight = gan.adaptive_weight(pull(by_error), pull(by_critic))
      terms |= {"gan": fooled, "gan_weight": weight}
      weight = self.weights.gan * self._started(step) * weight
      total = gan.with_gradient(
        value + weight * fooled, at=decoded, gradient=by_error + weight * by_critic
      )
      carry = {**carry, "reconstruction": decoded}
    else:
      total, terms = reconstruction(self._decode(tree, latent, frames))

    latents = math.prod(mean.shape[2:]) if self.weights.reduction == "sum" else 1
    real = _real(batch, frames, self.model.factors[0])
    terms["kl"] = losses.kl(mean, logvar, real)
    terms["outlier"] = losses.outlier_penalty(mean, real, radius=self.weights.radius)
    total = total + self.weights.kl * latents * terms["kl"]
    total = total + self.weights.outlier * terms["outlier"]
    return total, (terms | {"loss": total}, carry)

  def _reconstruction(self, decoded, *, video, real):
    """The weighted terms that compare pixels, and each of them as a mean."""
    terms = {
      "l1": losses.l1(decoded, video, real), "mse": losses.mse(decoded, video, real),
    }
    if self.perceptual and self.weights.lpips:
      terms["lpips"] = losses.weighted_mean(self._lpips(decoded, video), real)
    total = sum(getattr(self.weights, name) * value for name, value in terms.items())
    pixels = math.prod(video.shape[2:]) if self.weights.reduction == "sum" else 1
    return pixels * total, terms

  def _lpips(self, decoded, video):
    """(B, T)"""
    fold = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    return self.perceptual(fold(decoded), fold(video)).reshape(video.shape[:2])

  def _logits(self, params, video, batch):
    """Logits of the patches, and weights of those on real frames."""
    logits = self.discriminator.apply({"params": params["discriminator"]}, video)
    return logits, _real(batch, video.shape[1], self.discriminator.frame_stride)

  def _started(self, step):
    return (step >= self.weights.gan_start).astype(jnp.float32)

  def _generator_loss(self, decoded, params, batch):
    return gan.generator_hinge(*self._logits(params, decoded, batch))

  def _discriminator_loss(self, params, batch, step, carry):
    video = from_uint8(batch["video"])
    true, real = self._logits(params, video, batch)
    fake, _ = self._logits(params, jax.lax.stop_gradient(carry["reconstruction"]), batch)
    loss = self._started(step) * gan.discriminator_hinge(true, fake, real)
    terms = {"real": losses.weighted_mean(true, real), "fake": losses.weighted_mean(fake, real)}
    return loss, (terms | {"loss": loss}, carry)

  def evaluate(self, params, batch, key):
    """PSNR in dB averaged over clips, L1, the outlier rate, the standard deviation of latents and
    posterior, and LPIPS if its weights are given."""
    del key
    video, mean, logvar = self.encode(params, batch)
    decoded = self._decode(params["autoencoder"], mean, video.shape[1])
    axes = tuple(range(1, mean.ndim))
    rows = {
      "psnr": losses.psnr(decoded, video),
      "l1": jnp.mean(jnp.abs(decoded - video), axis=axes),
      "outlier_rate": jnp.mean(losses.outlier_rate(mean), axis=1),
      "latent_std": jnp.std(mean, axis=axes),
      "posterior_std": jnp.mean(jnp.exp(0.5 * logvar), axis=axes),
    }
    if self.perceptual:
      rows["lpips"] = jnp.mean(self._lpips(jnp.clip(decoded, -1.0, 1.0), video), axis=1)
    valid = jnp.asarray(batch.get("valid", jnp.ones(video.shape[0])), jnp.float32)
    return {name: row @ valid / jnp.maximum(valid.sum(), 1.0) for name, row in rows.items()}

  def reconstruct(self, params, video):
    """uint8 (B, T, H, W, 3) through the latent mean and back, as uint8."""
    mean = self.encode(params, {"video": video})[1]
    decoded = self._decode(params["autoencoder"], mean, video.shape[1])
    return to_uint8(decoded)


def _real(batch, frames, stride=1):
  """Weights (B, ceil(T / stride)): 1 if the first frame covered by an output is real."""
  if "frames" not in batch:
    return None
  count = -(-batch["frames"] // stride)
  return (jnp.arange(-(-frames // stride)) < count[:, None]).astype(jnp.float32)


def _last_kernel(tree):
  """The kernel of the decoder's last layer; of a pair of convolutions the spatial one, which is the
  image autoencoder's last layer, so that the ratio is comparable with and without time."""
  layer = tree[LAST_LAYER]
  return layer.get("spatial", layer)["kernel"]


def _with_last_kernel(tree, kernel):
  layer = tree[LAST_LAYER]
  if "spatial" in layer:
    return {**tree, LAST_LAYER: {**layer, "spatial": {**layer["spatial"], "kernel": kernel}}}
  return {**tree, LAST_LAYER: {**layer, "kernel": kernel}}
