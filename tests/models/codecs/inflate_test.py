"""Inflation: what an image autoencoder knows is kept, and what is new does nothing yet."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.tree import flatten_paths
from mg_jax.models.codecs.inflate import TEMPORAL, inflate
from mg_jax.models.codecs.tae import TAE

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "latent": 4, "groups": 4}
IMAGE, VIDEO = TAE(**SMALL, temporal=False), TAE(**SMALL)


@pytest.fixture(scope="module")
def image(awaken):
  frame = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), jnp.float32)
  return awaken(jax.eval_shape(IMAGE.init, jax.random.key(0), frame)["params"])


@pytest.fixture(scope="module")
def inflated(image):
  return inflate(image, VIDEO, key=jax.random.key(2))


def test_every_array_is_kept_and_what_is_added_is_temporal(image, inflated):
  before, after = flatten_paths(image), flatten_paths(inflated)
  for path, leaf in before.items():
    np.testing.assert_array_equal(after[path], leaf)
  added = set(after) - set(before)
  assert added and all("/temporal/" in path or "/time/" in path for path in added)
  kernel = after["encoder_in/temporal/kernel"]
  np.testing.assert_array_equal(kernel, np.stack([np.zeros((8, 8)), np.eye(8), np.zeros((8, 8))]))
  assert not np.any(after["decoder_middle/time/out/kernel"])
  assert np.any(after["decoder_middle/time/query/kernel"]), "only the output starts at zero"


def test_each_latent_is_that_of_its_first_frame_and_each_frame_that_of_its_latent(image, inflated):
  video = jax.random.uniform(jax.random.key(1), (1, 5, 8, 8, 3), minval=-1.0)
  got, mean, logvar = jax.jit(VIDEO.apply)({"params": inflated}, video)
  wanted, image_mean, image_logvar = jax.jit(IMAGE.apply)({"params": image}, video)
  assert mean.shape[1] == 3
  np.testing.assert_allclose(mean, image_mean[:, ::2], atol=1e-5)
  np.testing.assert_allclose(logvar, image_logvar[:, ::2], atol=1e-5)
  scale = float(jnp.abs(wanted).max())
  np.testing.assert_allclose(got, wanted[:, jnp.array([0, 0, 2, 2, 4])], atol=1e-5 * scale)


def test_the_new_layers_learn(inflated):
  video = jax.random.uniform(jax.random.key(1), (1, 4, 8, 8, 3), minval=-1.0)

  def loss(params):
    return jnp.mean(jnp.square(VIDEO.apply({"params": params}, video)[0] - video))

  gradients = flatten_paths(jax.jit(jax.grad(loss))(inflated))
  for path in ("encoder_in/temporal/kernel", "decoder_middle/time/out/kernel"):
    assert float(jnp.abs(gradients[path]).max()) > 0


def test_another_network_is_refused(image, inflated):
  with pytest.raises(UserError, match="first decoder_in/spatial/kernel"):
    inflate(image, VIDEO.clone(latent=5), key=jax.random.key(0))
  with pytest.raises(UserError, match="first decoder_middle/space/key/bias"):
    inflate(image, VIDEO.clone(attention=False), key=jax.random.key(0))
  without = {name: tree for name, tree in image.items() if name != "encoder_norm"}
  with pytest.raises(UserError, match="encoder_norm/bias"):
    inflate(without, VIDEO, key=jax.random.key(0))
  with pytest.raises(UserError, match="temporal"):
    inflate(inflated, IMAGE, key=jax.random.key(0))


def test_the_pattern_finds_temporal_parameters_only(image, inflated):
  found = {path for path in flatten_paths(inflated) if re.search(TEMPORAL, path)}
  assert found == set(flatten_paths(inflated)) - set(flatten_paths(image))
