"""Trees of arrays as flat tables of slash-separated paths."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def _part(key) -> str:
  for field in ("key", "name", "idx"):
    if hasattr(key, field):
      return str(getattr(key, field))
  return str(key)


def flatten_paths(tree, *, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
  """{"a/b/c": leaf} for every leaf of a tree."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
  return {"/".join(map(_part, path)): leaf for path, leaf in flat}


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """{"a/b": x} as {"a": {"b": x}}."""
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *parents, name = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def map_paths(fn: Callable[[str, Any], Any], tree):
  """Maps fn(path, leaf) over a tree, keeping its structure."""
  return jax.tree_util.tree_map_with_path(lambda p, leaf: fn("/".join(map(_part, p)), leaf), tree)


def count_params(tree) -> int:
  """Number of scalars in a tree; works on abstract trees."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def global_norm(tree) -> jax.Array:
  """Euclidean norm of all leaves together, accumulated in float32."""
  return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))


def whole(leaf: jax.Array | np.ndarray) -> np.ndarray:
  """A leaf on the host, also one whose parts several processes hold; all have to call it."""
  if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
    return multihost_utils.process_allgather(leaf, tiled=True)
  return jax.device_get(leaf)


def fingerprint(tree) -> str:
  """sha256 over path, dtype, shape and bytes of every leaf, each brought to the host by `whole`."""
  digest = hashlib.sha256()
  for path, leaf in sorted(flatten_paths(tree).items()):
    array = np.ascontiguousarray(whole(leaf))
    digest.update(f"{path} {array.dtype} {array.shape}".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
