"""Attention on TPUs by the Pallas kernel "splash": fused, with its own backward pass.

Shapes: q_BLNK, k_BSNK, v_BSNK, mask_BS (True = real key) or None, giving o_BLNK in the dtype of q.
The kernel takes whole blocks, so lengths are padded to a multiple of the block and head dimensions
to a multiple of a register's lanes; padding keys are masked by segment ids, like padded text. The
residuals of its backward pass are marked "attention" for rematerialisation.
"""

import functools

import jax
import jax.numpy as jnp

from mg_jax.core.typing import Array, Bool, Float

LANES = 128
# Block sizes that work for all the shapes here: rows of queries and of keys in vector memory, for
# heads of up to LANES dimensions. Wider heads get fewer rows: at 512, as in an autoencoder, every
# TPU's compiler rejects blocks of 1024.
_BLOCK = 1024
_BLOCK_COMPUTE = 512
# A quarter of the smallest block; more padding takes more memory than the scores would.
_SHORTEST = LANES // 4


def unsupported(q_shape, k_shape, dtype, masked, platform) -> str | None:
  """Why it should not run a call, or None if it should."""
  del dtype, masked, platform
  if max(q_shape[1], k_shape[1]) < _SHORTEST:
    return f"{q_shape[1]} queries and {k_shape[1]} keys would be padded to {LANES} each"
  return None


def _blocks(length: int, dim: int) -> tuple[int, int]:
  """Block size for a length and a head dimension, and the length padded to a multiple of it."""
  lanes = -(-length // LANES) * LANES
  count = -(-lanes // max(LANES, _BLOCK * LANES // max(LANES, dim)))
  block = -(-lanes // (count * LANES)) * LANES
  return block, count * block


def _fill(x: Array, axis: int, size: int) -> Array:
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, size - x.shape[axis])
  return jnp.pad(x, widths)


def _kernel(heads: int, length: int, keys: int, block_q: int, block_kv: int, *, interpret: bool):
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  # A divisor of the block: the inner loop runs over whole sub-blocks.
  compute = next(c for c in range(min(block_kv, _BLOCK_COMPUTE), 0, -LANES) if block_kv % c == 0)
  sizes = splash.BlockSizes(
    block_q=block_q, block_kv=block_kv, block_kv_compute=compute,
    block_q_dkv=block_q, block_kv_dkv=block_kv, block_kv_dkv_compute=compute,
    block_q_dq=block_q, block_kv_dq=block_kv,
  )  # fmt: skip
  mask = splash.MultiHeadMask([splash.FullMask((length, keys))] * heads)
  return splash.make_splash_mha(
    mask, block_sizes=sizes, head_shards=1, q_seq_shards=1,
    residual_checkpoint_name="attention", interpret=interpret,
  )  # fmt: skip


def splash(
  q_BLNK: Float[Array, "B L N K"],
  k_BSNK: Float[Array, "B S N K"],
  v_BSNK: Float[Array, "B S N K"],
  *,
  mask_BS: Bool[Array, "B S"] | None,
  scale: float,
  interpret: bool = False,
) -> Float[Array, "B L N K"]:
  """Softmax attention; a query whose keys are all masked yields zeros.

  Args:
    q_BLNK, k_BSNK, v_BSNK: queries, keys and values on one device.
    mask_BS: True marks real keys.
    scale: multiplies the scores.
    interpret: runs the kernel in interpret mode on any platform, for tests.
  """
  from jax.experimental.pallas.ops.tpu import splash_attention

  _, length, heads, dim = q_BLNK.shape
  keys = k_BSNK.shape[1]
  lanes = -(-dim // LANES) * LANES
  (block_q, rows), (block_kv, columns) = _blocks(length, lanes), _blocks(keys, lanes)
  # The kernel does not scale, and takes heads before tokens.
  q, k, v = (
    _fill(_fill(jnp.swapaxes(x, 1, 2), 2, size), 3, lanes)
    for x, size in ((q_BLNK * jnp.asarray(scale, q_BLNK.dtype), rows), (k_BSNK, columns),
                    (v_BSNK, columns))
  )  # fmt: skip
  run = _kernel(heads, rows, columns, block_q, block_kv, interpret=interpret)
  if mask_BS is None and columns == keys:
    out = jax.vmap(functools.partial(run, segment_ids=None))(q, k, v)
  else:
    real = jnp.ones(k_BSNK.shape[:2], bool) if mask_BS is None else mask_BS
    segments = splash_attention.SegmentIds(
      jnp.ones((len(q), rows), jnp.int32), _fill(real.astype(jnp.int32), 1, columns)
    )
    out = jax.vmap(run)(q, k, v, segments)
  out_BLNK = jnp.swapaxes(out, 1, 2)[:, :length, :, :dim]
  if mask_BS is not None:
    some_B = jnp.any(mask_BS, axis=1)[:, None, None, None]
    out_BLNK = jnp.where(some_B, out_BLNK, 0)
  return out_BLNK.astype(q_BLNK.dtype)
