"""Fidelity of reconstructed frames: PSNR and SSIM, averaged over frames [MG 3.1.1].

SSIM follows Wang et al. 2004 in the form that publications report: a Gaussian window of 11 pixels
with standard deviation 1.5, population covariance, per colour channel, without the border that the
window does not fit into.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.pixels import from_uint8
from mg_jax.core.typing import Array, Float
from mg_jax.losses.reconstruction import psnr

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def _blur(x_HWC: Array) -> Array:
  """Gaussian means where the window fits."""
  offset = np.arange(WINDOW) - WINDOW // 2
  taps = np.exp(-0.5 * np.square(offset / SIGMA))
  taps = (taps / taps.sum()).tolist()
  for axis in (0, 1):
    inside = x_HWC.shape[axis] - WINDOW + 1
    x_HWC = sum(
      tap * jax.lax.slice_in_dim(x_HWC, i, i + inside, axis=axis) for i, tap in enumerate(taps)
    )
  return x_HWC


def ssim(
  prediction: Float[Array, "B H W C"], target: Float[Array, "B H W C"], *, data_range: float
) -> Float[Array, "B"]:
  """Structural similarity of each image, at most 1, averaged over pixels and channels.

  Args:
    prediction: images.
    target: images in the same range.
    data_range: largest minus smallest possible value: 2 for [-1, 1].

  Raises:
    UserError: if a side is shorter than the window of 11 pixels.
  """
  height, width = target.shape[1:3]
  if min(height, width) < WINDOW:
    raise UserError(
      f"images of {height}x{width} are smaller than the {WINDOW}x{WINDOW} window of SSIM; give "
      "larger ones"
    )
  c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2

  def one(pair):
    x, y = pair
    # Squares of values far from zero would lose the variance to rounding.
    middle_x, middle_y = jnp.mean(x), jnp.mean(y)
    x, y = x - middle_x, y - middle_y
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + middle_x, mean_y + middle_y
    light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return jnp.mean(light * (2 * covariance + c2) / (var_x + var_y + c2))

  return jax.lax.map(one, (prediction.astype(jnp.float32), target.astype(jnp.float32)))


@jax.jit
def _measure(prediction_HWC: Array, target_HWC: Array) -> tuple[Array, Array]:
  a, b = (from_uint8(x)[None] for x in (prediction_HWC, target_HWC))
  # Published figures use values that start at zero.
  return psnr(a, b)[0], ssim(a + 1, b + 1, data_range=2.0)[0]


class Fidelity:
  """Streaming means over frames."""

  def __init__(self) -> None:
    self._frames = 0
    self._sums = {"psnr": 0.0, "ssim": 0.0}

  def add(self, prediction: np.ndarray, target: np.ndarray) -> None:
    """Adds reconstructed frames, uint8 (T, H, W, 3), and their references.

    Raises:
      ValueError: if the two are not uint8 of one shape.
      UserError: if frames are smaller than the window of SSIM.
    """
    if prediction.dtype != np.uint8 or target.dtype != np.uint8 or prediction.ndim != 4:
      raise ValueError(f"frames must be uint8 (T, H, W, 3), got {prediction.dtype} {target.dtype}")
    if prediction.shape != target.shape:
      raise ValueError(f"frames of {prediction.shape} cannot be compared with {target.shape}")
    for a, b in zip(prediction, target, strict=True):
      for name, value in zip(self._sums, _measure(a, b), strict=True):
        self._sums[name] += float(value)
      self._frames += 1

  def compute(self) -> dict[str, float]:
    """{"psnr" in dB, "ssim", "frames"}; the means are nan if there are no frames."""
    means = {name: s / self._frames if self._frames else math.nan for name, s in self._sums.items()}
    return means | {"frames": self._frames}
