"""Evaluation on held-out batches with the averaged weights.

The objective defines the metrics (validation loss by time bin, reconstruction error); this module
runs it over batches and averages. The random key depends on the batch's number only, so evaluations
at different steps use the same noise and are comparable. Metrics that are not means over rows, such
as retrieval, have their own evaluator.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mg_jax.core import rng
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import use_mesh
from mg_jax.core.sharding import replicated
from mg_jax.core.typing import Array, PyTree
from mg_jax.metrics.retrieval import Retrieval
from mg_jax.objectives.base import Objective
from mg_jax.train.feed import place_batch
from mg_jax.train.state import TrainState

_log = logging.getLogger(__name__)


class Evaluator:
  """Runs an objective's `evaluate` over the same batches every time; a hook of the loop."""

  def __init__(
    self, objective: Objective, batches: Callable[[], Iterable[Mapping[str, Any]]], mesh: Mesh, *,
    key: Array, prefix: str = "eval", preprocess: Callable[[PyTree], PyTree] | None = None,
  ):
    """Prepares an evaluation.

    Args:
      objective: computes the metrics of a batch.
      batches: starts a pass over the held-out numpy batches. An entry "valid", bool (B,), marks the
        real rows of a padded batch; without it every row counts.
      mesh: mesh to run on.
      key: source of the noise.
      prefix: prefix of the metric names.
      preprocess: applied to a batch on its devices before evaluation.
    """
    self._batches, self._mesh, self._key, self._prefix = batches, mesh, key, prefix
    self._preprocess = preprocess or (lambda batch: batch)
    self._run = jax.jit(objective.evaluate)

  def __call__(self, state: TrainState, step: int) -> dict[str, float]:
    """Means over all real rows for the averaged weights of a state; `step` is not used."""
    del step
    return self.measure(state.averaged())

  def measure(self, params: dict[str, PyTree]) -> dict[str, float]:
    """Means over all real rows for {role: params}.

    Raises:
      UserError: if there is no real row.
    """
    totals: dict[str, float] = {}
    weight = 0.0
    for index, batch in enumerate(self._batches()):
      with use_mesh(self._mesh):
        key = rng.stream(self._key, "eval", index)
        placed = self._preprocess(place_batch(batch, self._mesh, whole=True))
        values = jax.device_get(self._run(params, placed, key))
      rows = float(np.sum(batch["valid"])) if "valid" in batch else float(_rows(batch))
      if not rows:
        continue
      weight += rows
      for name, value in values.items():
        totals[name] = totals.get(name, 0.0) + rows * float(value)
    if not weight:
      raise UserError("the evaluation got no rows; check the held-out split")
    return {f"{self._prefix}/{name}": total / weight for name, total in totals.items()}


class RetrievalEvaluator:
  """Recall at 1 over a whole held-out set, images to captions and back; a hook of the loop."""

  def __init__(
    self,
    features: Callable[[Mapping[str, PyTree], Mapping[str, Any]], tuple[Array, Array]],
    batches: Callable[[], Iterable[Mapping[str, Any]]],
    mesh: Mesh,
    *,
    name: str,
  ):
    """Prepares an evaluation.

    Args:
      features: ({role: params}, batch) to embeddings of images and of texts, (B, E) each.
      batches: as for `Evaluator`, with "text" holding "ids", which identify captions.
      mesh: mesh to run on.
      name: name of the set, for messages and metric names.
    """
    self._batches, self._mesh, self._name = batches, mesh, name

    def run(params, batch):
      valid = batch.get("valid", np.ones(_rows(batch), bool))
      return *features(params, batch), batch["text"]["ids"], valid

    self._run = jax.jit(run, out_shardings=replicated(mesh))

  def __call__(self, state: TrainState, step: int) -> dict[str, float]:
    """Measures the averaged weights of a state, and logs the result."""
    retrieval = self.measure(state.averaged())
    rates = retrieval.compute()
    recalls = ", ".join(
      f"{name.replace('_', ' ')} {r.rate:.1%} [{r.low:.1%}, {r.high:.1%}]"
      for name, r in rates.items()
    )
    _log.info(
      "step %d: recall@1 over %d held-out captions (%s, %d repeated): %s",
      step, len(retrieval), self._name, retrieval.duplicates, recalls,
    )  # fmt: skip
    prefix = f"recall/{self._name}"
    metrics = {f"{prefix}/{name}": rate.rate for name, rate in rates.items()}
    return metrics | {f"{prefix}/duplicates": retrieval.duplicates, f"{prefix}/n": len(retrieval)}

  def measure(self, params: Mapping[str, PyTree]) -> Retrieval:
    """The features of all real rows for {role: params}.

    Raises:
      UserError: if there is no real row.
    """
    retrieval = Retrieval()
    for batch in self._batches():
      with use_mesh(self._mesh):
        placed = place_batch(batch, self._mesh, whole=True)
        image, text, ids, valid = jax.device_get(self._run(params, placed))
      captions = [row.tobytes() for row in ids[valid]]
      retrieval.add(image[valid], text[valid], captions)
    if not len(retrieval):
      raise UserError("the evaluation got no rows; check the held-out split")
    return retrieval


def _rows(batch: Mapping[str, Any]) -> int:
  return jax.tree.leaves(batch)[0].shape[0]
