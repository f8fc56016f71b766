"""Text streams with frozen encoders: what fits, what they give, how they are told apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.models import conditioning
from mg_jax.models.encoders.clip import CLIP, TextTower, VisionTower
from mg_jax.models.encoders.streams import open_streams
from mg_jax.models.encoders.t5 import T5Encoder
from mg_jax.models.weights import converted, published

T5 = {"vocab": 384, "width": 8, "layers": 1, "heads": 2, "head_dim": 4, "mlp_dim": 8}
TEXT = {
  "vocab": 259, "length": 12, "width": 6, "layers": 1, "heads": 2, "mlp_dim": 8, "projection": 4,
  "end": 1,
}
VISION = {"size": 8, "patch": 4, "width": 6, "layers": 1, "heads": 2, "mlp_dim": 8, "projection": 4}
TRAINED = {"own": {"width": 5}}
IDS = jax.ShapeDtypeStruct((1, 4), jnp.int32), jax.ShapeDtypeStruct((1, 4), jnp.bool_)


def _routes(**features):
  return conditioning.table({n: {"kind": "cross", "features": f} for n, f in features.items()})


@pytest.fixture
def folders(tmp_path, awaken):
  """Converted folders of a byte-level T5 and a byte-level CLIP, with random weights."""
  t5, clip = T5Encoder(**T5), CLIP(TextTower(**TEXT), VisionTower(**VISION))
  image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  trees = {
    "t5": (T5, jax.eval_shape(t5.init, jax.random.key(0), *IDS)),
    "clip": (
      {"text": TEXT, "vision": VISION}, jax.eval_shape(clip.init, jax.random.key(0), image, *IDS)
    ),
  }  # fmt: skip
  for kind, (fields, tree) in trees.items():
    published.save(tmp_path / kind, kind, fields, awaken(unbox(tree)["params"]))
  return {kind: str(tmp_path / kind) for kind in trees}


@pytest.fixture
def streams(folders):
  text = {
    "ul2": {"encoder": folders["t5"], "length": 10},
    "metaclip": {"encoder": folders["clip"], "length": 12, "cache": False},
    "own": {"length": 7, "reads": "quoted"},
  }
  return open_streams(text, routes=_routes(ul2=8, metaclip=6, own=5), trained=TRAINED)


def _tokens(streams, *prompts):
  rows = {name: [reader(p) for p in prompts] for name, reader in streams.readers.items()}
  return {
    name: {key: jnp.stack([row[key] for row in rows[name]]) for key in ("ids", "mask")}
    for name in rows
  }


def test_frozen_streams_become_features_and_the_trained_one_stays_ids(streams):
  assert streams.frozen == ("metaclip", "ul2") and streams.cached == ("ul2",)
  loaded, tokens = streams.load(), _tokens(streams, "a dog", 'a "B"')
  out = jax.jit(loaded.encode)(loaded.params, tokens | {"latent": np.ones(2)})
  assert out["ul2"]["features"].shape == (2, 10, 8)
  assert out["metaclip"]["features"].shape == (2, 12, 6)
  np.testing.assert_array_equal(out["own"]["ids"], tokens["own"]["ids"])
  np.testing.assert_array_equal(out["ul2"]["mask"], tokens["ul2"]["mask"])
  np.testing.assert_array_equal(out["latent"], np.ones(2))
  t5, params = converted.load(streams.readers["ul2"].config.encoder)
  want = t5.apply({"params": params}, tokens["ul2"]["ids"], tokens["ul2"]["mask"])
  np.testing.assert_allclose(out["ul2"]["features"], want, atol=1e-6)


def test_streams_of_which_no_encoder_is_loaded_pass_through(streams):
  tokens = _tokens(streams, "a dog")
  only = streams.load(names=("metaclip",))
  out = only.encode(only.params, tokens)
  assert "ids" in out["ul2"] and "features" in out["metaclip"]


def test_identity_is_that_of_cached_streams_and_changes_with_weights_and_reading(
  streams, folders, tmp_path
):
  identity = streams.identity()
  assert set(identity) == {"ul2"} and identity["ul2"]["length"] == 10
  module, params = converted.load(folders["t5"])
  changed = jax.tree.map(lambda x: x + 1e-3, params)
  published.save(tmp_path / "other", "t5", T5, changed)
  routes = _routes(ul2=8)
  for fields in ({"encoder": str(tmp_path / "other")}, {"reads": "quoted"}, {"length": 11}):
    text = {"ul2": {"encoder": folders["t5"], "length": 10} | fields}
    assert open_streams(text, routes=routes, trained={}).identity() != identity


@pytest.mark.parametrize(
  "text, message",
  [
    ({"ul3": {}}, "text.ul3 has no route"),
    ({"own": {"encoder": "t5"}}, "model.encoders.own trains one"),
    ({"own": {}, "ul2": {}}, "text.ul2.encoder is empty"),
    ({"ul2": {"encoder": "t5"}}, "no 'own', which model.encoders trains"),
    ({"own": {}, "ul2": {"encoder": "clip", "length": 9}}, "has features of 6"),
    ({"own": {}, "metaclip": {"encoder": "clip", "length": 13}}, "takes 12 tokens"),
    ({"own": {}, "ul2": {"encoder": "nowhere"}}, "has no config.json"),
    ({"own": {"tokens": 3}}, "text.own has no field 'tokens'"),
  ],
)
def test_what_does_not_fit_is_told(folders, text, message):
  text = {
    name: fields | {"encoder": folders.get(fields["encoder"], fields["encoder"])}
    if "encoder" in fields
    else fields
    for name, fields in text.items()
  }
  with pytest.raises(UserError, match=message):
    open_streams(text, routes=_routes(ul2=8, metaclip=6, own=5), trained=TRAINED)
