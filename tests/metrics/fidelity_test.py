import math

import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.metrics.fidelity import Fidelity, ssim


def pictures(frames=3, height=24, width=20, seed=0):
  rng = np.random.default_rng(seed)
  rows = np.linspace(0, 200, height)[:, None, None] + rng.uniform(0, 50, (frames, height, width, 3))
  return rows.astype(np.uint8)


def _reference(x, y, data_range):
  """SSIM of two (H, W) images by the definition, window by window."""
  offset = np.arange(11) - 5
  taps = np.exp(-0.5 * (offset / 1.5) ** 2)
  window = np.outer(taps, taps) / taps.sum() ** 2
  c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
  values = []
  for i in range(x.shape[0] - 10):
    for j in range(x.shape[1] - 10):
      a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
      ma, mb = (window * a).sum(), (window * b).sum()
      va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
      cov = (window * (a - ma) * (b - mb)).sum()
      values.append(
        (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
      )
  return np.mean(values)


@pytest.mark.parametrize("scale, data_range", [(1.0, 255.0), (1 / 255, 1.0)])
def test_ssim_is_its_definition(scale, data_range):
  a, b = pictures().astype(np.float64) * scale, pictures(seed=1).astype(np.float64) * scale
  found = ssim(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), data_range=data_range)
  for n in range(3):
    expected = np.mean([_reference(a[n, ..., c], b[n, ..., c], data_range) for c in range(3)])
    assert float(found[n]) == pytest.approx(expected, abs=1e-5)


def test_means_are_over_frames_however_they_are_batched():
  target, made = pictures(4), pictures(4, seed=1)
  made[2] = target[2]
  whole, parts = Fidelity(), Fidelity()
  whole.add(made, target)
  parts.add(made[:1], target[:1])
  parts.add(made[1:], target[1:])
  result = whole.compute()
  assert result == pytest.approx(parts.compute()) and result["frames"] == 4
  error = np.square((made.astype(np.float64) - target) / 255).mean((1, 2, 3))
  each = -10 * np.log10(error[error > 0])
  same = 10 * math.log10(4 / 1e-12)  # as far as the decibels of equal frames go
  assert result["psnr"] == pytest.approx((sum(each) + same) / 4, rel=1e-4)


def test_equal_frames_and_noise():
  same, noise = Fidelity(), Fidelity()
  same.add(pictures(), pictures())
  noise.add(np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8),
            np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8))  # fmt: skip
  assert same.compute()["ssim"] == pytest.approx(1, abs=1e-5) and same.compute()["psnr"] > 100
  assert noise.compute()["ssim"] < 0.1 and 7 < noise.compute()["psnr"] < 9


def test_nothing_counted_is_not_a_number():
  assert math.isnan(Fidelity().compute()["ssim"]) and Fidelity().compute()["frames"] == 0


def test_what_cannot_be_compared_is_told():
  with pytest.raises(UserError, match="10x20 are smaller than the 11x11 window"):
    Fidelity().add(pictures(1, 10), pictures(1, 10))
  with pytest.raises(ValueError, match="cannot be compared"):
    Fidelity().add(pictures(2), pictures(1))
  with pytest.raises(ValueError, match="uint8"):
    Fidelity().add(pictures() / 255, pictures())
