"""Evaluation: averaged weights, real rows only, the same noise each time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.train.evals import Evaluator


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
