"""Frozen vision towers: features of frames, batch by batch, and folders that hold none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.models.encoders.clip import CLIP, normalise
from mg_jax.models.encoders.t5 import T5Encoder
from mg_jax.models.encoders.vision import FrozenVision
from mg_jax.models.weights import converted, published

TOWER = {"width": 8, "layers": 1, "heads": 2, "mlp_dim": 8, "projection": 6}
FIELDS = {"text": TOWER | {"vocab": 300, "end": 1}, "vision": TOWER | {"size": 8, "patch": 4}}
T5 = {"width": 8, "layers": 1, "heads": 1, "head_dim": 8, "mlp_dim": 8}


def save(folder):
  """A small CLIP in a folder of converted weights; returns it and its parameters."""
  model = configs.build(CLIP, FIELDS)
  ids = jnp.ones((1, 4), jnp.int32)
  params = unbox(model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), ids, ids > 0)["params"])
  published.save(folder, "clip", FIELDS, params)
  return model, params


def test_features_are_those_of_the_tower_at_unit_length(tmp_path):
  model, params = save(tmp_path / "clip")
  vision = FrozenVision(tmp_path / "clip")
  assert (vision.size, vision.features) == (8, 6)
  # More than one call, the last of which is filled up.
  frames = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), np.uint8)
  found = vision(frames)
  assert found.shape == (70, 6) and found.dtype == np.float16
  pixels = normalise(jnp.asarray(frames, jnp.float32) / 255)
  pooled = model.apply({"params": params}, pixels, method="encode_image").pooled
  wanted = pooled / jnp.linalg.norm(pooled, axis=1, keepdims=True)
  np.testing.assert_allclose(found, wanted, atol=1e-3)
  np.testing.assert_array_equal(vision(frames[40:41]), found[40:41])
  assert vision(frames[:0]).shape == (0, 6)
  assert vision.identity() == converted.digest(tmp_path / "clip")


def test_a_folder_without_a_tower_is_told(tmp_path):
  model = T5Encoder(**T5)
  ids = jnp.ones((1, 4), jnp.int32)
  params = unbox(model.init(jax.random.key(0), ids, ids > 0)["params"])
  published.save(tmp_path / "t5", "t5", T5, params)
  with pytest.raises(UserError, match="has no CLIP"):
    FrozenVision(tmp_path / "t5")
  with pytest.raises(UserError):
    FrozenVision(tmp_path / "nowhere")
