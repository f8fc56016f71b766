"""The autoencoder's objective: its terms, its two roles, its metrics, and short clips."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.rng import stream
from mg_jax.core.sharding import unbox
from mg_jax.core.tree import flatten_paths, global_norm
from mg_jax.losses import gan, reconstruction
from mg_jax.models.codecs.discriminators import PatchDiscriminator
from mg_jax.models.codecs.tae import TAE, Conv25
from mg_jax.nn.conv import SpatialConv
from mg_jax.nn.linear import Linear
from mg_jax.objectives.autoencoding import Autoencoding, AutoencodingWeights
from mg_jax.objectives.base import Objective


class Halver(nn.Module):
  """Keeps every second pixel as the latent; the posterior's log-variance is a parameter."""

  logvar: float = -2.0
  shortcut: bool = False
  factors: tuple = (1, 2, 2)

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
  assert set(full) == {"psnr", "l1", "outlier_rate", "latent_std", "posterior_std"}
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


def test_filled_up_frames_do_not_count():
  objective, params = _setup(l1=1.0, mse=1.0, kl=1e-2, outlier=0.5)
  video = _batch(frames=4)["video"]
  batch = {"video": video, "frames": jnp.array([4, 2, 2, 2])}
  noisy = {"video": video.at[1:, 2:].set(0), "frames": batch["frames"]}
  losses = [_loss(objective, params, b)[0] for b in (batch, noisy, {"video": video})]
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
  assert abs(losses[0] - losses[2]) > 1e-4


def test_under_a_sum_the_papers_weight_is_what_a_small_one_is_under_a_mean():
  pixels = 8 * 8 * 3
  spotted = _batch()["video"].at[:, :, 2, 2].set(255).at[:, :, 4:, :].set(90)
  weights = {"l1": 1.0, "kl": 0.0, "radius": 0.5}
  grads = []
  for reduction, outlier in (("sum", 1e5), ("mean", 1e5 / pixels)):
    objective, params = _setup(**weights, reduction=reduction, outlier=outlier)
    loss = lambda p: _loss(objective, p, {"video": spotted})[0]  # noqa: B023, E731
    grads.append(jax.grad(loss)(params)["autoencoder"])
  penalty = reconstruction.outlier_penalty((spotted / 127.5 - 1)[:, :, ::2, ::2], radius=0.5)
  assert penalty > 0.01, "the penalty has to act in this test"
  for name in ("gain", "spread"):
    np.testing.assert_allclose(grads[0][name], pixels * grads[1][name], rtol=1e-4)
  # The same for KL, which is summed over the values of a latent frame.
  small, params = _setup(l1=0.0, kl=1.0, outlier=0.0)
  large, _ = _setup(l1=0.0, kl=1.0, outlier=0.0, reduction="sum")
  ratio = _loss(large, params, _batch())[0] / _loss(small, params, _batch())[0]
  np.testing.assert_allclose(ratio, 4 * 4 * 3, rtol=1e-5)


class Far:
  """Stands in for LPIPS: the mean squared distance of two images."""

  def __call__(self, a, b):
    return jnp.mean(jnp.square(a - b), axis=(1, 2, 3))


def test_lpips_is_named_only_where_its_weights_are_given():
  with_weight, params = _setup(lpips=3.0, kl=0.0, outlier=0.0)
  plain = _loss(with_weight, params, _batch())
  assert "lpips" not in plain[1][0]
  assert "lpips" not in with_weight.evaluate(params, _batch(), None)
  given = dataclasses.replace(with_weight, perceptual=Far())
  loss, (terms, _) = _loss(given, params, _batch())
  np.testing.assert_allclose(terms["lpips"], terms["mse"], rtol=1e-6)
  np.testing.assert_allclose(loss, plain[0] + 3.0 * terms["mse"], rtol=1e-6)
  assert given.evaluate(params, _batch(), None)["lpips"] > 0


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"reduction": "max"}, "reduction is 'max'"),
    ({"gan": -0.5}, "gan is -0.5"),
    ({"outlier": float("nan")}, "outlier is nan"),
  ],
)
def test_weights_that_cannot_be_are_refused(changes, words):
  with pytest.raises(UserError, match=words):
    AutoencodingWeights(**changes)


class Small(nn.Module):
  """Three convolutions, which end in both kinds of last layer: a pair of them, or a linear map."""

  linear: bool = False
  shortcut: bool = False
  factors: tuple = (1, 2, 2)

  def setup(self):
    self.encoder_in = SpatialConv(8, stride=2)
    self.decoder_in = SpatialConv(8, upsample=True)
    last = {"use_bias": True, "logical": ("conv_in", "conv_out")}
    self.decoder_out = Linear(3, **last) if self.linear else Conv25(3)

  def _frames(self, module, x):
    y = module(x.reshape(-1, *x.shape[2:]))
    return y.reshape(*x.shape[:2], *y.shape[1:])

  def encode(self, video):
    return jnp.split(self._frames(self.encoder_in, video), 2, axis=-1)

  def decode(self, latent, *, frames):
    return self.decoder_out(nn.silu(self._frames(self.decoder_in, latent)))[:, :frames]

  def __call__(self, video):
    return self.decode(self.encode(video)[0], frames=video.shape[1])


MODELS = {"convolution": Small(), "linear": Small(linear=True)}
CRITIC = PatchDiscriminator(channels=8, multipliers=(1, 2), groups=4)


def _adversarial(model, *, temporal=False, **weights):
  critic = CRITIC.clone(temporal=temporal)
  weights = {"gan": 0.5, "kl": 1e-2} | weights
  objective = Autoencoding(model, AutoencodingWeights(**weights), discriminator=critic)
  rng = np.random.default_rng(3)
  video = jnp.asarray(rng.integers(0, 256, (8, 3, 16, 16, 3), np.uint8))
  batch = {"video": video, "frames": jnp.array([3, 3, 2, 3, 1, 3, 3, 2])}
  params = unbox(jax.jit(objective.init)(jax.random.key(0), batch))
  return objective, params, batch


def _step(objective, params, batch, step=0):
  """What a training step does: every role's loss and gradient, handing on the carry."""
  losses, grads, metrics, carry = {}, {}, {}, {}
  for role in objective.roles:

    def fn(tree, role=role, carry=carry):
      trees = {**params, role: tree}
      return objective.loss(role, trees, batch, jax.random.key(1), jnp.int32(step), carry)

    (losses[role], (metrics[role], carry)), grads[role] = jax.value_and_grad(fn, has_aux=True)(
      params[role]
    )
  return losses, grads, metrics, carry


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_that_of_the_written_out_adaptive_loss(name):
  objective, params, batch = _adversarial(MODELS[name], temporal=name == "linear")
  _, grads, metrics, carry = jax.jit(lambda p: _step(objective, p, batch))(params)

  def parts(tree):
    video, mean, logvar = objective.encode({"autoencoder": tree}, batch)
    noise = jax.random.normal(stream(jax.random.key(1), "posterior"), mean.shape)
    latent = mean + jnp.exp(0.5 * logvar) * noise
    decoded = objective.model.apply({"params": tree}, latent, frames=3, method="decode")
    real = (jnp.arange(3) < batch["frames"][:, None]).astype(jnp.float32)
    seen = objective.discriminator.apply({"params": params["discriminator"]}, decoded)
    judged = -(-batch["frames"] // objective.discriminator.frame_stride)
    judged = (jnp.arange(seen.shape[1]) < judged[:, None]).astype(jnp.float32)
    coded = -(-batch["frames"] // objective.model.factors[0])
    coded = (jnp.arange(mean.shape[1]) < coded[:, None]).astype(jnp.float32)
    rest = 1e-2 * reconstruction.kl(mean, logvar, coded)
    rest += 0.5 * reconstruction.outlier_penalty(mean, coded)
    return reconstruction.l1(decoded, video, real), gan.generator_hinge(seen, judged), rest

  @jax.jit
  def gradients(tree):
    _, pull = jax.vjp(parts, tree)
    return [pull(tuple(jnp.float32(i == k) for i in range(3)))[0] for k in range(3)]

  error, fooled, rest = gradients(params["autoencoder"])
  last = lambda tree: tree["decoder_out"].get("spatial", tree["decoder_out"])["kernel"]  # noqa: E731
  weight = global_norm(last(error)) / (global_norm(last(fooled)) + 1e-4)
  assert weight > 0.01
  np.testing.assert_allclose(metrics["autoencoder"]["gan_weight"], weight, rtol=1e-4)
  wanted = jax.tree.map(lambda a, b, c: a + 0.5 * weight * b + c, error, fooled, rest)
  for path, leaf in flatten_paths(wanted).items():
    got = flatten_paths(grads["autoencoder"])[path]
    np.testing.assert_allclose(got, leaf, atol=2e-5 * jnp.abs(leaf).max() + 1e-8, err_msg=path)
  assert carry["reconstruction"].shape == batch["video"].shape


def test_the_adversarial_losses_of_both_roles_wait_for_their_step():
  objective, params, batch = _adversarial(MODELS["linear"], gan_start=5)
  run = jax.jit(lambda p, step: _step(objective, p, batch, step))
  before, after = run(params, 4), run(params, 5)
  assert before[0]["discriminator"] == 0.0 and after[0]["discriminator"] > 0.0
  assert global_norm(before[1]["discriminator"]) == 0.0
  assert global_norm(after[1]["discriminator"]) > 0.0
  plain = dataclasses.replace(objective, weights=AutoencodingWeights(kl=1e-2))
  assert plain.roles == ("autoencoder",)
  alone = jax.jit(lambda p: _step(plain, p, batch))({"autoencoder": params["autoencoder"]})
  np.testing.assert_allclose(before[0]["autoencoder"], alone[0]["autoencoder"], rtol=1e-5)
  # The discriminator sees what the autoencoder made, and cannot reach it.
  carried = lambda x: objective.loss(  # noqa: E731
    "discriminator", params, batch, jax.random.key(1), jnp.int32(9), {"reconstruction": x}
  )[0]
  assert jnp.all(jax.grad(carried)(after[3]["reconstruction"]) == 0)


WHOLE = TAE(channels=8, multipliers=(1, 1), blocks=1, latent=4, groups=4, attention=False)


@pytest.mark.parametrize(
  "model, temporal",
  [(MODELS["convolution"], True), pytest.param(WHOLE, False, marks=pytest.mark.slow)],
  ids=["small", "whole"],
)
def test_both_roles_are_the_same_on_eight_devices(model, temporal):
  objective, params, batch = _adversarial(model, temporal=temporal)
  outcomes = []
  for shape in ((1, 1, 1, 1), (2, 4, 1, 1)):
    with use_mesh(make_mesh(shape)):
      outcomes.append(jax.device_get(jax.jit(lambda p: _step(objective, p, batch)[:2])(params)))
  (loss, grads), (other_loss, other_grads) = outcomes
  for role in objective.roles:
    np.testing.assert_allclose(other_loss[role], loss[role], rtol=1e-5)
  for path, leaf in flatten_paths(grads).items():
    other = flatten_paths(other_grads)[path]
    np.testing.assert_allclose(other, leaf, atol=2e-5 * np.abs(leaf).max() + 1e-7, err_msg=path)
