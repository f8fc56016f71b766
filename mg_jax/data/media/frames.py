"""Conversion of frames in memory to the models' input: RGB, uint8 or floats in [-1, 1].

in (T, H, W), (T, H, W, 1), (T, H, W, 3) or (T, H, W, 4)  ->  out (T, H, W, 3)
"""

import numpy as np

from mg_jax.core.errors import UserError


def as_rgb(frames: np.ndarray) -> np.ndarray:
  """Frames as uint8 0..255 or float32 in [-1, 1], (T, H, W, 3).

  Grey is repeated over the three channels and alpha is dropped, as for files. uint16 is taken to
  span its full range: 0..65535 becomes 0..255; scale 10 bits in a uint16 by 64 first. Floats are
  expected in [-1, 1] and clipped.

  Raises:
    UserError: if there are no frames, on another shape or dtype, or on NaN or Inf.
  """
  frames = np.asarray(frames)
  if frames.ndim == 3:
    frames = frames[..., None]
  if frames.ndim != 4 or frames.shape[-1] not in (1, 3, 4) or 0 in frames.shape:
    raise UserError(
      f"frames of shape {frames.shape} are not a video; give (T, H, W, 3) with at least one frame"
    )
  frames = frames[..., :3]
  if frames.dtype == np.uint16:
    frames = ((frames.astype(np.uint32) + 128) // 257).astype(np.uint8)
  elif np.issubdtype(frames.dtype, np.floating):
    frames = frames.astype(np.float32)
    if not np.isfinite(frames).all():
      raise UserError("a frame holds values that are not finite; repair it or leave it out")
    frames = np.clip(frames, -1.0, 1.0)
  elif frames.dtype != np.uint8:
    raise UserError(f"frames of {frames.dtype} are not supported; give uint8, uint16 or floats")
  if frames.shape[-1] == 1:
    frames = np.repeat(frames, 3, axis=-1)
  return frames
