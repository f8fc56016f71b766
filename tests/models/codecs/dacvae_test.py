import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.sharding import batch_sharding, unbox
from mg_jax.models.codecs.dacvae import DACVAE

SMALL = DACVAE(channels=2, rates=(2, 4), hidden=8, decoder_channels=8, latent=3)


@pytest.fixture(scope="module")
def params(awaken):
  wave = jax.ShapeDtypeStruct((1, SMALL.hop), jnp.float32)
  return awaken(jax.eval_shape(SMALL.init, jax.random.key(0), wave)["params"])


def wave_of(samples, batch=1, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, (batch, samples)).astype(np.float32)


@pytest.mark.smoke
@pytest.mark.parametrize("samples", [1, 7, 8, 41])
def test_any_length_comes_back_exactly(params, samples):
  wave = wave_of(samples, batch=2)
  decoded, mean, logvar = jax.jit(SMALL.apply)({"params": params}, wave)
  assert decoded.shape == wave.shape and np.abs(decoded).max() <= 1
  assert mean.shape == logvar.shape == (2, *SMALL.latent_shape(samples))
  assert SMALL.latent_shape(samples) == (-(-samples // 8), 3)


def test_an_hour_at_the_published_size():
  model = DACVAE()
  assert (model.hop, model.latent_rate) == (1920, 25)
  assert model.latent_shape(3600 * 48_000 + 1) == (90_001, 128)


def test_the_end_is_filled_by_reflection(params):
  wave = wave_of(21)
  encode = jax.jit(lambda w: SMALL.apply({"params": params}, w, method="encode"))
  filled = np.concatenate([wave, wave[:, -2:-5:-1]], axis=1)
  for a, b in zip(encode(wave), encode(filled), strict=True):
    np.testing.assert_array_equal(a, b)


def test_the_spread_of_the_posterior_has_a_floor(params):
  # A bias that drives the scale to zero.
  bias = params["posterior"]["bias"].at[3:].set(-200.0)
  changed = params | {"posterior": params["posterior"] | {"bias": bias}}
  _, logvar = jax.jit(lambda p, w: SMALL.apply({"params": p}, w, method="encode"))(
    changed, wave_of(16)
  )
  np.testing.assert_allclose(np.exp(logvar / 2), 1e-4, rtol=1e-3)


def reach(fn, x, row, of=lambda y, row: y[row]):
  """First and last position of x (n, ...) that a row of fn(x) depends on."""
  grad = jax.jit(jax.grad(lambda x: jnp.sum(jnp.square(of(fn(x), row)))))(x)
  seen = np.flatnonzero(np.abs(grad).reshape(len(x), -1).max(axis=1))
  return seen[0], seen[-1]


@pytest.mark.parametrize("patch", [1, 4])
def test_contexts_are_what_the_network_sees(patch, awaken):
  model = SMALL.clone(patch=patch)
  hop, count = model.hop, 61
  assert hop == patch * SMALL.hop
  params = awaken(jax.eval_shape(model.init, jax.random.key(0), wave_of(hop))["params"])
  encode = lambda w: model.apply({"params": params}, w[None], method="encode")[0][0]  # noqa: E731
  first, last = reach(encode, wave_of(count * hop)[0], 30)
  before, after = 30 - first // hop, last // hop - 30
  assert max(before, after) == model.encoder_context

  decode = lambda z: model.apply({"params": params}, z[None], method="decode")[0]  # noqa: E731
  latent = np.random.default_rng(1).standard_normal((count, 3)).astype(np.float32)
  block = lambda y, row: y[row * hop : (row + 1) * hop]  # noqa: E731
  first, last = reach(decode, latent, 30, block)
  assert max(30 - first, last - 30) == model.decoder_context
  assert (DACVAE().encoder_context, DACVAE().decoder_context) == (6, 8)


def test_what_cannot_be_is_told(params):
  latent = jnp.zeros((1, 2, 3))
  for length in (0, 17):
    with pytest.raises(UserError, match=f"2 latents cannot be decoded to {length} samples"):
      SMALL.apply({"params": params}, latent, length=length, method="decode")
  wave = jax.ShapeDtypeStruct((1, 16), jnp.float32)
  for fields, message in (
    ({"rates": (2, 3)}, r"rates \(2, 3\); give even ones"),
    ({"rates": ()}, "give even ones"),
    ({"decoder_channels": 6}, "6 decoder_channels; give a multiple of 4"),
    ({"patch": 3}, "patch 3; give 1 or an even number"),
  ):
    with pytest.raises(UserError, match=message):
      jax.eval_shape(SMALL.clone(**fields).init, jax.random.key(0), wave)


@pytest.mark.slow
def test_training_starts_from_quiet_sounds_and_small_latents():
  """Without a norm, residual branches as strong as what they add to had ended in noise."""
  model = DACVAE(channels=8, hidden=32, decoder_channels=64, latent=16)
  wave = 0.2 * wave_of(2 * model.hop)
  params = unbox(jax.jit(model.init)(jax.random.key(0), wave))
  decoded, mean, logvar = jax.jit(model.apply)(params, wave)
  assert np.abs(decoded).max() < 0.5 and decoded.std() > 1e-4
  assert mean.std() < 2 and 0.2 < np.exp(logvar / 2).mean() < 2


@pytest.mark.slow
def test_one_device_equals_eight(awaken):
  model, wave = SMALL.clone(rates=(2,)), wave_of(32, batch=8)
  params = awaken(jax.eval_shape(model.init, jax.random.key(0), wave)["params"])

  def loss(params, wave):
    decoded, mean, logvar = model.apply({"params": params}, wave)
    return jnp.mean(jnp.square(decoded - wave)) + 1e-3 * jnp.mean(mean**2 + logvar**2)

  step = jax.jit(jax.value_and_grad(loss))
  value, grads = step(params, wave)
  with use_mesh(make_mesh((2, 2, 2, 1))) as mesh:
    sharded, sharded_grads = step(params, jax.device_put(wave, batch_sharding(mesh)))
  np.testing.assert_allclose(sharded, value, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(sharded_grads), jax.tree.leaves(grads), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 * max(1.0, float(jnp.abs(b).max())))
