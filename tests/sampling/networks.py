"""Small networks of the samplers, filled with random values."""

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.mesh import use_mesh
from mg_jax.core.sharding import placed, unbox
from mg_jax.core.tree import map_paths
from mg_jax.data import condition_section
from mg_jax.models.codecs.chunking import ChunkedCodec
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.encoders.streams import open_streams
from mg_jax.models.generator import from_config
from mg_jax.sampling.sound_request import SoundSettings
from mg_jax.sampling.soundtrack import Soundtrack
from tests.train import tiny

RATE = 16_000
CODEC = {
  "channels": 2, "rates": (8, 8, 10), "hidden": 4, "decoder_channels": 8, "latent": 3,
  "sample_rate": RATE,
}  # fmt: skip
SETTINGS = SoundSettings(steps=2, candidates=1, window_s=1.0)


def filled(module, *args, seed=0):
  """Parameters of a module, none of them zero, as zeros would hide what they multiply."""
  shapes = unbox(jax.eval_shape(module.init, jax.random.key(0), *args)["params"])
  draws = np.random.default_rng(seed)
  return map_paths(
    lambda path, leaf: jnp.asarray(
      path.endswith("scale") + 0.2 * draws.standard_normal(leaf.shape), leaf.dtype
    ),
    shapes,
  )


def on_mesh(module, args, params, mesh):
  """Parameters of a module on their shards; as they are without a mesh."""
  if mesh is None:
    return params
  with use_mesh(mesh):
    shapes = placed(jax.eval_shape(module.init, jax.random.key(0), *args)["params"], mesh)
  return jax.tree.map(lambda a, s: jax.device_put(a, s.sharding), params, shapes)


def soundtrack(folder, mesh=None, conditions=None):
  """Text, video, context and other conditions; `folder` is that of its config."""
  config = tiny.soundtrack(folder) | {"conditions": conditions or {}}
  model, codec = from_config(config), DACVAE(**CODEC)
  text = open_streams(config["text"], routes=model.routes(), trained=model.text_encoders())
  cond = {
    "video": {
      "image": jnp.zeros((1, 2, 16, 16, 3), jnp.uint8), "at": jnp.zeros((1, 4), jnp.int32),
      "mask": jnp.ones((1, 4), bool),
    },
    "text": {"ids": jnp.zeros((1, 12), jnp.int32), "mask": jnp.ones((1, 12), bool)},
    "context": jnp.zeros((1, 4, 1, 1, 3)),
  }  # fmt: skip
  others = condition_section.build(config["conditions"])
  for name, condition in others.items():
    cond[name] = jax.tree.map(lambda a: jnp.asarray(a)[None], condition.null((4, 1, 1)))
  args = jnp.zeros((1, 4, 1, 1, 3)), jnp.zeros(1), cond
  params = on_mesh(model, args, filled(model, *args), mesh)
  decoder = filled(codec, jnp.zeros((1, codec.hop)), seed=1)
  return Soundtrack(
    model=model, params=params, codec=ChunkedCodec(codec, decoder),
    mean=np.zeros(3, np.float32), std=np.ones(3, np.float32), settings=SETTINGS, text=text, side=16,
    mesh=mesh, conditions=others,
  )  # fmt: skip


def frames(start_s, end_s, *, fps=5.0, asked=None):
  """Of a video that grows brighter."""
  if asked is not None:
    asked.append((start_s, end_s))
  at = np.arange(np.ceil(start_s * fps - 1e-6), np.ceil(end_s * fps - 1e-6))
  return np.broadcast_to((40 * at % 256).astype(np.uint8)[:, None, None, None],
                         (len(at), 16, 16, 3)), fps  # fmt: skip
