"""Clips and sounds sampled on a mesh of eight devices are those of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import config as configs
from mg_jax.core.mesh import make_mesh
from mg_jax.core.sharding import replicate
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.codecs.tiling import Tiling
from mg_jax.models.encoders.streams import open_streams
from mg_jax.models.generator import Generator
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.sampling.settings import Settings
from mg_jax.sampling.sound_request import Request
from mg_jax.sampling.soundtrack import Soundtrack
from tests.sampling.networks import filled, frames, on_mesh, soundtrack
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


def _pipeline(parts, mesh=None, **options):
  model, args, params, autoencoder, decoder, text = parts
  params = on_mesh(model, args, params, mesh)
  if mesh:
    decoder = replicate(decoder, mesh)
  return TextToVideo(
    model=model, params=params, autoencoder=autoencoder, autoencoder_params=decoder,
    mean=np.full(2, 0.1, np.float32), std=np.full(2, 0.5, np.float32),
    settings=Settings(frames=8, height=16, width=16, fps=8, steps=4, guidance=3.0), batch=2,
    text=text, mesh=mesh, **options,
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


def test_tiles_of_a_clip_are_those_of_one_device(parts, alone):
  one, latents = alone
  tiles = Tiling(frames=4, overlap=0, side=8, border=4)
  latents = np.asarray(latents)
  clips = [
    _pipeline(parts, mesh, tiling=tiles).decode(latents, one.settings)
    for mesh in (None, make_mesh((1, 2, 2, 2)))
  ]
  np.testing.assert_array_equal(*clips)
  assert np.abs(clips[0].astype(int) - one.decode(latents, one.settings)).max() > 1


# A sound by its length and settings, and rows of a call of the network on a mesh.
SOUNDS = {
  "one window": (0.96, {"candidates": 3}),
  "windows": (2.4, {"candidates": 2, "window_s": 0.96}),
  "segments": (1.6, {"candidates": 2, "window_s": 0.96, "long_form": "autoregressive"}),
}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
  """name -> latents and scores of one device."""
  return functools.cache(
    functools.partial(_sound, soundtrack(tmp_path_factory.mktemp("sound")))
  )


def _sound(pipeline, name):
  seconds, changes = SOUNDS[name]
  known = 0.5 * np.sin(np.arange(8000) / 20).astype(np.float32)
  request = Request(
    seconds, captions=("a bell rings",), video=frames, seed=3, known=known, keep=((0.0, 0.4),)
  )
  return pipeline._latents(request, round(seconds * pipeline.rate), pipeline.resolve(**changes))


@pytest.mark.parametrize("shape, name, rows", [
  ((8, 1, 1, 1), "windows", 16),  # two candidates, three windows and a repeated one, two branches
  ((1, 2, 2, 2), "segments", 4),
  # three candidates, two branches: windows are repeated
  pytest.param((8, 1, 1, 1), "one window", 24, marks=pytest.mark.slow),
  pytest.param((1, 8, 1, 1), "windows", 16, marks=pytest.mark.slow),
  pytest.param((1, 2, 2, 2), "windows", 12, marks=pytest.mark.slow),
])
def test_sounds_are_those_of_one_device(shape, name, rows, sounds, tmp_path, monkeypatch):
  wanted, ranked = sounds(name)
  pipeline, seen = soundtrack(tmp_path, make_mesh(shape)), set()
  apply = Soundtrack._apply

  def counted(self, params, x, t_B, cond):
    seen.add(len(x))
    return apply(self, params, x, t_B, cond)

  monkeypatch.setattr(Soundtrack, "_apply", counted)
  latents, scores = _sound(pipeline, name)
  ways = shape[0] * shape[1]
  assert all(count % ways == 0 for count in seen), f"{seen} rows do not all divide"
  assert max(seen) == rows and latents.shape == wanted.shape
  np.testing.assert_allclose(latents, wanted, atol=1e-4)
  np.testing.assert_allclose(scores, ranked, atol=1e-4)
