"""The autoencoder's objective: its terms, its metrics, and what it does with short batches."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.losses import reconstruction
from mg_jax.objectives.autoencoding import Autoencoding, AutoencodingWeights
from mg_jax.objectives.base import Objective


class Halver(nn.Module):
  """Keeps every second pixel as the latent; the posterior's log-variance is a parameter."""

  logvar: float = -2.0
  shortcut: bool = False

  def setup(self):
    self.gain = self.param("gain", nn.initializers.ones, ())
    self.spread = self.param("spread", nn.initializers.constant(self.logvar), ())

  def encode(self, video):
    mean = self.gain * video[:, :, ::2, ::2]
    return mean, jnp.broadcast_to(self.spread, mean.shape)

  def decode(self, latent, *, frames):
    return jnp.repeat(jnp.repeat(latent, 2, axis=2), 2, axis=3)[:, :frames]

  def __call__(self, video):
    return self.decode(self.encode(video)[0], frames=video.shape[1])


def _batch(size=4, frames=3, **extra):
  video = np.random.default_rng(0).integers(0, 256, (size, frames, 8, 8, 3), np.uint8)
  return {"video": jnp.asarray(video), "frames": jnp.full((size,), frames)} | extra


def _setup(**weights):
  objective = Autoencoding(Halver(), AutoencodingWeights(**weights))
  return objective, objective.init(jax.random.key(0), _batch())


def _loss(objective, params, batch, seed=1):
  return objective.loss(
    "autoencoder", params, batch, jax.random.key(seed), jnp.int32(0), {"from": "before"}
  )


def test_it_is_an_objective_and_init_traces():
  objective, params = _setup()
  assert isinstance(objective, Objective) and objective.roles == ("autoencoder",)
  abstract = jax.eval_shape(objective.init, jax.random.key(0), _batch())
  assert jax.tree.structure(abstract) == jax.tree.structure(params)


def test_the_loss_is_the_weighted_sum_of_its_terms():
  weights = {"l1": 2.0, "mse": 3.0, "kl": 0.5, "outlier": 0.25}
  objective, params = _setup(**weights)
  loss, (metrics, carry) = _loss(objective, params, _batch())
  assert set(metrics) == {*weights, "loss"} and carry == {"from": "before"}
  np.testing.assert_allclose(loss, sum(w * metrics[n] for n, w in weights.items()), rtol=1e-6)
  np.testing.assert_allclose(loss, metrics["loss"])
  # KL to the unit normal, written out for this posterior.
  mean = (_batch()["video"] / 127.5 - 1.0)[:, :, ::2, ::2]
  expected = 0.5 * (mean**2 + np.exp(-2.0) - 1.0 + 2.0)
  np.testing.assert_allclose(metrics["kl"], expected.mean(), rtol=1e-5)


def test_training_samples_the_posterior_and_depends_on_the_key():
  objective, params = _setup(kl=0.0, outlier=0.0)
  first, again, other = (_loss(objective, params, _batch(), s)[0] for s in (1, 1, 2))
  assert first == again and first != other
  sharp = {"autoencoder": params["autoencoder"] | {"spread": jnp.float32(-60.0)}}
  exact = reconstruction.l1(
    objective.model.apply({"params": sharp["autoencoder"]}, _batch()["video"] / 127.5 - 1.0),
    _batch()["video"] / 127.5 - 1.0,
  )
  np.testing.assert_allclose(_loss(objective, sharp, _batch())[0], exact, rtol=1e-5)


def test_gradients_reach_encoder_and_decoder():
  objective, params = _setup(kl=1e-3)
  grads = jax.grad(lambda p: _loss(objective, p, _batch())[0])(params)["autoencoder"]
  assert abs(grads["gain"]) > 1e-6 and abs(grads["spread"]) > 1e-6


def test_evaluation_uses_the_mean_and_counts_valid_rows_only():
  objective, params = _setup()
  full = objective.evaluate(params, _batch(), jax.random.key(0))
  assert full == objective.evaluate(params, _batch(), jax.random.key(9))
  assert set(full) == {"psnr", "l1", "latent_std", "posterior_std"}
  np.testing.assert_allclose(full["posterior_std"], np.exp(-1.0), rtol=1e-5)
  valid = np.array([True, True, False, False])
  padded = objective.evaluate(params, _batch(valid=valid), jax.random.key(0))
  half = objective.evaluate(params, {"video": _batch()["video"][:2]}, jax.random.key(0))
  for name, value in half.items():
    np.testing.assert_allclose(padded[name], value, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 3])
def test_reconstruction_gives_pixels_back(frames):
  objective, params = _setup()
  video = np.repeat(np.repeat(_batch(frames=frames)["video"][:, :, ::2, ::2], 2, 2), 2, 3)
  out = objective.reconstruct(params, video)
  assert out.dtype == jnp.uint8
  np.testing.assert_array_equal(out, video)
  loud = {"autoencoder": params["autoencoder"] | {"gain": jnp.float32(1e3)}}
  assert set(np.unique(objective.reconstruct(loud, video))) <= {0, 255}
