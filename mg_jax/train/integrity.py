"""Checksums, finiteness and structure of flat tables of arrays.

A checksum is a sum modulo 2**32 over scrambled (position, bits) pairs, computed on the array's own
devices: independent of sharding and of the order of summation, and changed by any single element.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mg_jax.core.sharding import replicated
from mg_jax.core.typing import Array


@dataclasses.dataclass(frozen=True)
class Report:
  """Checksum of every array, and the paths of non-finite parameters and averages."""

  checksums: dict[str, int]
  broken: list[str]


def inspect(leaves: Mapping[str, Array]) -> Report:
  """Checks a table {path: array}; only the results are copied to the host."""
  # One program per set of devices: a warm start mixes leaves on a mesh with leaves on one device.
  groups: dict[frozenset, dict[str, Array]] = {}
  for path, leaf in leaves.items():
    leaf = jnp.asarray(leaf)
    groups.setdefault(frozenset(leaf.sharding.device_set), {})[path] = leaf
  sums, finite = {}, {}
  for group in groups.values():
    meshes = [x.sharding.mesh for x in group.values() if isinstance(x.sharding, NamedSharding)]
    part = jax.device_get(_inspector(meshes[0] if meshes else None)(group))
    sums |= part[0]
    finite |= part[1]
  weights = (path for path in leaves if path.startswith(("params/", "ema/")))
  return Report(
    {path: int(sums[path]) for path in leaves}, [path for path in weights if not finite[path]]
  )


@functools.lru_cache(maxsize=8)
def _inspector(mesh):
  def run(leaves):
    sums = {path: _checksum(x) for path, x in leaves.items()}
    return sums, {path: jnp.all(jnp.isfinite(x)) for path, x in leaves.items()}

  return jax.jit(run, out_shardings=None if mesh is None else replicated(mesh))


def _checksum(x: Array) -> Array:
  bits = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
  width = 8 * min(bits.dtype.itemsize, 4)
  bits = jax.lax.bitcast_convert_type(bits, jnp.dtype(f"uint{width}")).astype(jnp.uint32)
  index = jnp.zeros(bits.shape, jnp.uint32)
  for axis, size in enumerate(bits.shape):
    index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
  return jnp.sum(_scramble(bits ^ _scramble(index + jnp.uint32(1))), dtype=jnp.uint32)


def _scramble(x: Array) -> Array:
  """A bijection of 32-bit integers that spreads every bit (the finaliser of MurmurHash3)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def structure(leaves: Mapping[str, Array]) -> str:
  """sha256 over path, shape and dtype of every array."""
  lines = (f"{path} {describe(leaf)}" for path, leaf in sorted(leaves.items()))
  return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def describe(leaf) -> str:
  """`float32[3,4]`."""
  return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def differences(saved: Mapping, wanted: Mapping) -> list[str]:
  """One line for each path at which two tables of shapes and dtypes differ."""
  lines = []
  for path in sorted({*saved, *wanted}):
    if path not in wanted:
      lines.append(f"{path}: saved {describe(saved[path])}, not wanted")
    elif path not in saved:
      lines.append(f"{path}: not saved, wanted {describe(wanted[path])}")
    elif describe(saved[path]) != describe(wanted[path]):
      lines.append(f"{path}: saved {describe(saved[path])}, wanted {describe(wanted[path])}")
  return lines
