"""Autoencoding of sound: the objective of the audio codec [MG 6.2].

The losses of DAC, whose training code was used for the published DACVAE, with the KL divergence of
the Gaussian bottleneck instead of the quantizer's losses. Batches are {"wave": int16 (B, T)}, full
scale 2^15. The latent is sampled in training and is its mean in evaluation. With an adversarial
weight there are two roles: the critics are trained on the codec's reconstructions of the same step.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.core.rng import stream
from mg_jax.core.sharding import shard
from mg_jax.losses import audio, gan
from mg_jax.losses import reconstruction as losses
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.wave_critics import WaveCritics

FULL_SCALE = 2.0**15


@dataclasses.dataclass(frozen=True)
class WaveWeights:
  """Weights of the loss terms.

  Mel, features and adversarial have DAC's weights. For the KL divergence nothing is published
  except that any common value works, as results hardly depend on it. 0.1 per nat per latent value
  is our choice: in the units of Stable Audio (no half, summed over 128 channels), 4e-4 relative to
  a mel term of weight 15, where Stable Audio has 1e-4 relative to a spectral term of weight 1.

  Attributes:
    mel: of the log-mel distances.
    features: of feature matching in the critics.
    adversarial: of the adversarial loss; 0 trains no critics, and no features are matched.
    kl: of the divergence from N(0, 1), in nats per latent value.
    l1: of the waveform itself, not in DAC.
    stft: of the spectral distances, only a metric in DAC.
    mel_scales: (window in samples, number of mel bins).
    mel_floor: added to mel magnitudes, so that magnitudes far below it have little effect. DAC has
      none, and clips below any recording's noise; with digital silence the loss would be dominated
      by the accuracy of silence, so synthetic sound needs 3e-4, about -60 dB. Clipping there would
      have no gradient: the codec would never learn sounds that it reconstructs as silence.
    mel_power: exponent of the differences of log mels; DAC's 1 favours common events, 2 also
      weights rare ones.
  """

  mel: float = 15.0
  features: float = 2.0
  adversarial: float = 1.0
  kl: float = 0.1
  l1: float = 0.0
  stft: float = 0.0
  mel_scales: tuple[tuple[int, int], ...] = audio.MEL_SCALES
  mel_floor: float = 0.0
  mel_power: float = 1.0

  def __post_init__(self):
    for name in ("mel", "features", "adversarial", "kl", "l1", "stft", "mel_floor"):
      if not 0 <= getattr(self, name) < math.inf:
        raise UserError(f"objective.{name} is {getattr(self, name)}; it must not be negative")
    if not 1 <= self.mel_power <= 4:
      raise UserError(f"objective.mel_power is {self.mel_power}; give 1 to 4")
    for scale in self.mel_scales:
      if len(scale) != 2 or scale[0] < 4 or scale[0] % 4 or scale[1] < 1:
        raise UserError(
          f"objective.mel_scales has {tuple(scale)}; give (window, bins), windows multiples of 4"
        )


@dataclasses.dataclass(frozen=True)
class WaveAutoencoding:
  """Trains a DACVAE; see `mg_jax.objectives.base.Objective` for the protocol."""

  model: DACVAE
  weights: WaveWeights = WaveWeights()
  critics: WaveCritics = WaveCritics()

  @property
  def roles(self) -> tuple[str, ...]:
    return ("autoencoder", "critics") if self.weights.adversarial else ("autoencoder",)

  def init(self, key: jax.Array, batch: dict) -> dict:
    wave = _wave(batch)[:1]
    roles = {"autoencoder": self.model.init(key, wave)["params"]}
    if self.weights.adversarial:
      roles["critics"] = self.critics.init(stream(key, "critics"), wave)["params"]
    return roles

  def encode(self, params, batch):
    """(wave in [-1, 1], mean and log-variance of the posterior) of a batch."""
    wave = shard(_wave(batch), "batch", "time")
    mean, logvar = self.model.apply({"params": params["autoencoder"]}, wave, method="encode")
    return wave, mean, logvar

  def _decode(self, params, latent, length):
    return self.model.apply(
      {"params": params["autoencoder"]}, latent, length=length, method="decode"
    )

  def loss(self, role, params, batch, key, step, carry):
    del step
    if role == "critics":
      return self._critics_loss(params, batch, carry)
    wave, mean, logvar = self.encode(params, batch)
    noise = jax.random.normal(stream(key, "posterior"), mean.shape)
    decoded = self._decode(params, mean + jnp.exp(0.5 * logvar) * noise, wave.shape[1])
    mel = audio.mel_distance(
      decoded, wave, rate=self.model.sample_rate, scales=self.weights.mel_scales,
      floor=self.weights.mel_floor, power=self.weights.mel_power,
    )  # fmt: skip
    terms = {
      "mel": jnp.mean(mel),
      "kl": losses.kl(mean, logvar),
      "l1": losses.l1(decoded, wave),
    }
    if self.weights.stft:
      terms["stft"] = jnp.mean(audio.stft_distance(decoded, wave))
    if self.weights.adversarial:
      fake, fake_features = self._judge(params, decoded)
      _, real_features = self._judge(params, wave)
      terms["adversarial"] = gan.generator_squares(fake)
      terms["features"] = gan.feature_matching(real_features, fake_features)
      carry = {**carry, "reconstruction": decoded}
    total = sum(getattr(self.weights, name) * value for name, value in terms.items())
    return total, (terms | {"loss": total}, carry)

  def _judge(self, params, wave):
    """Logits of all critics, and their features, each as one list."""
    judged = self.critics.apply({"params": params["critics"]}, wave)
    return [logits for logits, _ in judged], [f for _, features in judged for f in features]

  def _critics_loss(self, params, batch, carry):
    real, _ = self._judge(params, shard(_wave(batch), "batch", "time"))
    fake, _ = self._judge(params, jax.lax.stop_gradient(carry["reconstruction"]))
    loss = gan.discriminator_squares(real, fake)
    mean = lambda logits: sum(map(jnp.mean, logits)) / len(logits)  # noqa: E731
    return loss, ({"loss": loss, "real": mean(real), "fake": mean(fake)}, carry)

  def evaluate(self, params, batch, key):
    """Mel and STFT distance, SI-SDR in dB, L1, and standard deviation of latents and posterior."""
    del key
    wave, mean, logvar = self.encode(params, batch)
    decoded = self._decode(params, mean, wave.shape[1])
    rows = {
      "mel": audio.mel_distance(decoded, wave, rate=self.model.sample_rate),
      "stft": audio.stft_distance(decoded, wave),
      "si_sdr": audio.si_sdr(decoded, wave),
      "l1": jnp.mean(jnp.abs(decoded - wave), axis=1),
      "latent_std": jnp.std(mean, axis=(1, 2)),
      "posterior_std": jnp.mean(jnp.exp(0.5 * logvar), axis=(1, 2)),
    }
    valid = jnp.asarray(batch.get("valid", jnp.ones(len(wave))), jnp.float32)
    return {name: row @ valid / jnp.maximum(valid.sum(), 1.0) for name, row in rows.items()}

  def reconstruct(self, params, wave):
    """float32 (B, T) in [-1, 1] of int16 (B, T), through the latent mean and back."""
    mean = self.encode(params, {"wave": wave})[1]
    return self._decode(params, mean, wave.shape[1])


def _wave(batch):
  return jnp.asarray(batch["wave"], jnp.float32) / FULL_SCALE
