"""What every oracle takes: one clip."""

import numpy as np

from mg_jax.core.errors import UserError


def checked(video: np.ndarray, oracle: str) -> np.ndarray:
  """The clip as an array; raises UserError, in the name of an oracle, unless it is uint8
  (T, H, W, 3)."""
  video = np.asarray(video)
  if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
    raise UserError(
      f"{oracle}: got {video.dtype} of shape {video.shape}; pass a uint8 video (T, H, W, 3)"
    )
  return video
