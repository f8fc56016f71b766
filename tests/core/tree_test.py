"""Trees as path tables: names, counts, norms and fingerprints."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.tree import count_params, fingerprint, flatten_paths, global_norm, map_paths


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pair:
  left: jax.Array
  right: jax.Array


def _tree():
  return {"a": {"b": jnp.ones((2, 3)), "c": [jnp.zeros(4), jnp.full((), 2.0)]}, "d": Pair(1.0, 2.0)}


def test_paths_of_dicts_lists_and_dataclasses():
  assert list(flatten_paths(_tree())) == ["a/b", "a/c/0", "a/c/1", "d/left", "d/right"]


def test_paths_stop_at_chosen_leaves():
  flat = flatten_paths(_tree(), is_leaf=lambda node: isinstance(node, (list, Pair)))
  assert list(flat) == ["a/b", "a/c", "d"]


def test_map_paths_keeps_the_structure():
  named = map_paths(lambda path, leaf: path, _tree())
  assert named == {"a": {"b": "a/b", "c": ["a/c/0", "a/c/1"]}, "d": Pair("d/left", "d/right")}


def test_parameters_are_counted_without_arrays():
  abstract = jax.eval_shape(lambda: _tree()["a"])
  assert count_params(abstract) == 6 + 4 + 1


def test_norm_is_accumulated_in_float32():
  # 300 squared is beyond float16, and 4096 ones do not add up in bfloat16.
  tree = [jnp.full((4,), 300.0, jnp.float16), jnp.ones((4096,), jnp.bfloat16)]
  norm = global_norm(tree)
  assert norm.dtype == jnp.float32
  np.testing.assert_allclose(norm, np.sqrt(4 * 300.0**2 + 4096), rtol=1e-6)


def test_fingerprint_sees_values_dtypes_shapes_and_paths():
  base = {"w": np.zeros((2, 2), np.float32)}
  same = {"w": jnp.zeros((2, 2))}
  others = [
    {"w": np.eye(2, dtype=np.float32)},
    {"w": np.zeros((4,), np.float32)},
    {"w": np.zeros((2, 2), np.int32)},
    {"v": np.zeros((2, 2), np.float32)},
    {"w": np.asfortranarray(np.array([[0, 1], [2, 3]], np.float32))},
    {"w": np.array([[0, 2], [1, 3]], np.float32)},
  ]
  assert fingerprint(base) == fingerprint(same)
  assert len({fingerprint(t) for t in [base, *others]}) == 1 + len(others)
