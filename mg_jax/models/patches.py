"""Patchify as a reshape: a 3-D convolution whose kernel equals its stride is a Linear on patches.

[MG 3.1.3] Latents `(B, T, H, W, C)` become `(B, t, h*w, P)` with t = T/pt, h = H/ph, w = W/pw and
P = pt*ph*pw*C, which keeps the time axis for frame-aligned features; the caller flattens t and h*w
to the token dimension L. Token order is time, height, width, the last varying fastest.
"""

import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.core.typing import Array, Bool, Float

Size = tuple[int, int, int]


def grid(shape: Size, patch: Size) -> Size:
  """Token counts (t, h, w) of a latent of (T, H, W).

  Raises:
    UserError: if the latent is not divisible by the patch.
  """
  if any(size % step for size, step in zip(shape, patch, strict=True)):
    raise UserError(f"a latent of (time, height, width) {shape} is not divisible by patch {patch}")
  t, h, w = (size // step for size, step in zip(shape, patch, strict=True))
  return t, h, w


def patchify(x_BTHWC: Array, patch: Size) -> Array:
  """Cuts a latent (B, T, H, W, C) of any dtype into (B, t, hw, P); see the module."""
  batch, *shape, channels = x_BTHWC.shape
  t, h, w = grid(tuple(shape), patch)
  pt, ph, pw = patch
  x = x_BTHWC.reshape(batch, t, pt, h, ph, w, pw, channels)
  return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, t, h * w, pt * ph * pw * channels)


def unpatchify(
  x_BLP: Float[Array, "B L P"], tokens: Size, patch: Size
) -> Float[Array, "B T H W C"]:
  """Inverse of `patchify` after the caller flattened (t, h*w) to L."""
  t, h, w = tokens
  pt, ph, pw = patch
  x = x_BLP.reshape(x_BLP.shape[0], t, h, w, pt, ph, pw, -1)
  x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
  return x.reshape(x.shape[0], t * pt, h * ph, w * pw, -1)


def patch_mask(mask_BTHW: Bool[Array, "B T H W"], patch: Size) -> Bool[Array, "B L"]:
  """A token is True if every position of its patch is."""
  patches = patchify(mask_BTHW[..., None], patch)
  return jnp.all(patches, axis=-1).reshape(mask_BTHW.shape[0], -1)
