"""Attention in plain XLA operations: the reference, and the blocked form that CPUs train with.

Shapes: q_BLNK, k_BSNK, v_BSNK, mask_BS (True = real key) or None, giving o_BLNK in the dtype of q.
Scores, softmax and accumulators are float32. A query whose keys are all masked yields zeros and
contributes no gradient.
The blocked form never holds more than a block of the score matrix: its backward pass recomputes
the probabilities from the saved log-sum-exp of each query. Heads share batched products as long as
their scores stay in cache, and run one after the other beyond. Forward and backward took, on two
CPU cores in float32, 0.5 to 0.95 times the reference at 16 to 128 tokens, 0.5 times at 512 and
0.28 times at 2048.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mg_jax.core import remat
from mg_jax.core.typing import Array, Bool, Float

# Scores of masked keys. Finite, so that a row without any real key does not compute inf - inf.
_MASKED = -1e30

# Queries per block.
_CHUNK = 512

# Scores held at once, 1 MiB: as many heads as fit share batched products. Between 2^17 and 2^18 is
# best from 16 to 512 tokens; more is up to 2 times slower, as is one head at a time.
_SCORES = 1 << 18


def reference(
  q_BLNK: Float[Array, "B L N K"],
  k_BSNK: Float[Array, "B S N K"],
  v_BSNK: Float[Array, "B S N K"],
  *,
  mask_BS: Bool[Array, "B S"] | None,
  scale: float,
) -> Float[Array, "B L N K"]:
  """Textbook softmax attention; every other kernel is tested against it."""
  f32 = jnp.float32
  s_BNLS = jnp.einsum("blnk,bsnk->bnls", q_BLNK, k_BSNK, preferred_element_type=f32) * scale
  if mask_BS is None:
    p_BNLS = jax.nn.softmax(s_BNLS, axis=-1)
  else:
    keep = mask_BS[:, None, None, :]
    p_BNLS = jax.nn.softmax(jnp.where(keep, s_BNLS, _MASKED), axis=-1) * keep
  p_BNLS = p_BNLS.astype(v_BSNK.dtype)
  out = jnp.einsum("bnls,bsnk->blnk", p_BNLS, v_BSNK, preferred_element_type=f32)
  return out.astype(q_BLNK.dtype)


def _dot(a: Array, b: Array, contract: tuple[int, int]) -> Array:
  """Product over one dimension each, counted from the end; leading dimensions are batch."""
  batch = tuple(range(a.ndim - 2))
  dims = (((a.ndim + contract[0],), (b.ndim + contract[1],)), (batch, batch))
  return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _attend_block(q, k, v, keep, scale):
  """Softmax attention of a block of queries (..., L, K) to all keys; also the log-sum-exp."""
  s = _dot(q, k, (-1, -1)) * scale
  if keep is not None:
    s = jnp.where(keep, s, _MASKED)
  top = jnp.max(s, axis=-1, keepdims=True)
  e = jnp.exp(s - top)
  total = jnp.sum(e, axis=-1, keepdims=True)
  out = _dot(e.astype(v.dtype), v, (-1, -2)) / total
  lse = top + jnp.log(total)
  if keep is not None:
    some = jnp.any(keep, axis=-1, keepdims=True)
    out = jnp.where(some, out, 0)
    # exp(s - inf) = 0: all probabilities of such a row are zero in the backward pass.
    lse = jnp.where(some, lse, jnp.inf)
  return out.astype(q.dtype), lse


def _gradient_block(q, k, v, keep, scale, do, delta, lse):
  """Gradients of a block of queries; dk and dv in float32, transposed (..., K, S), to be summed.

  That puts the large factors ds and p second. First, they would have to be transposed themselves,
  which made the whole backward pass 1.5 times as slow on CPUs.
  """
  s = _dot(q, k, (-1, -1)) * scale
  if keep is not None:
    s = jnp.where(keep, s, _MASKED)
  p = jnp.exp(s - lse)
  ds = (p * (_dot(do, v, (-1, -1)) - delta) * scale).astype(q.dtype)
  dq = _dot(ds, k, (-1, -2)).astype(q.dtype)
  return dq, _dot(q, ds, (-2, -2)), _dot(do, p.astype(q.dtype), (-2, -2))


def _heads_first(x_BLNK: Array, groups: int) -> Array:
  """(groups, heads per group, length, ...) over all heads of all examples."""
  x = jnp.swapaxes(x_BLNK, 1, 2)
  return x.reshape(groups, -1, *x.shape[2:])


def _heads_last(x: Array, like_BLNK: Array) -> Array:
  b, length, n, _ = like_BLNK.shape
  return jnp.swapaxes(x.reshape(b, n, length, -1), 1, 2)


def _plan(q_BLNK: Array, k_BSNK: Array) -> tuple[int, int]:
  """Number of sequential groups of heads, and of blocks of queries in each."""
  b, length, n, _ = q_BLNK.shape
  blocks = -(-length // _CHUNK)
  per_head = length * k_BSNK.shape[1]
  heads = max(1, min(b * n, _SCORES // per_head))
  while b * n % heads:
    heads -= 1
  return b * n // heads, blocks


def _keep(mask_BS: Array | None, heads: int, groups: int) -> Array | None:
  if mask_BS is None:
    return None
  return jnp.repeat(mask_BS, heads, axis=0).reshape(groups, -1, 1, mask_BS.shape[1])


def _split(x_GLK: Array, blocks: int) -> Array:
  """(G, L, K) as (blocks, G, ceil(L / blocks), K), zero-padded at the end."""
  g, length, k = x_GLK.shape
  size = -(-length // blocks)
  x = jnp.pad(x_GLK, ((0, 0), (0, blocks * size - length), (0, 0)))
  return jnp.swapaxes(x.reshape(g, blocks, size, k), 0, 1)


def _join(x: Array, length: int) -> Array:
  blocks, g, size, k = x.shape
  return jnp.swapaxes(x, 0, 1).reshape(g, blocks * size, k)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blocked(q, k, v, mask, scale):
  return _blocked_forward(q, k, v, mask, scale)[0]


def _blocked_forward(q, k, v, mask, scale):
  out, lse = _outputs(q, k, v, mask, scale)
  # A layer that saves both of these does not run the kernel again in its backward pass.
  out, lse = remat.name(out, "attention"), remat.name(lse, "attention")
  return out, (q, k, v, mask, out, lse)


def _outputs(q, k, v, mask, scale):
  """The result, and the log-sum-exp of every query as groups of heads."""
  groups, blocks = _plan(q, k)
  length = q.shape[1]

  def group(args):
    q_GLK, k_GSK, v_GSK, keep = args
    if blocks == 1:
      return _attend_block(q_GLK, k_GSK, v_GSK, keep, scale)
    block = lambda q_GCK: _attend_block(q_GCK, k_GSK, v_GSK, keep, scale)  # noqa: E731
    return jax.tree.map(lambda x: _join(x, length), lax.map(block, _split(q_GLK, blocks)))

  inputs = tuple(_heads_first(x, groups) for x in (q, k, v))
  out, lse = _over_groups(group, (*inputs, _keep(mask, q.shape[2], groups)), groups)
  return _heads_last(out, q), lse


def _blocked_backward(scale, saved, do):
  q, k, v, mask, out, lse = saved
  grads = _gradients(q, k, v, mask, out, lse, do, scale)
  return *(g.astype(x.dtype) for g, x in zip(grads, (q, k, v), strict=True)), None


def _gradients(q, k, v, mask, out, lse, do, scale):
  groups, blocks = _plan(q, k)
  length = q.shape[1]
  delta = jnp.sum(do.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)

  def group(args):
    q_GLK, k_GSK, v_GSK, do_GLK, delta_GL1, lse_GL1, keep = args
    gradient = functools.partial(_gradient_block, k=k_GSK, v=v_GSK, keep=keep, scale=scale)
    if blocks == 1:
      return gradient(q_GLK, do=do_GLK, delta=delta_GL1, lse=lse_GL1)

    def block(sums, args):
      q_GCK, do_GCK, delta_GC1, lse_GC1 = args
      dq, dk, dv = gradient(q_GCK, do=do_GCK, delta=delta_GC1, lse=lse_GC1)
      return (sums[0] + dk, sums[1] + dv), dq

    zeros = jnp.zeros_like(jnp.swapaxes(k_GSK, 1, 2), jnp.float32)
    # Padding queries of the last block have a zero cotangent, and so no effect.
    queries = tuple(_split(x, blocks) for x in (q_GLK, do_GLK, delta_GL1, lse_GL1))
    (dk, dv), dq = lax.scan(block, (zeros, zeros), queries)
    return _join(dq, length), dk, dv

  inputs = tuple(_heads_first(x, groups) for x in (q, k, v, do, delta))
  dq, dk, dv = _over_groups(group, (*inputs, lse, _keep(mask, q.shape[2], groups)), groups)
  dk, dv = (jnp.swapaxes(x, -1, -2) for x in (dk, dv))
  return _heads_last(dq, q), _heads_last(dk, k), _heads_last(dv, v)


def _over_groups(fn, args, groups: int):
  """lax.map, without the loop if there is only one group."""
  if groups > 1:
    return lax.map(fn, args)
  return jax.tree.map(lambda x: x[None], fn(jax.tree.map(lambda x: x[0], args)))


_blocked.defvjp(_blocked_forward, _blocked_backward)


def blocked(
  q_BLNK: Float[Array, "B L N K"],
  k_BSNK: Float[Array, "B S N K"],
  v_BSNK: Float[Array, "B S N K"],
  *,
  mask_BS: Bool[Array, "B S"] | None,
  scale: float,
) -> Float[Array, "B L N K"]:
  """Attention in blocks of queries with a hand-written backward pass; see the module."""
  return _blocked(q_BLNK, k_BSNK, v_BSNK, mask_BS, scale)


def with_lse(
  q_BLNK: Float[Array, "B L N K"],
  k_BSNK: Float[Array, "B S N K"],
  v_BSNK: Float[Array, "B S N K"],
  *,
  mask_BS: Bool[Array, "B S"] | None,
  scale: float,
) -> tuple[Float[Array, "B L N K"], Float[Array, "B L N 1"]]:
  """`blocked`, not differentiable here, and the log-sum-exp of every query.

  It is +inf for a query without keys.
  """
  out, lse = _outputs(q_BLNK, k_BSNK, v_BSNK, mask_BS, scale)
  return out, _heads_last(lse, q_BLNK)


def gradients(
  q_BLNK: Float[Array, "B L N K"],
  k_BSNK: Float[Array, "B S N K"],
  v_BSNK: Float[Array, "B S N K"],
  *,
  out_BLNK: Float[Array, "B L N K"],
  lse_BLN1: Float[Array, "B L N 1"],
  do_BLNK: Float[Array, "B L N K"],
  mask_BS: Bool[Array, "B S"] | None,
  scale: float,
) -> tuple[Array, Array, Array]:
  """Contribution of these keys to the gradient of q, and the gradients of k and v; to be summed.

  Args:
    q_BLNK, k_BSNK, v_BSNK: queries, and some of the keys and values they attend to.
    out_BLNK, lse_BLN1: results over all keys, from `with_lse`.
    do_BLNK: cotangent of the result.
    mask_BS, scale: as in the forward pass.
  """
  lse = _heads_first(lse_BLN1, _plan(q_BLNK, k_BSNK)[0])
  return _gradients(q_BLNK, k_BSNK, v_BSNK, mask_BS, out_BLNK, lse, do_BLNK, scale)
