"""Serialisation of a record: a JSON header followed by raw arrays.

A record is a flat dictionary of numpy arrays, numbers, booleans, strings and lists of strings. The
layout is the magic "MGR1", the header length (uint32, little-endian), the header {"values": {...},
"arrays": {name: [dtype, shape]}} in UTF-8, padding to 8 bytes, and each array in C order,
little-endian, padded to 8 bytes. Decoding executes no code and copies nothing: arrays are read-only
views of the bytes.
"""

import json
import math
import numbers
import struct

import numpy as np

from mg_jax.data.schema import Record

_MAGIC = b"MGR1"
_ALIGN = 8
_KINDS = "biufc"


class RecordError(ValueError):
  """Bytes that are not a complete, well-formed record, or that could not be read at all."""


def encode(record: Record) -> bytes:
  """Returns the bytes of `record`.

  Raises:
    TypeError: if a value is not a numeric array, number, boolean, string or list of strings.
  """
  values, arrays, parts = {}, {}, []
  for name, value in record.items():
    if isinstance(value, np.ndarray):
      array = np.asarray(value, order="C")
      if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
      try:
        _dtype(array.dtype.name)
      except RecordError as error:
        raise TypeError(
          f"record entry {name!r}: arrays of {array.dtype} cannot be stored"
        ) from error
      arrays[name] = [array.dtype.name, list(array.shape)]
      parts.append(array.tobytes())
    else:
      values[name] = _plain(name, value)
  header = json.dumps({"values": values, "arrays": arrays}, separators=(",", ":")).encode()
  out = [_MAGIC, struct.pack("<I", len(header)), header, _padding(8 + len(header))]
  for part in parts:
    out += [part, _padding(len(part))]
  return b"".join(out)


def decode(data: bytes) -> Record:
  """Returns the record in `data`; arrays are read-only views.

  Raises:
    RecordError: if the bytes are not exactly one record.
  """
  try:
    if data[:4] != _MAGIC:
      raise RecordError("the bytes do not start as a record")
    (length,) = struct.unpack_from("<I", data, 4)
    if 8 + length > len(data):
      raise RecordError("the header is truncated")
    header = json.loads(data[8 : 8 + length])
    record: Record = dict(header["values"])
    offset = 8 + length + len(_padding(8 + length))
    for name, (dtype_name, shape) in header["arrays"].items():
      dtype = _dtype(dtype_name)
      if any(not isinstance(side, int) or side < 0 for side in shape):
        raise RecordError(f"entry {name!r} has the invalid shape {shape}")
      count = math.prod(shape)
      if offset + count * dtype.itemsize > len(data):
        raise RecordError(f"entry {name!r} is truncated")
      record[name] = np.frombuffer(data, dtype, count, offset).reshape(shape)
      offset += count * dtype.itemsize + len(_padding(count * dtype.itemsize))
    if offset != len(data):
      raise RecordError("bytes follow the last entry")
    return record
  except RecordError:
    raise
  except (
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
  ) as error:
    raise RecordError(f"the bytes are not a record ({error})") from error


def _plain(name: str, value: object) -> object:
  if isinstance(value, bool | np.bool_):
    return bool(value)
  if isinstance(value, numbers.Integral):
    return int(value)
  if isinstance(value, numbers.Real):
    return float(value)
  if isinstance(value, str):
    return value
  if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
    return list(value)
  raise TypeError(f"record entry {name!r}: a {type(value).__name__} cannot be stored")


def _dtype(name: str) -> np.dtype:
  """The dtype of a name, bfloat16 included; objects and strings are rejected."""
  if name == "bfloat16":
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
  try:
    dtype = np.dtype(name)
  except TypeError as error:
    raise RecordError(f"unknown dtype {name!r}") from error
  if dtype.kind not in _KINDS:
    raise RecordError(f"dtype {name!r} is not numeric")
  return dtype


def _padding(length: int) -> bytes:
  return b"\0" * (-length % _ALIGN)
