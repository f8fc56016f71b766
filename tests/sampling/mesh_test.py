"""A clip sampled on a mesh of eight devices is that of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import config as configs
from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.sharding import placed, replicate
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.encoders.streams import open_streams
from mg_jax.models.generator import Generator
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.sampling.settings import Settings
from tests.sampling.networks import filled
from tests.train import tiny

MESHES = (8, 1, 1, 1), (1, 8, 1, 1), (1, 2, 2, 2)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  """A generator that divides over two tensor devices, its inputs, and its autoencoder."""
  config = tiny.t2v(tmp_path_factory.mktemp("run"))
  model = configs.build(Generator, config["model"], where="model")
  autoencoder = TAE(channels=4, multipliers=(1,), patch=(4, 4, 4), latent=2, groups=2)
  cond = {"text": {"ids": jnp.zeros((1, 12), jnp.int32), "mask": jnp.ones((1, 12), bool)}}
  args = jnp.zeros((1, 1, 4, 4, 2)), jnp.zeros(1), cond
  decoder = filled(autoencoder, jnp.zeros((1, 4, 16, 16, 3)), seed=1)
  text = open_streams(config["text"], routes=model.routes(), trained=model.text_encoders())
  return model, args, filled(model, *args), autoencoder, decoder, text


def _pipeline(parts, mesh=None):
  model, args, params, autoencoder, decoder, text = parts
  if mesh:
    with use_mesh(mesh):
      shapes = placed(jax.eval_shape(model.init, jax.random.key(0), *args)["params"], mesh)
    params = jax.tree.map(lambda a, s: jax.device_put(a, s.sharding), params, shapes)
    decoder = replicate(decoder, mesh)
  return TextToVideo(
    model=model, params=params, autoencoder=autoencoder, autoencoder_params=decoder,
    mean=np.full(2, 0.1, np.float32), std=np.full(2, 0.5, np.float32),
    settings=Settings(frames=8, height=16, width=16, fps=8, steps=4, guidance=3.0), batch=2,
    text=text, mesh=mesh,
  )  # fmt: skip


@pytest.fixture(scope="module")
def alone(parts):
  pipeline = _pipeline(parts)
  return pipeline, pipeline._latents(["a red ball", "a blue box"], [5, 6], pipeline.settings)


@pytest.mark.parametrize("shape", MESHES)
def test_latents_and_clips_are_those_of_one_device(shape, parts, alone):
  one, wanted = alone
  pipeline = _pipeline(parts, make_mesh(shape))
  ways = shape[0] * shape[1]
  assert pipeline.batch == max(2, ways // 2)  # both branches of a clip may be on two devices
  latents = pipeline._latents(["a red ball", "a blue box"], [5, 6], pipeline.settings)
  assert len(latents.sharding.device_set) == 8
  np.testing.assert_allclose(np.asarray(latents)[:2], np.asarray(wanted), atol=1e-4)
  clips = pipeline(["a red ball", "a blue box", ""], seeds=[5, 6, 7])
  reference = one(["a red ball", "a blue box", ""], seeds=[5, 6, 7])
  assert clips.shape == reference.shape
  assert np.abs(clips.astype(int) - reference).max() <= 1


def test_weights_are_spread_over_the_mesh(parts):
  params = _pipeline(parts, make_mesh((1, 8, 1, 1))).params
  spread = [a for a in jax.tree.leaves(params) if not a.sharding.is_fully_replicated]
  assert sum(a.size for a in spread) > 0.5 * sum(a.size for a in jax.tree.leaves(params))
