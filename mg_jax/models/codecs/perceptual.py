"""LPIPS v0.1 with the VGG16 trunk: perceptual distance between images.

A loss of the autoencoder [MG 3.1.1] and a metric. The weights are published files, torchvision's
VGG16 (`features.N.weight`, `features.N.bias`) and the heads of LPIPS (`linK.model.1.weight`), which
are not shipped; without them no value is called LPIPS.

two images (N, H, W, 3) in [-1, 1] -> distance (N,) >= 0
"""

import dataclasses
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.typing import Array, Float
from mg_jax.kernels.conv import spatial_conv
from mg_jax.models.weights.hub import open_arrays

# Convolutions of the five levels by their number in torchvision's `features`; there is a 2 x 2 max
# pooling between levels, and a ReLU after every convolution.
LEVELS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
SIDE = 2 ** (len(LEVELS) - 1)  # minimum side of an image: the last level needs a pixel
_EPS = 1e-10  # added to the norm of a feature


@dataclasses.dataclass(frozen=True, eq=False)
class LPIPS:
  """Frozen weights, on the host; constants of a jitted program.

  Attributes:
    convs: {number: (kernel (3, 3, I, O), bias (O,))} as in LEVELS.
    heads: per level, non-negative weights (C,).
  """

  convs: dict[int, tuple[np.ndarray, np.ndarray]]
  heads: tuple[np.ndarray, ...]

  def features(self, x_NHWC: Float[Array, "N H W 3"]) -> list[Array]:
    """Unit-normalised features of an image in [-1, 1] at the five levels."""
    x = (x_NHWC - np.asarray(SHIFT, np.float32)) / np.asarray(SCALE, np.float32)
    features = []
    for level in LEVELS:
      if features:
        x = _max_pool(x)
      for number in level:
        kernel, bias = self.convs[number]
        x = jax.nn.relu(spatial_conv(x, jnp.asarray(kernel)) + bias)
      # Zero if all features are zero; the inner floor keeps the gradient finite.
      norm = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-20))
      features.append(x / (norm + _EPS))
    return features

  def __call__(
    self, a_NHWC: Float[Array, "N H W 3"], b_NHWC: Float[Array, "N H W 3"]
  ) -> Float[Array, "N"]:
    """Squared differences, weighted by the heads, averaged over space, summed over levels.

    Raises:
      UserError: on images of fewer than 16 pixels per side.
    """
    side = min(a_NHWC.shape[1:3])
    if side < SIDE:
      raise UserError(f"LPIPS needs images of at least {SIDE} pixels per side, not {side}")
    pairs = zip(self.features(a_NHWC), self.features(b_NHWC), self.heads, strict=True)
    return sum(jnp.mean(jnp.square(a - b) @ head, axis=(1, 2)) for a, b, head in pairs)


def _max_pool(x: Array) -> Array:
  """2 x 2, dropping an odd row or column."""
  n, h, w, c = x.shape
  x = x[:, : h // 2 * 2, : w // 2 * 2]
  return jnp.max(x.reshape(n, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def load(files: Sequence[str | os.PathLike[str]]) -> LPIPS:
  """The weights of published files, safetensors or torch, which together have trunk and heads.

  Args:
    files: such as torchvision's `vgg16-397923af.pth` and LPIPS' `weights/v0.1/vgg.pth`; other
      arrays, such as VGG's classifier, are not read.

  Raises:
    UserError: if a file cannot be read, an array is missing, of another shape or not finite, or a
      head has negative weights.
  """
  arrays = {name: entry for file in files for name, entry in open_arrays(file)[0].items()}
  names = ", ".join(map(str, files))

  def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in arrays:
      raise UserError(f"{names} have no {name}; give the files of VGG16 and of the heads of LPIPS")
    have, value = arrays[name]
    if have != shape:
      raise UserError(f"{names}: {name} has shape {have}, but LPIPS with VGG16 needs {shape}")
    array = value().astype(np.float32)
    if not np.isfinite(array).all():
      raise UserError(f"{names}: {name} holds values that are not finite; fetch the file again")
    return array

  convs, heads, before = {}, [], 3
  for k, (level, width) in enumerate(zip(LEVELS, (64, 128, 256, 512, 512), strict=True)):
    for number in level:
      kernel = read(f"features.{number}.weight", (width, before, 3, 3)).transpose(2, 3, 1, 0)
      convs[number] = (kernel, read(f"features.{number}.bias", (width,)))
      before = width
    head = read(f"lin{k}.model.1.weight", (1, width, 1, 1)).reshape(-1)
    if (head < 0).any():
      raise UserError(
        f"{names}: lin{k}.model.1.weight has negative values, unlike any head; fetch it again"
      )
    heads.append(head)
  return LPIPS(convs, tuple(heads))
