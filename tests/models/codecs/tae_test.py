import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.sharding import unbox
from mg_jax.models.codecs.tae import TAE, depth_to_space, space_to_depth

SMALL = {"channels": 8, "multipliers": (1, 1, 2, 2), "blocks": 1, "latent": 4, "groups": 4}


def params_of(model, frames=9, size=16, seed=0):
  video = jnp.zeros((1, frames, size, size, 3))
  return unbox(jax.jit(model.init)(jax.random.key(seed), video))


def video_of(frames, size=16, batch=1, seed=1):
  return jax.random.uniform(
    jax.random.key(seed), (batch, frames, size, size, 3), minval=-1.0, maxval=1.0
  )


@pytest.fixture(scope="module")
def small():
  model = TAE(**SMALL)
  return model, params_of(model)


@pytest.mark.smoke
@pytest.mark.parametrize("frames", [1, 7, 8, 9, 17])
def test_any_length_gives_an_eighth_rounded_up_and_comes_back_exactly(small, frames):
  model, params = small
  decoded, mean, logvar = jax.jit(model.apply)(params, video_of(frames))
  assert mean.shape == logvar.shape == (1, -(-frames // 8), 2, 2, 4)
  assert decoded.shape == (1, frames, 16, 16, 3)
  assert model.latent_shape(frames, 16, 16) == mean.shape[1:]


@pytest.mark.parametrize("frames", [256, 33, 32])
def test_lengths_of_the_paper(frames):
  assert TAE().latent_shape(frames, 768, 768) == (-(-frames // 8), 96, 96, 16)


def test_frame_wise_variant_gives_a_latent_for_each_frame_and_treats_each_alone():
  model = TAE(**SMALL, temporal=False)
  params = params_of(model, frames=1)
  video = video_of(3)
  run = jax.jit(model.apply)
  decoded, mean, logvar = run(params, video)
  assert mean.shape == logvar.shape == (1, 3, 2, 2, 4) == (1, *model.latent_shape(3, 16, 16))
  assert decoded.shape == video.shape
  for alone, together in zip(run(params, video[:, 1:2]), (decoded, mean, logvar), strict=True):
    np.testing.assert_allclose(together[:, 1:2], alone, atol=1e-5)
  with pytest.raises(UserError, match="3 latent frames cannot be decoded to 4"):
    model.apply(params, mean, frames=4, method="decode")


def test_a_frame_wise_variant_with_patches_of_several_frames_is_refused():
  fields = SMALL | {"multipliers": (1, 1), "temporal": False}
  with pytest.raises(UserError, match=r"patches of 4 frames; set patch to \(1, 4, 4\)"):
    jax.eval_shape(TAE(**fields, patch=(4, 4, 4)).init, jax.random.key(0), video_of(4))
  model = TAE(**fields, patch=(1, 4, 4), shortcut=True)
  decoded, mean, _ = jax.jit(model.apply)(params_of(model, frames=2), video_of(5))
  assert mean.shape == (1, 5, 2, 2, 4) and decoded.shape == (1, 5, 16, 16, 3)


def test_patch_stem_keeps_the_compression():
  model = TAE(**(SMALL | {"multipliers": (1, 1), "patch": (4, 4, 4)}))
  assert model.factors == (8, 8, 8)
  decoded, mean, _ = jax.jit(model.apply)(params_of(model, frames=11), video_of(11))
  assert mean.shape == (1, 2, 2, 2, 4) and decoded.shape == (1, 11, 16, 16, 3)


def test_space_to_depth_round_trip():
  x = jnp.arange(2 * 4 * 4 * 4 * 3.0).reshape(2, 4, 4, 4, 3)
  y = space_to_depth(x, (2, 4, 2))
  assert y.shape == (2, 2, 1, 2, 48)
  np.testing.assert_array_equal(y[0, 0, 0, 0].reshape(2, 4, 2, 3), x[0, :2, :4, :2])
  np.testing.assert_array_equal(depth_to_space(y, (2, 4, 2)), x)


def test_sizes_that_do_not_fit_are_told(small):
  model, params = small
  with pytest.raises(UserError, match="multiples of 8; the nearest size is 24x16"):
    model.apply(params, jnp.zeros((1, 8, 21, 16, 3)), method="encode")
  with pytest.raises(UserError, match="2 latent frames cannot be decoded to 17"):
    model.apply(params, jnp.zeros((1, 2, 2, 2, 4)), frames=17, method="decode")


def test_replicate_padding_makes_a_still_video_the_same_at_every_length(small):
  model, params = small
  # Temporal weights away from the identity: zero padding would now show at the ends.
  params = jax.tree.map(lambda p: p + 0.02, params)
  still = jnp.broadcast_to(video_of(1), (1, 16, 16, 16, 3))
  encode = jax.jit(lambda v: model.apply(params, v, method="encode")[0])
  one = encode(still[:, :1])
  np.testing.assert_allclose(encode(still), jnp.repeat(one, 2, axis=1), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 1, 1, 1), (1, 2, 2, 2)])
def test_one_device_equals_eight(small, shape):
  model, params = small
  video = video_of(4, batch=8)

  def loss(params, video):
    return jnp.mean(jnp.square(model.apply(params, video)[0] - video))

  step = jax.jit(jax.value_and_grad(loss))
  value, grads = step(params, video)
  with use_mesh(make_mesh(shape)) as mesh:
    from mg_jax.core.sharding import batch_sharding

    sharded, sharded_grads = step(params, jax.device_put(video, batch_sharding(mesh)))
  np.testing.assert_allclose(sharded, value, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(sharded_grads), jax.tree.leaves(grads), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(jnp.abs(b).max())))


def test_shortcut_starts_as_the_best_linear_autoencoder():
  model = TAE(**(SMALL | {"multipliers": (1, 1), "patch": (4, 4, 4), "shortcut": True}))
  # Blocks of four fixed patterns with random weights: four channels can hold them exactly.
  patterns = jax.random.normal(jax.random.key(5), (4, 8 * 8 * 8 * 3)) * 0.1
  weights = jax.random.normal(jax.random.key(6), (16, 2, 2, 2, 4))
  video = depth_to_space(weights @ patterns, (8, 8, 8))
  params = jax.jit(model.init)(jax.random.key(0), video[:1])["params"]
  fitted = unbox(model.fit_shortcut(params, video))
  decoded, mean, _ = jax.jit(model.apply)({"params": fitted}, video)
  np.testing.assert_allclose(decoded, video, atol=1e-3)
  np.testing.assert_allclose(jnp.std(mean, axis=(0, 1, 2, 3)), 1.0, atol=1e-3)
  unfitted, _, _ = jax.jit(model.apply)({"params": unbox(params)}, video)
  assert float(jnp.mean(jnp.square(unfitted - video))) > 0.01


def test_shortcut_fits_a_batch_of_fewer_positions_than_channels():
  model = TAE(**(SMALL | {"multipliers": (1, 1), "patch": (4, 4, 4), "shortcut": True}))
  video = video_of(8, size=8, batch=2)
  params = jax.jit(model.init)(jax.random.key(0), video[:1])["params"]
  fitted = unbox(model.fit_shortcut(params, video))
  shapes = jax.tree.map(jnp.shape, unbox(params))
  assert jax.tree.map(jnp.shape, fitted) == shapes
  assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(fitted))


def test_shortcut_fits_under_tracing_and_keeps_its_logical_axes():
  model = TAE(**(SMALL | {"multipliers": (1, 1), "patch": (4, 4, 4), "shortcut": True}))
  video = jax.ShapeDtypeStruct((2, 8, 16, 16, 3), jnp.float32)

  def init(video):
    params = model.init(jax.random.key(0), video[:1])["params"]
    return params, model.fit_shortcut(params, video)

  before, after = jax.eval_shape(init, video)
  assert jax.tree.structure(before) == jax.tree.structure(after)
