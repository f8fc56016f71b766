"""The contrastive objective: its loss, its recall, and the same result on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.sharding import unbox
from mg_jax.data.text.prompts import encode_bytes
from mg_jax.losses.contrastive import contrastive_loss
from mg_jax.models.encoders.clip import CLIP, TextTower, VisionTower
from mg_jax.objectives.base import Objective
from mg_jax.objectives.contrastive import Contrastive
from mg_jax.train.feed import place_batch

WORDS = ("red star", "blue ring", "two discs", "a cross", "a box", "four hoops", "stars", "red box")
TOWER = {"width": 16, "layers": 1, "heads": 2, "mlp_dim": 16, "projection": 8}
MODEL = CLIP(
  TextTower(vocab=259, length=12, end=1, **TOWER), VisionTower(size=8, patch=4, **TOWER)
)


def _batch(words=WORDS, **extra):
  ids, mask = zip(*(encode_bytes(word, 12) for word in words), strict=True)
  image = np.random.default_rng(0).integers(0, 256, (len(words), 8, 8, 3), np.uint8)
  text = {"ids": np.stack(ids), "mask": np.stack(mask)}
  return {"image": image, "text": text, "index": np.arange(len(words), dtype=np.int32)} | extra


@pytest.fixture(scope="module")
def params():
  shapes = jax.eval_shape(Contrastive(MODEL).init, jax.random.key(0), _batch())
  rng = np.random.default_rng(1)
  draw = lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), a.dtype)  # noqa: E731
  params = jax.tree.map(draw, unbox(shapes))
  return {"model": params["model"] | {"logit_scale": jnp.float32(2.0)}}


def _loss(params, batch, objective=None):
  objective = objective or Contrastive(MODEL)
  key = jax.random.key(0)
  return objective.loss("model", params, batch, key, jnp.int32(0), {"from": "before"})


def test_it_is_an_objective_and_init_traces():
  objective = Contrastive(MODEL)
  assert isinstance(objective, Objective) and objective.roles == ("model",)
  boxed = jax.eval_shape(objective.init, jax.random.key(0), _batch())
  assert set(boxed["model"]) == {"text", "vision", "logit_scale"}


def test_the_loss_is_that_of_the_models_own_logits(params):
  batch = _batch()
  loss, (metrics, carry) = _loss(params, batch)
  pixels = batch["image"] / np.float32(255)
  mean, std = (np.array(v, np.float32) for v in (  # as published
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))  # fmt: skip
  inputs = ((pixels - mean) / std, batch["text"]["ids"], batch["text"]["mask"])
  logits = MODEL.apply({"params": params["model"]}, *map(jnp.asarray, inputs))
  own = jnp.diagonal(logits)
  expected = jnp.mean(
    0.5 * (jax.nn.logsumexp(logits, 0) + jax.nn.logsumexp(logits, 1)) - own
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(metrics["scale"], np.exp(2.0), rtol=1e-6)
  assert metrics["loss"] == loss and carry == {"from": "before"}


def test_the_scale_stops_at_a_hundred(params):
  high = {"model": params["model"] | {"logit_scale": jnp.float32(7.0)}}
  full = {"model": params["model"] | {"logit_scale": jnp.float32(np.log(100))}}
  assert _loss(high, _batch())[1][0]["scale"] == pytest.approx(100.0, rel=1e-5)
  np.testing.assert_allclose(_loss(high, _batch())[0], _loss(full, _batch())[0], rtol=1e-5)
  low = dataclasses.replace(Contrastive(MODEL), max_scale=4.0)
  assert _loss(high, _batch(), low)[1][0]["scale"] == pytest.approx(4.0, rel=1e-5)
  with pytest.raises(UserError, match="max_scale is 0"):
    Contrastive(MODEL, max_scale=0.0)


def test_eight_devices_contrast_the_whole_batch(params):
  def run(shape):
    mesh = make_mesh(shape)
    with use_mesh(mesh):
      grad = jax.jit(jax.value_and_grad(lambda p, b: _loss(p, b)[0]))
      return jax.device_get(grad(params, place_batch(_batch(), mesh)))

  (one, slopes), (eight, sharded) = run((1, 1, 1, 1)), run((2, 4, 1, 1))
  np.testing.assert_allclose(eight, one, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5), slopes, sharded)
  # Each device alone would have a single pair, which costs nothing.
  assert one > 0.5


def test_recall_counts_rows_that_choose_their_own(params, monkeypatch):
  """With features at hand: images 0 and 1 are swapped, 2 and 3 right, 4 fills up."""
  basis = jnp.eye(5)
  image = basis[jnp.array([1, 0, 2, 3, 3])]
  monkeypatch.setattr(Contrastive, "features", lambda self, params, batch: (image, basis))
  valid = np.array([1, 1, 1, 1, 0], bool)
  result = Contrastive(MODEL).evaluate(params, _batch(WORDS[:5], valid=valid), jax.random.key(0))
  assert (result["image_to_text"], result["text_to_image"]) == (0.5, 0.5)
  expected = contrastive_loss(image[:4], basis[:4], jnp.float32(2.0))
  np.testing.assert_allclose(result["loss"], expected, rtol=1e-5)
  # The caption of row 0 is that of row 1: either is right for both.
  words = (WORDS[0], WORDS[0], *WORDS[2:5])
  equal = Contrastive(MODEL).evaluate(params, _batch(words, valid=valid), jax.random.key(0))
  assert (equal["image_to_text"], equal["text_to_image"]) == (1.0, 1.0)


@pytest.mark.parametrize(
  "change, words",
  [
    ({"image": np.zeros((8, 12, 12, 3), np.uint8)}, "images are 12x12, the tower takes 8x8"),
    ({"text": {"ids": np.zeros((8, 13), np.int32), "mask": np.ones((8, 13), bool)}},
     "a text of 13 tokens exceeds the 12 of this tower"),
  ],
)  # fmt: skip
def test_batches_that_do_not_fit_the_towers_are_told(change, words):
  with pytest.raises(UserError, match=words):
    jax.eval_shape(Contrastive(MODEL).init, jax.random.key(0), _batch() | change)
