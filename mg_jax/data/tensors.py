"""Validated safetensors files, read or written one array at a time.

A file is the length of a header (8 bytes), the header (JSON: name -> dtype, shape, byte range) and
the bytes. Nothing in it is executed. The published reader accepts duplicate names in a header; here
they are an error, as are gaps, overlaps, and a file longer or shorter than its header states.
"""

import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data import atomic

DTYPES = {
  "BOOL": np.dtype(np.bool_),
  "U8": np.dtype(np.uint8),
  "I8": np.dtype(np.int8),
  "I16": np.dtype(np.int16),
  "I32": np.dtype(np.int32),
  "I64": np.dtype(np.int64),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F32": np.dtype(np.float32),
  "F64": np.dtype(np.float64),
  "U16": np.dtype(np.uint16),
  "U32": np.dtype(np.uint32),
  "U64": np.dtype(np.uint64),
  "C64": np.dtype(np.complex64),
  "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
  "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
  "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
  "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
  "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000  # bytes, the limit of the published reader
_METADATA = "__metadata__"


class Entry(NamedTuple):
  """Dtype, shape and byte offset of an array in the file."""

  dtype: np.dtype
  shape: tuple[int, ...]
  start: int


class TensorFile:
  """The arrays of one file, each read on demand.

  Raises:
    UserError: if the file is missing, truncated, or inconsistent with its header.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self.path = pathlib.Path(path)
    try:
      with open(self.path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
          raise UserError(f"{self.path} is truncated or not a safetensors file; fetch it again")
        header = file.read(length)
    except OSError as e:
      raise UserError(f"{self.path} cannot be read ({e.strerror}); give a readable file") from e
    self.entries = self._parse(header, 8 + length, size)

  def __iter__(self) -> Iterator[str]:
    return iter(self.entries)

  def read(self, name: str) -> np.ndarray:
    """Reads one array into new memory."""
    dtype, shape, start = self.entries[name]
    with open(self.path, "rb") as file:
      file.seek(start)
      values = np.fromfile(file, dtype, math.prod(shape))
    if values.size != math.prod(shape):
      raise UserError(f"{self.path}: {name} is truncated; fetch the file again")
    return values.reshape(shape)

  def _parse(self, header: bytes, begin: int, size: int) -> dict[str, Entry]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
      table = dict(pairs)
      if len(table) != len(pairs):
        raise UserError(f"{self.path}: its header has duplicate names; do not trust this file")
      return table

    try:
      table = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
      table.pop(_METADATA, None)
      rows = {}
      for name, row in table.items():
        start, end = row["data_offsets"]
        shape = tuple(row["shape"])
        if not all(type(n) is int and n >= 0 for n in (start, end, *shape)):
          raise ValueError(f"{name} has an invalid shape or offset")
        if row["dtype"] not in DTYPES:
          raise UserError(
            f"{self.path}: {name} has the dtype {row['dtype']!r}, which is not supported; give a "
            f"file with one of {', '.join(DTYPES)}"
          )
        rows[name] = (DTYPES[row["dtype"]], shape, start, end)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
      raise UserError(f"{self.path}: its header is malformed ({e!r}); fetch it again") from e
    position = 0
    for name, (dtype, shape, start, end) in sorted(rows.items(), key=lambda item: item[1][2:]):
      if start != position or end - start != dtype.itemsize * math.prod(shape):
        raise UserError(f"{self.path}: {name} has an invalid byte range in its header")
      position = end
    if begin + position != size:
      raise UserError(
        f"{self.path} has {size} bytes but its header states {begin + position}; fetch it again"
      )
    return {name: Entry(row[0], row[1], begin + row[2]) for name, row in rows.items()}


def write(
  path: str | os.PathLike[str],
  shapes: Mapping[str, tuple[tuple[int, ...], Any]],
  parts: Iterable[tuple[str, Iterable[np.ndarray]]],
) -> None:
  """Writes a file whose arrays come in parts, so that none needs to be in memory as a whole.

  Args:
    path: written atomically.
    shapes: name -> (shape, dtype), in the order of the file.
    parts: for every name, in the same order, arrays whose concatenated bytes make it up.

  Raises:
    ValueError: if names or sizes differ from `shapes`.
  """
  header, position = {}, 0
  for name, (shape, dtype) in shapes.items():
    size = np.dtype(dtype).itemsize * math.prod(shape)
    header[name] = {
      "dtype": _NAMES[np.dtype(dtype)], "shape": list(shape),
      "data_offsets": [position, position + size],
    }  # fmt: skip
    position += size
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  with atomic.replacing(path) as partial, open(partial, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for (name, arrays), (wanted, (_, dtype)) in zip(parts, shapes.items(), strict=True):
      if name != wanted:
        raise ValueError(f"got {name} where {wanted} is expected")
      start = file.tell()
      for array in arrays:
        file.write(np.ascontiguousarray(array, np.dtype(dtype)).reshape(-1).view(np.uint8).data)
      begin, end = header[name]["data_offsets"]
      if file.tell() - start != end - begin:
        raise ValueError(f"{name} has {file.tell() - start} bytes instead of {end - begin}")
