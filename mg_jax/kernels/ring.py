"""Ring attention: each device holds its own keys and passes them on around a ring.

For use inside a shard_map: q_BLNK, k_BSNK, v_BSNK are the shards of one device, split over tokens
along the mesh axis, mask_BS marks the real ones of all keys, and o_BLNK is the shard of the result
(arXiv 2310.01889). Each step attends to the local keys while sending them to the next device;
results are merged by their log-sum-exp. The backward pass is hand-written: it sends keys and values
around once more, together with their gradients, which are summed in float32. No device ever holds
more than two shards of the keys, or a block of the scores.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mg_jax.core import remat
from mg_jax.core.typing import Array, Bool, Float
from mg_jax.kernels import xla

# Log-sum-exp of no keys. Finite, so that merging two of them does not compute inf - inf.
_NOTHING = -1e30


def ring(
  q_BLNK: Float[Array, "B L N K"],
  k_BSNK: Float[Array, "B S N K"],
  v_BSNK: Float[Array, "B S N K"],
  *,
  mask_BS: Bool[Array, "B R"] | None,
  scale: float,
  axis: tuple[str, ...],
) -> Float[Array, "B L N K"]:
  """Softmax attention of this device's queries to the keys of all devices; see the module.

  Args:
    q_BLNK, k_BSNK, v_BSNK: shards of this device.
    mask_BS: True marks real keys, of the whole ring in order. A query without any gets zeros.
    scale: multiplies the scores.
    axis: mesh axes that the tokens are split over.
  """
  return _ring(q_BLNK, k_BSNK, v_BSNK, mask_BS, scale, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _ring(q, k, v, mask, scale, axis):
  return _forward(q, k, v, mask, scale, axis)[0]


def _forward(q, k, v, mask, scale, axis):
  def attend(step, k, v):
    out, lse = xla.with_lse(q, k, v, mask_BS=_mask_at(mask, step, k, axis), scale=scale)
    return out.astype(jnp.float32), jnp.where(jnp.isinf(lse), _NOTHING, lse)

  def turn(carry, step):
    k, v, *merged = carry
    passed = _pass_on((k, v), axis)
    return (*passed, *_merge(*merged, *attend(step, k, v))), None

  last = lax.axis_size(axis) - 1
  empty = jnp.zeros(q.shape, jnp.float32), jnp.full((*q.shape[:3], 1), _NOTHING, jnp.float32)
  (last_k, last_v, *merged), _ = lax.scan(turn, (k, v, *empty), jnp.arange(last))
  out, lse = _merge(*merged, *attend(last, last_k, last_v))
  # exp(s - inf) = 0: a query without any key contributes no gradient.
  lse = jnp.where(lse < _NOTHING / 2, jnp.inf, lse)
  out, lse = remat.name(out.astype(q.dtype), "attention"), remat.name(lse, "attention")
  return out, (q, k, v, mask, out, lse)


def _backward(scale, axis, saved, do):
  q, k, v, mask, out, lse = saved

  def add(sums, step, k, v):
    part = xla.gradients(
      q, k, v, out_BLNK=out, lse_BLN1=lse, do_BLNK=do, mask_BS=_mask_at(mask, step, k, axis),
      scale=scale,
    )  # fmt: skip
    return tuple(total + x.astype(jnp.float32) for total, x in zip(sums, part, strict=True))

  def turn(carry, step):
    k, v, *sums = carry
    dq, *travelling = add(sums, step, k, v)
    return (*_pass_on((k, v), axis), dq, *_pass_on(tuple(travelling), axis)), None

  last = lax.axis_size(axis) - 1
  zeros = (jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
  (last_k, last_v, *sums), _ = lax.scan(turn, (k, v, *zeros), jnp.arange(last))
  dq, *travelling = add(sums, last, last_k, last_v)
  # One more step returns the gradients to their own devices.
  dk, dv = _pass_on(tuple(travelling), axis)
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_ring.defvjp(_forward, _backward)


def _pass_on(pieces, axis):
  size = lax.axis_size(axis)
  return lax.ppermute(pieces, axis, [(i, (i + 1) % size) for i in range(size)])


def _mask_at(mask, step, k, axis):
  """The mask of the keys on this device after `step` steps."""
  if mask is None:
    return None
  length = k.shape[1]
  owner = (lax.axis_index(axis) - step) % lax.axis_size(axis)
  return lax.dynamic_slice_in_dim(mask, owner * length, length, axis=1)


def _merge(out1, lse1, out2, lse2):
  """Attention to two sets of keys as one, from their results and log-sum-exps."""
  top = jnp.maximum(lse1, lse2)
  weight1, weight2 = jnp.exp(lse1 - top), jnp.exp(lse2 - top)
  total = weight1 + weight2
  return (out1 * weight1 + out2 * weight2) / total, top + jnp.log(total)
