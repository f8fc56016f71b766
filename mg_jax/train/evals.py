"""Evaluation on held-out batches with the averaged weights.

What is measured is the objective's business (validation loss by time bin, reconstruction error);
this module runs it over batches and averages. The random key depends on the batch's number only,
so evaluations at different steps see the same noise and can be compared.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mg_jax.core import rng
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import use_mesh
from mg_jax.core.typing import Array, PyTree
from mg_jax.objectives.base import Objective
from mg_jax.train.feed import place_batch
from mg_jax.train.state import TrainState


class Evaluator:
  """Runs an objective's `evaluate` over the same batches again and again; a hook of the loop."""

  def __init__(
    self, objective: Objective, batches: Callable[[], Iterable[Mapping[str, Any]]], mesh: Mesh, *,
    key: Array, prefix: str = "eval", preprocess: Callable[[PyTree], PyTree] | None = None,
  ):
    """Prepares an evaluation.

    Args:
      objective: gives the metrics of a batch.
      batches: starts a pass over the held-out numpy batches. An entry "valid", bool (B,), marks the
        real rows of a batch that was filled up; without it every row counts.
      mesh: where it runs.
      key: source of the noise.
      prefix: of the names of the results.
      preprocess: done to a batch on its devices before it is evaluated.
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
      UserError: when there is no real row at all.
    """
    totals: dict[str, float] = {}
    weight = 0.0
    for index, batch in enumerate(self._batches()):
      with use_mesh(self._mesh):
        key = rng.stream(self._key, "eval", index)
        placed = self._preprocess(place_batch(batch, self._mesh))
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


def _rows(batch: Mapping[str, Any]) -> int:
  return jax.tree.leaves(batch)[0].shape[0]
