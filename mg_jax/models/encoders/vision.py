"""A frozen vision tower: features of frames for a generator of sound or for metrics [MG 6.2].

The paper's is that of a long-prompt MetaCLIP H/14: one vector per frame. It is loaded from a folder
of converted weights of a CLIP, or of its vision tower alone (`models.weights.converted`). Vectors
are L2-normalised, as CLIP compares embeddings by their angle.

frames uint8 (T, H, W, 3) -> features float16 (T, E)
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.models.encoders.clip import CLIP, VisionTower, normalise, unit
from mg_jax.models.weights import converted

_BATCH = 32  # images per call


class FrozenVision:
  """The vision tower of a folder; its weights are loaded on first use.

  Attributes:
    size: side of its frames in pixels.
    features: E.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    """Raises UserError if the folder has no CLIP or vision tower."""
    model = converted.module(folder)
    tower = model.vision if isinstance(model, CLIP) else model
    if not isinstance(tower, VisionTower):
      raise UserError(f"{folder} has no CLIP or vision tower; convert one")
    self._folder = folder
    self.size, self.features = tower.size, tower.projection or tower.width

  def identity(self) -> str:
    """Digest of the weights."""
    return converted.digest(self._folder)

  def __call__(self, frames: np.ndarray) -> np.ndarray:
    """L2-normalised features of frames of its size."""
    if not len(frames):
      return np.zeros((0, self.features), np.float16)
    parts = []
    for start in range(0, len(frames), _BATCH):
      part = frames[start : start + _BATCH]
      full = np.concatenate([part, np.repeat(part[-1:], _BATCH - len(part), axis=0)])
      parts.append(np.asarray(self._run(full))[: len(part)])
    return np.concatenate(parts).astype(np.float16)

  @functools.cached_property
  def _run(self):
    model, params = converted.load(self._folder)
    method = "encode_image" if isinstance(model, CLIP) else None

    def encode(params, frames):
      pixels = normalise(frames.astype(jnp.float32) / 255)
      output = model.apply({"params": params}, pixels, method=method)
      return unit(output.pooled.astype(jnp.float32))

    return functools.partial(jax.jit(encode), params)
