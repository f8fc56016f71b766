"""SSIM against scikit-image, with the settings that it names for Wang et al. 2004."""

import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.metrics.fidelity import Fidelity, ssim

metrics = pytest.importorskip("skimage.metrics")
pytestmark = pytest.mark.parity
WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}


def _pair(kind, shape=(37, 52, 3)):
  rng = np.random.default_rng(0)
  if kind == "noise":
    return (rng.integers(0, 256, shape).astype(np.uint8) for _ in range(2))
  if kind == "flat":
    return np.full(shape, 200, np.uint8), np.full(shape, 203, np.uint8)
  ramp = np.broadcast_to(np.linspace(10, 240, shape[1])[None, :, None], shape)
  return ramp.astype(np.uint8), (ramp + rng.normal(0, 6, shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["noise", "flat", "smooth"])
def test_bytes(kind):
  a, b = _pair(kind)
  measured = Fidelity()
  measured.add(a[None], b[None])
  assert measured.compute()["ssim"] == pytest.approx(
    metrics.structural_similarity(a, b, data_range=255, **WANG), abs=1e-5
  )
  if kind != "flat":
    assert measured.compute()["psnr"] == pytest.approx(
      metrics.peak_signal_noise_ratio(a, b, data_range=255), abs=1e-3
    )


@pytest.mark.parametrize("data_range", [2.0, 1.0])
def test_floats(data_range):
  a, b = (x / 127.5 - 1 for x in _pair("smooth"))
  found = ssim(
    jnp.asarray(a, jnp.float32)[None], jnp.asarray(b, jnp.float32)[None], data_range=data_range
  )
  expected = metrics.structural_similarity(a, b, data_range=data_range, **WANG)
  assert float(found[0]) == pytest.approx(expected, abs=1e-5)
