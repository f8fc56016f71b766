"""Adversarial losses of the autoencoders, in the recipes of latent diffusion and of DAC.

Hinge losses on the logits of a patch discriminator, positive for real, and the weight that scales
the adversarial gradient to that of the reconstruction [MG 3.1.1]. Least squares and feature
matching for the critics of waveforms [MG 6.2]. The paper names discriminators and gives no details.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mg_jax.core.tree import global_norm
from mg_jax.core.typing import Array, Float, PyTree
from mg_jax.losses.reconstruction import weighted_mean

MAX_WEIGHT = 1e4  # upper bound of the adaptive weight, as in latent diffusion
_EPS = 1e-4  # added to the norm in the denominator, as there


def generator_hinge(
  fake: Float[Array, "B T *S"], weight_BT: Float[Array, "B T"] | None = None
) -> Float[Array, ""]:
  """-E[D(reconstruction)]."""
  return -weighted_mean(fake, weight_BT)


def discriminator_hinge(
  real: Float[Array, "B T *S"],
  fake: Float[Array, "B T *S"],
  weight_BT: Float[Array, "B T"] | None = None,
) -> Float[Array, ""]:
  """(E[max(0, 1 - D(video))] + E[max(0, 1 + D(reconstruction))]) / 2."""
  real = weighted_mean(jax.nn.relu(1.0 - real), weight_BT)
  fake = weighted_mean(jax.nn.relu(1.0 + fake), weight_BT)
  return 0.5 * (real + fake)


def adaptive_weight(reconstruction: PyTree, adversarial: PyTree) -> Float[Array, ""]:
  """|g_rec| / (|g_adv| + 1e-4) in [0, 1e4], with no gradient.

  The gradients are those with respect to the kernel of the decoder's last layer.
  """
  ratio = global_norm(reconstruction) / (global_norm(adversarial) + _EPS)
  return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, MAX_WEIGHT))


def with_gradient(
  value: Float[Array, ""], at: Float[Array, "*S"], gradient: Float[Array, "*S"]
) -> Float[Array, ""]:
  """A scalar of this value whose derivative with respect to `at` is `gradient`.

  A loss whose gradient was already computed for another purpose thus needs no second backward pass
  through its network.
  """
  inner = jnp.sum(jax.lax.stop_gradient(gradient) * (at - jax.lax.stop_gradient(at)))
  return jax.lax.stop_gradient(value) + inner


def generator_squares(fakes: Sequence[Float[Array, "..."]]) -> Float[Array, ""]:
  """Sum over critics of E[(1 - D(reconstruction))^2], least squares as in DAC."""
  return sum(jnp.mean(jnp.square(1.0 - fake)) for fake in fakes)


def discriminator_squares(
  reals: Sequence[Float[Array, "..."]], fakes: Sequence[Float[Array, "..."]]
) -> Float[Array, ""]:
  """Sum over critics of E[(1 - D(sound))^2] + E[D(reconstruction)^2]."""
  real = sum(jnp.mean(jnp.square(1.0 - real)) for real in reals)
  return real + sum(jnp.mean(jnp.square(fake)) for fake in fakes)


def feature_matching(
  reals: Sequence[Float[Array, "..."]], fakes: Sequence[Float[Array, "..."]]
) -> Float[Array, ""]:
  """Sum over features of E|difference|, with no gradient into the real features."""
  pairs = zip(reals, fakes, strict=True)
  return sum(jnp.mean(jnp.abs(fake - jax.lax.stop_gradient(real))) for real, fake in pairs)
