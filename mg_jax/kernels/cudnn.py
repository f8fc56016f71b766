"""Attention on NVIDIA GPUs by cuDNN's fused kernel, through `jax.nn.dot_product_attention`.

Shapes: q_BLNK, k_BSNK, v_BSNK, mask_BS (True = real key) or None, giving o_BLNK in the dtype of q.
It only runs in half precision; scores and softmax are float32 inside.
"""

import jax
import jax.numpy as jnp

from mg_jax.core import remat
from mg_jax.core.typing import Array, Bool, Float

HEAD_DIMS = 128  # the largest that it supports on every card from Ampere on


def unsupported(q_shape, k_shape, dtype, masked, platform) -> str | None:
  """Why it cannot run a call, or None if it can."""
  del k_shape, masked, platform
  if jnp.dtype(dtype) not in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)):
    return f"it takes bfloat16 and float16, not {jnp.dtype(dtype).name}"
  if q_shape[-1] % 8 or q_shape[-1] > HEAD_DIMS:
    return f"heads have {q_shape[-1]} dimensions, not a multiple of 8 up to {HEAD_DIMS}"
  return None


def cudnn(
  q_BLNK: Float[Array, "B L N K"],
  k_BSNK: Float[Array, "B S N K"],
  v_BSNK: Float[Array, "B S N K"],
  *,
  mask_BS: Bool[Array, "B S"] | None,
  scale: float,
  implementation: str = "cudnn",
) -> Float[Array, "B L N K"]:
  """Softmax attention; a query whose keys are all masked yields zeros.

  Args:
    q_BLNK, k_BSNK, v_BSNK: queries, keys and values on one device.
    mask_BS: True marks real keys.
    scale: multiplies the scores.
    implementation: jax's; "xla" runs the same call on any platform, for tests.
  """
  length, counts_B = q_BLNK.shape[1], None
  if mask_BS is not None:
    # The fused kernel takes either a full mask or the number of leading real keys, and the order
    # of keys does not matter. A length of zero would give it sums over nothing.
    order_BS11 = jnp.argsort(~mask_BS, axis=1, stable=True)[:, :, None, None]
    k_BSNK, v_BSNK = (jnp.take_along_axis(x, order_BS11, axis=1) for x in (k_BSNK, v_BSNK))
    counts_B = jnp.maximum(1, jnp.sum(mask_BS, axis=1, dtype=jnp.int32))
  elif k_BSNK.shape[1] % 2:
    counts_B = jnp.full(len(k_BSNK), k_BSNK.shape[1], jnp.int32)
  q_BLNK, k_BSNK, v_BSNK = (_even(x) for x in (q_BLNK, k_BSNK, v_BSNK))
  out_BLNK = jax.nn.dot_product_attention(
    q_BLNK, k_BSNK, v_BSNK, scale=scale, implementation=implementation,
    key_value_seq_lengths=counts_B,
  )[:, :length]  # fmt: skip
  if mask_BS is not None:
    out_BLNK = jnp.where(jnp.any(mask_BS, axis=1)[:, None, None, None], out_BLNK, 0)
  return remat.name(out_BLNK, "attention")


def _even(x: Array) -> Array:
  """Appends an empty row if their number is odd, for which the kernel has no gradient."""
  pad = [(0, 0)] * x.ndim
  pad[1] = (0, x.shape[1] % 2)
  return jnp.pad(x, pad)
