"""Autoencoding of sound: its terms, what each role moves, evaluation, and configs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.losses import audio
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.wave_critics import WaveCritics
from mg_jax.objectives.base import Objective
from mg_jax.objectives.wave_autoencoding import WaveAutoencoding, WaveWeights

MODEL = DACVAE(channels=2, rates=(2, 4), hidden=4, decoder_channels=4, latent=2, sample_rate=8000)
CRITICS = WaveCritics(
  periods=(2,), period_widths=(2, 2), windows=(32,), spectrum_width=2, bands=((0.0, 1.0),)
)
SCALES = ((32, 5),)
FULL = WaveAutoencoding(MODEL, WaveWeights(mel_scales=SCALES, l1=0.5, stft=0.25), CRITICS)
PLAIN = WaveAutoencoding(MODEL, WaveWeights(mel_scales=SCALES, adversarial=0.0))
BATCH = {
  "wave": np.random.default_rng(0).integers(-9000, 9000, (2, 128)).astype(np.int16)
}  # fmt: skip


@pytest.fixture(scope="module")
def params():
  return unbox(jax.jit(FULL.init)(jax.random.key(0), BATCH))


def grads(objective, role, params, carry):
  def loss(tree, params, carry):
    return objective.loss(
      role, {**params, role: tree}, BATCH, jax.random.key(1), jnp.int32(0), carry
    )

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(params[role], params, carry)


@pytest.fixture(scope="module")
def generator(params):
  return grads(FULL, "autoencoder", params, {})


def test_it_is_an_objective_of_two_roles_or_of_one():
  assert isinstance(FULL, Objective) and FULL.roles == ("autoencoder", "critics")
  assert PLAIN.roles == ("autoencoder",)
  shapes = jax.eval_shape(PLAIN.init, jax.random.key(0), BATCH)
  assert set(shapes) == {"autoencoder"}


def test_the_loss_is_the_weighted_sum_of_its_terms(generator):
  (loss, (terms, carry)), slopes = generator
  assert set(terms) == {"mel", "kl", "l1", "stft", "adversarial", "features", "loss"}
  weights = FULL.weights
  total = sum(getattr(weights, name) * v for name, v in terms.items() if name != "loss")
  np.testing.assert_allclose(loss, total, rtol=1e-5)
  decoded, wave = carry["reconstruction"], BATCH["wave"] / np.float32(2**15)
  assert decoded.shape == (2, 128)
  np.testing.assert_allclose(terms["l1"], np.abs(decoded - wave).mean(), rtol=1e-5)
  want = audio.mel_distance(decoded, jnp.asarray(wave), rate=8000, scales=SCALES).mean()
  np.testing.assert_allclose(terms["mel"], want, rtol=1e-5)
  assert all(jnp.any(g != 0) for g in jax.tree.leaves(slopes)), "every parameter learns"


def test_a_floor_leaves_out_what_is_too_quiet_to_be_heard(params):
  def mel(floor):
    weights = WaveWeights(mel_scales=SCALES, adversarial=0.0, mel_floor=floor)
    objective = WaveAutoencoding(MODEL, weights)
    loss = jax.jit(lambda: objective.loss("autoencoder", params, BATCH, jax.random.key(0), 0, {}))
    return float(loss()[1][0]["mel"])

  assert mel(0.0) > mel(1e-3) > 1e-3 and mel(1e3) < 1e-3


def test_the_power_is_that_of_the_differences(params):
  weights = WaveWeights(mel_scales=SCALES, adversarial=0.0, mel_floor=1e-3, mel_power=2.0)
  run = jax.jit(lambda: WaveAutoencoding(MODEL, weights).loss(
    "autoencoder", params, BATCH, jax.random.key(0), 0, {}))  # fmt: skip
  loss, (terms, _) = run()
  decoded = jax.jit(lambda: FULL.loss(
    "autoencoder", params, BATCH, jax.random.key(0), 0, {}))()[1][1]["reconstruction"]  # fmt: skip
  wave = jnp.asarray(BATCH["wave"] / np.float32(2**15))
  want = audio.mel_distance(decoded, wave, rate=8000, scales=SCALES, floor=1e-3, power=2.0).mean()
  np.testing.assert_allclose(terms["mel"], want, rtol=1e-5)
  assert float(loss) >= 15 * float(want)


def test_the_latent_is_sampled(params):
  key = lambda i: jax.random.key(i)  # noqa: E731
  run = jax.jit(lambda k: PLAIN.loss("autoencoder", params, BATCH, k, jnp.int32(0), {})[0])
  assert run(key(1)) == run(key(1)) != run(key(2))


def test_critics_learn_from_the_reconstruction_that_was_made(params, generator):
  (_, (_, carry)), _ = generator
  (loss, (terms, _)), slopes = grads(FULL, "critics", params, carry)
  assert set(terms) == {"loss", "real", "fake"}
  biases = [g for path, g in jax.tree.leaves_with_path(slopes) if "logit" in str(path)]
  assert all(jnp.any(g != 0) for g in biases)
  wave = jnp.asarray(BATCH["wave"] / np.float32(2**15))
  # Of reconstructions that are the sound itself nothing can be told apart.
  (same, (terms, _)), _ = grads(FULL, "critics", params, {"reconstruction": wave})
  assert terms["real"] == terms["fake"] and same != loss


def test_perfect_reconstructions_cost_only_the_divergence(params):
  class Perfect(WaveAutoencoding):
    def _decode(self, params, latent, length):
      return jnp.asarray(BATCH["wave"] / np.float32(2**15))

  objective = Perfect(MODEL, FULL.weights, CRITICS)
  run = jax.jit(objective.loss, static_argnums=0)
  _, (terms, _) = run("autoencoder", params, BATCH, jax.random.key(0), jnp.int32(0), {})
  # The compiler may sum the same spectrum of the two in different orders.
  nothing = pytest.approx(0, abs=1e-6)
  assert all(terms[name] == nothing for name in ("mel", "l1", "stft", "features"))
  found = jax.jit(objective.evaluate)(params, BATCH, jax.random.key(0))
  assert all(found[name] == nothing for name in ("mel", "stft", "l1")) and found["si_sdr"] > 60


def test_rows_that_fill_up_do_not_count(params):
  run = functools.partial(jax.jit(PLAIN.evaluate), params, key=jax.random.key(0))
  alone = run({"wave": BATCH["wave"][[0, 0]], "valid": np.array([True, True])})
  filled = run({"wave": BATCH["wave"], "valid": np.array([True, False])})
  for name, value in alone.items():
    np.testing.assert_allclose(filled[name], value, rtol=1e-3, err_msg=name)


def test_reconstruct_goes_through_the_mean(params):
  run = jax.jit(PLAIN.reconstruct)
  made = run(params, BATCH["wave"])
  np.testing.assert_array_equal(made, run(params, BATCH["wave"]))
  wave = jnp.asarray(BATCH["wave"] / np.float32(2**15))
  want = jax.jit(MODEL.apply)({"params": params["autoencoder"]}, wave)[0]
  np.testing.assert_allclose(made, want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 7])
@pytest.mark.parametrize("level", [0, 2**15 - 1])
def test_silence_and_single_samples_have_finite_losses(params, samples, level):
  batch = {"wave": np.full((1, samples), level, np.int16)}
  total = lambda tree: PLAIN.loss(  # noqa: E731
    "autoencoder", {"autoencoder": tree}, batch, jax.random.key(0), jnp.int32(0), {}
  )[0]
  value, slopes = jax.jit(jax.value_and_grad(total))(params["autoencoder"])
  assert jnp.isfinite(value) and all(jnp.isfinite(g).all() for g in jax.tree.leaves(slopes))


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"mel": -1.0}, "objective.mel is -1.0"),
    ({"kl": float("inf")}, "objective.kl is inf"),
    ({"mel_floor": -1e-3}, "objective.mel_floor is -0.001"),
    ({"mel_power": 0.5}, "objective.mel_power is 0.5; give 1 to 4"),
    ({"mel_scales": ((30, 5),)}, r"has \(30, 5\)"),
    ({"mel_scales": ((32, 0),)}, r"has \(32, 0\)"),
  ],
)
def test_weights_that_make_no_loss_are_named(fields, message):
  with pytest.raises(UserError, match=message):
    WaveWeights(**fields)
