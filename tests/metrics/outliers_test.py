import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.losses.reconstruction import outlier_penalty
from mg_jax.metrics.outliers import EDGES, LatentOutliers


def latents(frames=3, dots=()):
  x = np.random.default_rng(0).standard_normal((frames, 16, 16, 8)).astype(np.float32)
  for frame, row, column in dots:
    x[frame, row, column] = 40.0
  return x


def measured(x, **kw):
  accumulator = LatentOutliers(**kw)
  accumulator.add(x)
  return accumulator.compute()


def test_dots_are_counted():
  assert measured(latents())["outliers"] == 0
  found = measured(latents(dots=[(0, 3, 4), (2, 0, 15)]))
  assert (found["outliers"], found["positions"]) == (2, 768) and found["rate"] == 2 / 768
  assert found["largest"] > 3


def test_it_counts_what_the_penalty_penalises():
  for x in (latents(), latents(dots=[(1, 2, 3)])):
    penalty = float(outlier_penalty(jnp.asarray(x)[None]))
    assert (penalty > 0) == (measured(x)["outliers"] > 0)
  x = latents(1, dots=[(0, 5, 5)])
  # One frame with one dot: the penalty is its excess over r |Std|, averaged over positions.
  spread = math.sqrt(np.var(x[0], axis=(0, 1)).sum())
  excess = (measured(x)["largest"] - 3) * spread / 256
  assert float(outlier_penalty(jnp.asarray(x)[None])) == pytest.approx(excess, rel=1e-4)


def test_a_frame_is_judged_by_itself():
  """A bright frame among dark ones is no outlier, as each frame has a mean of its own."""
  x = latents(4)
  x[1] += 100.0
  x[2] *= 50.0
  assert measured(x)["outliers"] == 0


def test_histogram_holds_every_position_and_joins():
  x = latents(4, dots=[(3, 0, 0)])
  whole, first, second = measured(x), LatentOutliers(), LatentOutliers()
  first.add(x[:1])
  second.add(x[None, 1:])  # a batch
  first.merge(second)
  assert first.compute() == whole == json.loads(json.dumps(whole))
  counts = whole["histogram"]["counts"]
  assert sum(counts) == whole["positions"] and len(counts) == len(EDGES)
  assert counts[-1] == 1  # the dot lies beyond the last edge
  near = measured(x, radius=0.5)
  inside = sum(counts[: int(np.searchsorted(EDGES, 0.5))])
  assert near["outliers"] == near["positions"] - inside


def test_constant_latents_have_no_outliers():
  assert measured(np.full((1, 4, 4, 2), 7.0))["rate"] == 0.0
  assert math.isnan(LatentOutliers().compute()["rate"])


def test_what_cannot_be_counted_is_told():
  with pytest.raises(UserError, match="not finite"):
    measured(np.full((1, 4, 4, 2), np.nan))
  with pytest.raises(ValueError, match="do not add up"):
    LatentOutliers(radius=3.0).merge(LatentOutliers(radius=2.0))
