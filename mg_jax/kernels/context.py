"""Context parallelism around any attention kernel that runs on one device. [MG 3.1.6]

Queries stay split over the "context" axis; keys and values are gathered over it, so the backward
pass reduce-scatters their gradients, and no other tensor of the layer travels. Batch and heads are
split as the table of logical axes says. Takes and gives what the local kernel does: q_BLNK,
k_BSNK, v_BSNK, mask_BS -> o_BLNK, all with global shapes.
"""

import functools
import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from mg_jax.core.sharding import LOGICAL
from mg_jax.core.typing import Array
from mg_jax.kernels.platform import partitioned


def mesh_axes(name: str, size: int) -> tuple[str, ...] | None:
  """Mesh axes of a logical dimension, or None where the mesh in use does not divide its size."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = LOGICAL[name]
  axes = (axes,) if isinstance(axes, str) else axes
  return axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None


def parallel(local: Callable[..., Array]) -> Callable[..., Array]:
  """Runs `local(q, k, v, *, mask_BS, scale)` on the shards of the mesh in use.

  Dimensions that the mesh does not divide are computed whole on every device of those axes.
  Without a mesh, on one device, and inside an outer shard_map, this is `local` itself.
  """

  @functools.wraps(local)
  def split(q_BLNK, k_BSNK, v_BSNK, *, mask_BS=None, scale):
    if not partitioned():
      return local(q_BLNK, k_BSNK, v_BSNK, mask_BS=mask_BS, scale=scale)
    b, length, n, _ = q_BLNK.shape
    batch, heads = mesh_axes("batch", b), mesh_axes("heads", n)
    queries = mesh_axes("length", length)
    # Text is whole on every device already; only keys made from the queries' own tokens, which
    # have their length, arrive in pieces.
    gather = queries if k_BSNK.shape[1] == length else None

    def shard(q, k, v, mask):
      if gather:
        k, v = (jax.lax.all_gather(x, gather, axis=1, tiled=True) for x in (k, v))
      return local(q, k, v, mask_BS=mask, scale=scale)

    q_spec = PartitionSpec(batch, queries, heads)
    k_spec = PartitionSpec(batch, gather, heads)
    return jax.shard_map(
      shard,
      in_specs=(q_spec, k_spec, k_spec, PartitionSpec(batch)),
      out_specs=q_spec,
      check_vma=False,
    )(q_BLNK, k_BSNK, v_BSNK, mask_BS)

  return split
