"""Moments of parts against those of the whole."""

import json

import ml_dtypes
import numpy as np
import pytest

from mg_jax.data.moments import Moments


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_parts_of_any_size_have_the_moments_of_the_whole(offset):
  rng = np.random.default_rng(0)
  parts = [
    rng.normal(offset, [1.0, 0.1, 5.0], (*shape, 3)).astype(np.float32)
    for shape in ((4, 2, 2), (1,), (0, 7), (300, 5))
  ]
  total, halves = Moments(), [Moments(), Moments()]
  for k, part in enumerate(parts):
    total.add(part)
    halves[k // 2].add(part)
  halves[0].merge(halves[1])
  values = np.concatenate([part.reshape(-1, 3) for part in parts]).astype(np.float64)
  for moments in (total, halves[0]):
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.std, values.std(0), rtol=1e-9)


def test_json_keeps_every_bit():
  moments = Moments()
  moments.merge(Moments())  # of nothing
  assert moments.count == 0
  moments.add(np.random.default_rng(1).normal(size=(9, 2)).astype(ml_dtypes.bfloat16))
  again = Moments(**json.loads(json.dumps(moments.to_json())))
  assert again.to_json() == moments.to_json() and again.count == 9
