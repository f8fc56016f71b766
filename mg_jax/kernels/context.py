"""Context parallelism around any attention kernel that runs on one device. [MG 3.1.6]

Queries, keys and values are split over the "context" axis. There are three schemes:
- "gather", the paper's: keys and values are all-gathered, and the backward pass reduce-scatters
  their gradients. Works with any number of heads and tokens.
- "ulysses" (arXiv 2309.14509): an all-to-all gives every device all tokens of some of its heads,
  and another one undoes it on the result. Heads must divide over context and tensor together.
- "ring": keys and values travel from device to device (`kernels.ring`). Needs a kernel that returns
  the log-sum-exp; none of the fused ones here does.

With 8 devices on context, forward and backward of 16 heads of 128 in bfloat16 over 16,384 tokens,
compiled for v5e:2x4, send 224, 49 and 464 MiB from each device, and a ring's temporaries are 0.4
times those of gathering.

Text is replicated, so it needs no exchange. Batch and heads are split as in the table of logical
axes. Inputs and outputs are those of the local kernel, with global shapes: q_BLNK, k_BSNK, v_BSNK,
mask_BS -> o_BLNK.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
from jax.sharding import PartitionSpec

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import LOGICAL
from mg_jax.core.typing import Array
from mg_jax.kernels.platform import partitioned

Scheme = Literal["gather", "ulysses", "ring"]


def mesh_axes(name: str, size: int) -> tuple[str, ...] | None:
  """Mesh axes of a logical dimension, or None if the mesh in use does not divide its size."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = LOGICAL[name]
  axes = (axes,) if isinstance(axes, str) else axes
  return axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None


def parallel(local: Callable[..., Array], scheme: Scheme = "gather") -> Callable[..., Array]:
  """Runs `local(q, k, v, *, mask_BS, scale, ring)` on the shards of the mesh in use.

  Dimensions that the mesh does not divide are replicated over those axes. Without a mesh, on one
  device, and inside an outer shard_map, this is `local` itself.

  Args:
    local: the kernel; `ring` names the mesh axes along which its keys travel, or is None.
    scheme: how queries attend to keys on other devices.

  Raises:
    UserError: on heads or tokens that the scheme cannot split.
  """

  @functools.wraps(local)
  def split(q_BLNK, k_BSNK, v_BSNK, *, mask_BS=None, scale):
    if not partitioned():
      return local(q_BLNK, k_BSNK, v_BSNK, mask_BS=mask_BS, scale=scale, ring=None)
    b, length, n, _ = q_BLNK.shape
    # Only keys computed from the queries' own tokens, with the same length, are split.
    own = k_BSNK.shape[1] == length
    if own:
      _check(scheme, length, n)
    batch, heads = mesh_axes("batch", b), mesh_axes("heads", n)
    queries = mesh_axes("length", length)
    keys = queries if own else None

    def shard(q, k, v, mask):
      run = functools.partial(local, mask_BS=mask, scale=scale)
      if not keys:
        return run(q, k, v, ring=None)
      if scheme == "ring":
        return run(q, k, v, ring=keys)
      if scheme == "ulysses":
        q, k, v = (_exchange(x, keys, split=2, join=1) for x in (q, k, v))
        return _exchange(run(q, k, v, ring=None), keys, split=1, join=2)
      k, v = (jax.lax.all_gather(x, keys, axis=1, tiled=True) for x in (k, v))
      return run(q, k, v, ring=None)

    q_spec = PartitionSpec(batch, queries, heads)
    k_spec = PartitionSpec(batch, keys, heads)
    return jax.shard_map(
      shard,
      in_specs=(q_spec, k_spec, k_spec, PartitionSpec(batch)),
      out_specs=q_spec,
      check_vma=False,
    )(q_BLNK, k_BSNK, v_BSNK, mask_BS)

  return split


def _exchange(x: Array, axes: tuple[str, ...], *, split: int, join: int) -> Array:
  return jax.lax.all_to_all(x, axes, split_axis=split, concat_axis=join, tiled=True)


def _check(scheme: Scheme, tokens: int, heads: int) -> None:
  """Raises UserError if a scheme cannot split the tokens, or the heads, over the mesh in use."""
  mesh = jax.sharding.get_abstract_mesh()
  context, tensor = mesh.shape["context"], mesh.shape["tensor"]

  def problems(ways: int) -> list[str]:
    lines = []
    if tokens % ways:
      lines.append(f"{tokens} tokens do not divide over context = {ways}")
    if scheme == "ulysses" and heads % (ways * tensor):
      lines.append(f"{heads} heads do not divide over context x tensor = {ways} x {tensor}")
    return lines

  if scheme == "gather" or context == 1 or not problems(context):
    return
  # Without a context axis there is nothing to exchange, so 1 always works.
  near = max(w for w in range(1, context) if context % w == 0 and (w == 1 or not problems(w)))
  raise UserError(
    f"context_parallel={scheme!r}: {' and '.join(problems(context))}; the nearest that works is "
    f"context = {near}, and context_parallel='gather' works with any"
  )
