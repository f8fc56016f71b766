"""Evaluation: averaged weights, real rows only, the same noise each time."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.train.evals import Evaluator, RetrievalEvaluator


class Mean:
  """Reports the mean of a batch's real rows, plus a parameter, plus noise."""

  roles = ("model",)

  def evaluate(self, params, batch, key):
    valid = batch.get("valid", jnp.ones(batch["x"].shape)).astype(jnp.float32)
    mean = jnp.sum(batch["x"] * valid) / jnp.sum(valid)
    return {"mean": mean + params["model"], "noise": jax.random.normal(key)}


def _evaluator(batches):
  mesh = make_mesh((2, 1, 1, 1))
  return Evaluator(Mean(), lambda: batches, mesh, key=jax.random.key(0))


def test_rows_that_fill_up_a_batch_do_not_count():
  full = {"x": np.array([1, 2, 3, 4], np.float32), "valid": np.ones(4, bool)}
  part = {"x": np.array([9, 100, 100, 100], np.float32), "valid": np.array([1, 0, 0, 0], bool)}
  none = {"x": np.full(4, np.nan, np.float32), "valid": np.zeros(4, bool)}
  result = _evaluator([full, part, none]).measure({"model": jnp.float32(0)})
  np.testing.assert_allclose(result["eval/mean"], (1 + 2 + 3 + 4 + 9) / 5, rtol=1e-6)


def test_the_averaged_weights_are_measured_with_fixed_noise(toy):
  evaluator = _evaluator([{"x": np.zeros(4, np.float32)}] * 2)
  state = toy.setup().state.replace(params={"model": jnp.float32(1)}, ema={"model": jnp.float32(5)})
  first, second = evaluator(state, 1), evaluator(state, 2)
  assert first == second and first["eval/mean"] == 5.0
  assert evaluator(state.replace(ema=None), 1)["eval/mean"] == 1.0
  single = _evaluator([{"x": np.zeros(4, np.float32)}]).measure({"model": jnp.float32(0)})
  assert single["eval/noise"] != first["eval/noise"], "each batch has noise of its own"


def test_nothing_to_measure_is_an_error():
  with pytest.raises(UserError, match="no rows"):
    _evaluator([]).measure({"model": jnp.float32(0)})


def test_an_objective_is_measured_as_it_is_trained(toy):
  s = toy.setup()
  batches = [next(toy.Stream())]
  evaluator = Evaluator(s.objective, lambda: batches, s.mesh, key=jax.random.key(0), prefix="val")
  result = evaluator(s.state, 0)
  want = s.objective.evaluate(s.state.ema, {k: batches[0][k] for k in ("x", "y")}, s.key)["mse"]
  np.testing.assert_allclose(result["val/mse"], want, rtol=1e-5)


def _retrieval(batches, name="short"):
  features = lambda params, batch: (params["model"] * batch["image"], batch["points"])  # noqa: E731
  return RetrievalEvaluator(features, lambda: batches, make_mesh((2, 1, 1, 1)), name=name)


def _points(image, ids, valid=(1, 1, 1, 1)):
  """Texts are the axes; images those of the given numbers."""
  rows = np.asarray(ids, np.int32)[:, None]
  return {
    "image": np.eye(8, dtype=np.float32)[list(image)], "valid": np.array(valid, bool),
    "points": np.eye(8, dtype=np.float32)[list(ids)], "text": {"ids": rows},
  }  # fmt: skip


def test_retrieval_is_among_all_batches(toy, caplog):
  """Images 1 and 5 find each other's captions, which are in different batches."""
  first = _points([0, 5, 2, 3], [0, 1, 2, 3])
  second = _points([4, 1, 6, 6], [4, 5, 6, 6], valid=(1, 1, 1, 0))
  state = toy.setup().state.replace(params={"model": jnp.nan}, ema={"model": jnp.float32(2)})
  with caplog.at_level(logging.INFO, "mg_jax"):
    result = _retrieval([first, second])(state, 40)
  recall = {"recall/short/image_to_text": 5 / 7, "recall/short/text_to_image": 5 / 7}
  assert result == recall | {"recall/short/duplicates": 0, "recall/short/n": 7}
  assert caplog.messages == [
    "step 40: recall@1 over 7 held-out captions (short, 0 repeated): image to text 71.4% "
    "[35.9%, 91.8%], text to image 71.4% [35.9%, 91.8%]"
  ]


def test_repeated_captions_are_counted_and_no_rows_are_an_error():
  found = _retrieval([_points([0, 1, 2, 3], [0, 0, 2, 3])]).measure({"model": jnp.float32(1)})
  assert found.duplicates == 1 and found.compute()["text_to_image"].passed == 4
  with pytest.raises(UserError, match="no rows"):
    _retrieval([]).measure({"model": jnp.float32(1)})
