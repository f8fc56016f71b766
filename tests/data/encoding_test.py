import json
import struct

import ml_dtypes
import numpy as np
import pytest

from mg_jax.data import encoding
from mg_jax.data.encoding import RecordError

RECORD = {
  "video": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
  "latent": np.linspace(-1, 1, 5, dtype=np.float32),
  "low": np.array([1.5, -2], ml_dtypes.bfloat16),
  "empty": np.zeros((0, 3), np.int64),
  "scalar": np.array(7, np.int32),
  "flags": np.array([True, False]),
  "fps": 23.976,
  "index": 1 << 40,
  "good": True,
  "caption": "a dog 🐕 \0 \ud800 </s>",
  "captions": ["one", "two"],
}


def test_everything_comes_back_as_it_was():
  back = encoding.decode(encoding.encode(RECORD))
  assert back.keys() == RECORD.keys()
  for name, value in RECORD.items():
    if isinstance(value, np.ndarray):
      assert back[name].dtype == value.dtype and back[name].shape == value.shape
      np.testing.assert_array_equal(back[name], value)
    else:
      assert back[name] == value and type(back[name]) is type(value)


def test_order_and_endianness_do_not_matter():
  plain = np.arange(6, dtype=np.float32).reshape(2, 3)
  for array in (np.asfortranarray(plain), plain.astype(">f4"), plain[:, ::-1][:, ::-1]):
    assert encoding.encode({"x": array}) == encoding.encode({"x": plain})


def test_numpy_scalars_become_numbers():
  back = encoding.decode(encoding.encode({"a": np.int64(3), "b": np.float32(0.5), "c": np.True_}))
  assert back == {"a": 3, "b": 0.5, "c": True}


@pytest.mark.parametrize(
  "value", [None, {"a": 1}, [1, 2], b"bytes", np.array(["text"]), np.array([None]), object()]
)
def test_other_types_are_refused_at_writing(value):
  with pytest.raises(TypeError, match="'x'"):
    encoding.encode({"x": value})


def test_every_truncation_is_noticed():
  data = encoding.encode(RECORD)
  for length in range(0, len(data) - 1, 3):
    with pytest.raises(RecordError):
      encoding.decode(data[:length])
  with pytest.raises(RecordError, match="follow"):
    encoding.decode(data + b"\0")


@pytest.mark.parametrize(
  "header",
  [
    {"values": {}, "arrays": {"x": ["object", [1]]}},
    {"values": {}, "arrays": {"x": ["float32", [1 << 60]]}},
    {"values": {}, "arrays": {"x": ["float32", [-1]]}},
    {"values": {}, "arrays": {"x": ["nonsense", [1]]}},
    {"values": {}, "arrays": {"x": 5}},
    {"values": 3, "arrays": {}},
    [],
    {},
  ],
)
def test_hostile_headers_are_refused(header):
  text = json.dumps(header).encode()
  with pytest.raises(RecordError):
    encoding.decode(b"MGR1" + struct.pack("<I", len(text)) + text + b"\0" * 64)


def test_random_bytes_are_refused():
  rng = np.random.default_rng(0)
  for _ in range(50):
    with pytest.raises(RecordError):
      encoding.decode(rng.bytes(200))
