import json

import numpy as np
import pytest
import scipy.linalg

from mg_jax.core.errors import UserError
from mg_jax.metrics.frechet import Moments, distance, frechet


def features(count, size=6, seed=0, shift=0.0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((count, size)) @ rng.standard_normal((size, size)) + shift


def moments(x):
  result = Moments(x.shape[1])
  result.add(x)
  return result


def _reference(x, y):
  """As published implementations compute it."""
  a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
  root = scipy.linalg.sqrtm(a @ b)
  return np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * np.real(root))


@pytest.mark.parametrize("counts", [(50, 80), (400, 30)])
def test_distance_is_that_of_the_matrix_square_root(counts):
  x, y = features(counts[0]), features(counts[1], seed=1, shift=0.7)
  assert distance(moments(x), moments(y)) == pytest.approx(_reference(x, y), rel=1e-7)
  assert distance(moments(y), moments(x)) == pytest.approx(_reference(x, y), rel=1e-7)


def test_known_distances():
  x = features(200)
  assert distance(moments(x), moments(x)) == pytest.approx(0, abs=1e-9)
  assert distance(moments(x), moments(x + 2)) == pytest.approx(4 * 6)
  # Covariances a and 4 a: tr(a + 4 a - 2 * 2 a) is tr(a).
  centred = x - x.mean(0)
  trace = np.trace(np.cov(centred, rowvar=False))
  assert distance(moments(centred), moments(2 * centred)) == pytest.approx(trace)


def test_fewer_rows_than_features_give_a_finite_distance():
  x, y = features(5, 20), features(7, 20, seed=1)
  value = distance(moments(x), moments(y))
  # Singular products have no reliable square root of their own; the trace by singular values does.
  a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
  cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
  expected = np.square(x.mean(0) - y.mean(0)).sum() + (a**2).sum() + (b**2).sum() - 2 * cross
  assert value == pytest.approx(expected, rel=1e-6)


def test_parts_in_any_order_are_the_whole():
  x = features(100, shift=1e3)
  parts = [moments(x[i:j]) for i, j in ((60, 100), (0, 1), (1, 60))]
  joined = Moments(6)
  for part in parts:
    joined.merge(part)
  joined.add(x[:0])
  assert joined.count == 100
  np.testing.assert_allclose(joined.mean, x.mean(0))
  np.testing.assert_allclose(joined.covariance, np.cov(x, rowvar=False), rtol=1e-9)


def _save(path, x, network=None):
  np.save(path, x)
  if network:
    path.with_suffix(".json").write_text(json.dumps({"network": network}))
  return path


@pytest.mark.parametrize("networks, name", [
  ((None, None), "Frechet distance"),
  (("inception-v3-2015-12-05", None), "Frechet distance"),
  (("our-own-net", "our-own-net"), "Frechet distance"),
  (("inception-v3-2015-12-05",) * 2, "FID"),
  (("i3d-kinetics-400",) * 2, "FVD"),
  (("vggish-audioset",) * 2, "FAD"),
])  # fmt: skip
def test_only_published_networks_give_the_published_name(tmp_path, networks, name):
  x, y = features(5000, 3).astype(np.float32), features(40, 3, seed=1)
  paths = [_save(tmp_path / f"{n}.npy", z, net) for n, z, net in zip("ab", (x, y), networks,
                                                                     strict=True)]  # fmt: skip
  result = frechet(*paths)
  assert result.name == name and result.counts == (5000, 40) and result.size == 3
  assert result.value == pytest.approx(_reference(x.astype(float), y), rel=1e-6)


@pytest.mark.parametrize("rows, warned", [(6, True), (7, False)])
def test_a_singular_covariance_is_logged(tmp_path, caplog, rows, warned):
  few, many = (_save(tmp_path / f"{n}.npy", features(n)) for n in (rows, 50))
  frechet(many, few)
  rank = np.linalg.matrix_rank(np.cov(features(rows), rowvar=False))
  assert (rank < 6) == warned
  assert len(caplog.messages) == warned
  if warned:
    assert caplog.messages[0].startswith(f"{few} has 6 rows of 6 dimensions, so its covariance")


def test_what_cannot_be_compared_is_told(tmp_path):
  good = _save(tmp_path / "good.npy", features(9), "one")
  objects, damaged = tmp_path / "objects.npy", tmp_path / "damaged.npy"
  np.save(objects, np.array([{}], object), allow_pickle=True)  # what must not be unpickled
  damaged.write_bytes(b"x")
  cases = [
    ("not a valid .npy", tmp_path / "missing.npy"),
    ("not a valid .npy", objects),
    ("not a valid .npy", damaged),
    ("holds no features", _save(tmp_path / "cube.npy", np.zeros((2, 3, 4)))),
    ("features of 6 and of 5", _save(tmp_path / "narrow.npy", features(9, 5))),
    ("features of one and", _save(tmp_path / "other.npy", features(9), "another")),
    ("non-finite", _save(tmp_path / "nan.npy", np.full((9, 6), np.nan))),
    ("1 rows of features", _save(tmp_path / "single.npy", features(1))),
  ]
  for words, path in cases:
    with pytest.raises(UserError, match=words):
      frechet(good, path)
  (tmp_path / "good.json").write_text("{}")
  with pytest.raises(UserError, match="does not name a network"):
    frechet(good, good)
