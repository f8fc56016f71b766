"""Saved kernels converted to the parametrisation of a model: plain, or with weight norm.

A warm start reads a checkpoint as a table of shapes and a function that reads some of it. Here both
are wrapped, so that a plain kernel is read as a direction and its norms (`nn.weight_norm`), or the
reverse, if the model needs it. The function that a layer computes stays the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mg_jax.nn.weight_norm import fold, norms

# Shapes of saved leaves, and {path: shape, dtype, optional sharding} to arrays.
Saved = Mapping[str, jax.ShapeDtypeStruct]
Read = Callable[[Saved], dict[str, Any]]


def as_in(
  target: Mapping[str, Any], saved: Saved, read: Read, *, rename: Callable[[str], str] = str
) -> tuple[Saved, Read]:
  """`saved` and `read` with kernels in the parametrisation of `target`.

  Args:
    target: paths of the model to its leaves.
    saved: paths of the checkpoint.
    read: reader of `saved`.
    rename: maps a saved path to that of the model.
  """
  # Path -> its shape, the saved paths it comes from, and the conversion.
  converted: dict[str, tuple[jax.ShapeDtypeStruct, tuple[str, ...], Callable]] = {}
  for path, leaf in saved.items():
    layer, _, name = path.rpartition("/")
    kernel, direction, scale = (f"{layer}/{n}" for n in ("kernel", "direction", "scale"))
    if rename(path) in target:
      continue
    if name == "kernel" and {rename(direction), rename(scale)} <= set(target):
      shape = target[rename(scale)].shape
      converted[direction] = leaf, (kernel,), lambda w: w
      converted[scale] = (
        jax.ShapeDtypeStruct(shape, leaf.dtype), (kernel,), lambda w, shape=shape: norms(w, shape)
      )  # fmt: skip
    if name == "direction" and scale in saved and rename(kernel) in target:
      converted[kernel] = leaf, (direction, scale), fold
  replaced = {origin for _, origins, _ in converted.values() for origin in origins}
  shapes = {path: leaf for path, leaf in saved.items() if path not in replaced}

  def read_as(wanted: Saved) -> dict[str, Any]:
    direct = {path: leaf for path, leaf in wanted.items() if path not in converted}
    origins = {origin for path in wanted if path in converted for origin in converted[path][1]}
    arrays = read(direct | {path: saved[path] for path in origins})
    out = {path: arrays[path] for path in direct}
    for path in wanted:
      if path in converted:
        _, origins, change = converted[path]
        out[path] = change(*(jnp.asarray(arrays[origin], jnp.float32) for origin in origins))
    return out

  return shapes | {path: leaf for path, (leaf, _, _) in converted.items()}, read_as
