"""A text-to-video run and the run of its autoencoder, with small random parameters."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.config import build
from mg_jax.core.sharding import unbox
from mg_jax.core.tree import fingerprint
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.generator import Generator
from mg_jax.train.checkpoint import Checkpointer

TAE_FIELDS = {
  "channels": 4, "multipliers": [1, 1], "patch": [4, 4, 4], "blocks": 1, "latent": 4, "groups": 2,
  "attention": False,
}
GENERATOR_FIELDS = {
  "dit": {
    "channels": 4, "patch": [1, 1, 1], "width": 8, "layers": 1, "heads": 1, "mlp_dim": 8,
    "max_thw": [2, 3, 3], "routes": {"text": {"kind": "cross", "features": 8}},
  },
  "encoders": {
    "text": {"kind": "t5", "width": 8, "layers": 1, "heads": 1, "head_dim": 8, "mlp_dim": 8}
  },
}
SAMPLING = {"frames": 9, "height": 16, "width": 16, "fps": 8.0, "steps": 2, "guidance": 2.0}


def save(folder, role, params, config, step=3, ema=True):
  saver = Checkpointer(str(folder))
  averaged = jax.tree.map(lambda a: a + 0.01, params)
  state = {"params": {role: params}} | ({"ema": {role: averaged}} if ema else {})
  saver.save(step, state, data={}, config=config)
  saver.close()
  return averaged if ema else params


@pytest.fixture(scope="module")
def weights():
  tae, model = build(TAE, TAE_FIELDS), build(Generator, GENERATOR_FIELDS)
  text = {"ids": jnp.zeros((1, 16), jnp.int32), "mask": jnp.ones((1, 16), bool)}
  key, rng = jax.random.key(0), np.random.default_rng(0)
  # Shapes alone: running the initialisers would take most of the time of this file.
  shapes = {
    "autoencoder": jax.eval_shape(tae.init, key, jnp.zeros((1, 1, 8, 8, 3))),
    "model": jax.eval_shape(
      model.init, key, jnp.zeros((1, 1, 1, 1, 4)), jnp.zeros((1,)), {"text": text}
    ),
  }
  draw = lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype)  # noqa: E731
  return {role: jax.tree.map(draw, unbox(tree["params"])) for role, tree in shapes.items()}


@pytest.fixture
def run(tmp_path, weights):
  """A text-to-video run and the run of its autoencoder, as training leaves them."""
  tae_folder, folder = tmp_path / "tae", tmp_path / "t2v"
  config = {"stage": "autoencoding", "model": TAE_FIELDS}
  tae_params = save(tae_folder, "autoencoder", weights["autoencoder"], config)
  config = {
    "stage": "flow_matching", "model": GENERATOR_FIELDS, "autoencoder": str(tae_folder),
    "sampling": SAMPLING, "text": {"text": {"length": 16}},
  }
  save(folder, "model", weights["model"], config)
  (folder / "latents").mkdir()
  metadata = {
    "mean": [0.1, 0.2, 0.3, 0.4], "std": [1.0, 2.0, 3.0, 4.0], "autoencoder": str(tae_folder),
    "fingerprint": fingerprint(tae_params),
  }
  (folder / "latents" / "manifest.json").write_text(json.dumps({"metadata": metadata}))
  return folder
