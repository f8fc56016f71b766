"""Logical axis names for parameters and activations, and their mapping to the mesh.

Models name dimensions by what they are; only this table maps them to the mesh. A name missing from
the table raises at the line that used it, because Linen itself would silently leave a misspelt name
unsharded. [MG 3.1.6]
"""

import logging
import threading
from collections.abc import Callable

import jax
import numpy as np
from flax import linen as nn
from flax.core import meta
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mg_jax.core.mesh import batch_axes
from mg_jax.core.tree import flatten_paths
from mg_jax.core.typing import PyTree

LOGICAL: dict[str, str | tuple[str, ...] | None] = {
  # activations
  "batch": ("data", "fsdp"),
  "length": "context",
  # The residual stream and per-token layers: sequence parallel on the tensor group, with an
  # all-gather before and a reduce-scatter after linear layers [MG 3.1.6].
  "stream": ("context", "tensor"),
  "text_length": None,
  "time": None,
  "height": None,
  "width": None,
  "channels": None,
  "act_embed": None,
  # parameters
  "embed": "fsdp",
  "heads": "tensor",
  "head_dim": None,
  "mlp": "tensor",
  "modulation": "tensor",
  "layers": None,
  "vocab": None,
  "features": None,
  "positions": None,
  "patch": None,
  "kernel": None,
  "conv_in": None,
  "conv_out": "fsdp",
  "norm": None,
}

_log = logging.getLogger(__name__)
_reported: set[str] = set()
_lock = threading.Lock()


def _spec(names: tuple[str | None, ...]) -> PartitionSpec:
  for name in names:
    if name is not None and name not in LOGICAL:
      raise ValueError(f"unknown logical axis {name!r}; core/sharding.py knows {sorted(LOGICAL)}")
  return PartitionSpec(*(None if name is None else LOGICAL[name] for name in names))


def _axis_size(mesh, axes: str | tuple[str, ...] | None) -> int:
  size = 1
  for axis in (axes,) if isinstance(axes, str) else (axes or ()):
    size *= mesh.shape[axis]
  return size


def _fit(spec: PartitionSpec, shape: tuple[int, ...], mesh, what: str) -> PartitionSpec:
  """Replicates the dimensions that the mesh does not divide, and logs it once.

  If context and tensor together do not divide a stream, it is still split over context alone.
  """
  kept = []
  for dim, axes in zip(shape, tuple(spec) + (None,) * (len(shape) - len(spec)), strict=True):
    if axes == LOGICAL["stream"] and dim % _axis_size(mesh, axes):
      axes = LOGICAL["length"]
    size = _axis_size(mesh, axes)
    if dim % size:
      note = f"{what}: dimension {dim} is not divisible by {axes} ({size} devices): replicated"
      with _lock:
        if note not in _reported:
          _reported.add(note)
          _log.warning(note)
      axes = None
    kept.append(axes)
  return PartitionSpec(*kept)


def shard(x: jax.Array, *names: str | None) -> jax.Array:
  """Constrains an activation to its logical axes; the identity when no mesh is in use.

  Raises:
    ValueError: on an unknown name, on a rank mismatch, and if a mesh was entered with a plain
      `with mesh:`, under which constraints would be silently dropped.
  """
  spec = _spec(names)
  if len(names) != x.ndim:
    raise ValueError(f"shard() got {len(names)} names {names} for an array of shape {x.shape}")
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    if _in_plain_mesh(x):
      raise ValueError("a mesh was entered with `with mesh:`; use mg_jax.core.mesh.use_mesh")
    return x
  if mesh.size == 1 or mesh.are_all_axes_manual:
    return x
  return jax.lax.with_sharding_constraint(x, _fit(spec, x.shape, mesh, "activation"))


def _in_plain_mesh(x: jax.Array) -> bool:
  """Whether the mesh in use was entered by `with mesh:`; jax has no query for that."""
  try:
    jax.lax.with_sharding_constraint(x, PartitionSpec())
  except RuntimeError:  # it needs a mesh, and there is none of any kind
    return False
  return True


def partitioned(init: Callable, *names: str | None) -> Callable:
  """Wraps a Linen initializer so that the parameter carries logical axis names."""
  _spec(names)
  return nn.with_logical_partitioning(init, names)


def unbox(tree):
  """Strips the logical partitioning off parameters: a tree of plain arrays."""
  return meta.unbox(tree)


def _is_pair(node) -> bool:
  return isinstance(node, tuple) and len(node) == 2 and isinstance(node[1], PartitionSpec)


def _is_box(node) -> bool:
  return isinstance(node, meta.AxisMetadata)


def _leaves(abstract_tree):
  """Every leaf as (unboxed leaf, spec)."""

  def pair(leaf):
    return (leaf.unbox(), _spec(tuple(leaf.names))) if _is_box(leaf) else (leaf, PartitionSpec())

  return jax.tree.map(pair, abstract_tree, is_leaf=_is_box)


def state_shardings(abstract_tree, mesh: Mesh):
  """NamedShardings for an abstract tree of (boxed) parameters, with the boxes removed."""
  return jax.tree.map(
    lambda pair: NamedSharding(mesh, _fit(pair[1], pair[0].shape, mesh, "parameter")),
    _leaves(abstract_tree),
    is_leaf=_is_pair,
  )


def placed(abstract_tree, mesh: Mesh):
  """Shapes of an abstract tree of (boxed) parameters where they live on a mesh, without boxes."""
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
    unbox(abstract_tree),
    state_shardings(abstract_tree, mesh),
  )


def replicate(tree, mesh: Mesh):
  """Arrays that every process holds whole, on every device of a mesh."""
  def spread(leaf):
    array = np.asarray(leaf)
    return jax.make_array_from_callback(
      array.shape, replicated(mesh), lambda index: array[index]
    )

  return jax.tree.map(spread, tree)


def spec_table(abstract_tree) -> list[str]:
  """One line per parameter: path, shape, dtype, partition spec. The golden dump of a model."""
  lines = []
  pairs = flatten_paths(_leaves(abstract_tree), is_leaf=_is_pair)
  for path, (leaf, spec) in sorted(pairs.items()):
    shape = "x".join(map(str, leaf.shape)) or "scalar"
    axes = ", ".join("+".join(a) if isinstance(a, tuple) else str(a or "-") for a in spec)
    lines.append(f"{path} {shape} {leaf.dtype} ({axes})")
  return lines


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of a batch leaf: leading dimension split over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(LOGICAL["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def split(batch: PyTree, mesh: Mesh | None) -> PyTree:
  """A batch of host arrays that every process has whole, split over a mesh if its rows divide."""
  if mesh is None:
    return batch
  divides = len(jax.tree.leaves(batch)[0]) % batch_axes(mesh) == 0
  place = batch_sharding(mesh) if divides else replicated(mesh)
  return jax.tree.map(
    lambda a: jax.make_array_from_callback(a.shape, place, lambda index: a[index]), batch
  )
