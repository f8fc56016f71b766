"""Named random streams: one key per purpose and step, independent of the order of use."""

import zlib

import jax

from mg_jax.core.typing import Array


def stream(key: Array, name: str, *ints: int | Array) -> Array:
  """The key of a named purpose, folded with any integers (a step, a sample's index)."""
  key = jax.random.fold_in(key, zlib.crc32(name.encode()))
  for value in ints:
    key = jax.random.fold_in(key, value)
  return key


def streams(key: Array, names: tuple[str, ...], *ints: int | Array) -> dict[str, Array]:
  """One key for each name."""
  return {name: stream(key, name, *ints) for name in names}
