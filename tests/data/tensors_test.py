"""Files of arrays: what is written is read back, and what does not add up is refused."""

import json

import ml_dtypes
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data import tensors

ARRAYS = {
  "a": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b/c": np.array([1, -2.5, 3], ml_dtypes.bfloat16),
  "empty": np.zeros((0, 4), np.int64),
  "scalar": np.array(7, np.uint8),
}


@pytest.fixture
def path(tmp_path):
  shapes = {name: (a.shape, a.dtype) for name, a in ARRAYS.items()}
  tensors.write(tmp_path / "w.safetensors", shapes, [(n, [a]) for n, a in ARRAYS.items()])
  return tmp_path / "w.safetensors"


def _rewrite(path, header, data=b""):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_round_trip(path):
  file = tensors.TensorFile(path)
  assert list(file) == list(ARRAYS)
  for name, array in ARRAYS.items():
    read = file.read(name)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("name", tensors.DTYPES)
def test_every_type_of_the_format_is_read(tmp_path, name):
  dtype, path = tensors.DTYPES[name], tmp_path / "w.safetensors"
  _rewrite(
    path, {"x": {"dtype": name, "shape": [2], "data_offsets": [0, 2 * dtype.itemsize]}},
    np.array([0, 1], dtype).tobytes(),
  )  # fmt: skip
  read = tensors.TensorFile(path).read("x")
  assert read.dtype == dtype and read[1] == dtype.type(1)


def test_parts_are_joined_and_converted(tmp_path):
  path, whole = tmp_path / "w.safetensors", np.arange(12.0).reshape(3, 2, 2)
  parts = (part.T for part in whole)
  tensors.write(path, {"x": ((3, 2, 2), "float16")}, [("x", parts)])
  read = tensors.TensorFile(path).read("x")
  np.testing.assert_array_equal(read, whole.transpose(0, 2, 1).astype(np.float16))


@pytest.mark.parametrize(
  "parts", [[("x", [np.zeros(3)])], [("y", [np.zeros(4)])], []], ids=["size", "name", "none"]
)
def test_what_does_not_fit_leaves_no_file(tmp_path, parts):
  with pytest.raises(ValueError):
    tensors.write(tmp_path / "w.safetensors", {"x": ((4,), "float32")}, parts)
  assert not list(tmp_path.iterdir())


def test_the_published_library_agrees(path):
  library = pytest.importorskip("safetensors.numpy")
  for name in ("a", "empty", "scalar"):
    np.testing.assert_array_equal(library.load_file(path)[name], ARRAYS[name])
  library.save_file({"z": ARRAYS["a"]}, path)
  np.testing.assert_array_equal(tensors.TensorFile(path).read("z"), ARRAYS["a"])


ROW = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
  "header, data, message",
  [
    ({"a": ROW}, bytes(4), "header states"),
    ({"a": ROW}, bytes(12), "header states"),
    ({"a": ROW | {"data_offsets": [0, 4]}}, bytes(4), "invalid byte range"),
    ({"a": ROW, "b": ROW}, bytes(8), "invalid byte range"),
    ({"a": ROW | {"data_offsets": [4, 12]}}, bytes(12), "invalid byte range"),
    ({"a": ROW | {"shape": [-2]}}, bytes(8), "malformed"),
    ({"a": ROW | {"shape": [1e9]}}, bytes(8), "malformed"),
    ({"a": ROW | {"dtype": "F8"}}, bytes(8), "a has the dtype 'F8', which is not supported; give"),
    ({"a": 3}, b"", "malformed"),
    ([1], b"", "malformed"),
    (b"not json", b"", "malformed"),
    (b"[" * 100_000, b"", "malformed"),
    (b'{"a": 1, "a": 2}', b"", "duplicate names"),
    (b'{"a": {"dtype": "F32", "dtype": "F32"}}', b"", "duplicate names"),
  ],
)
def test_a_header_that_does_not_add_up_is_refused(tmp_path, header, data, message):
  path = tmp_path / "w.safetensors"
  _rewrite(path, header, data)
  with pytest.raises(UserError, match=message):
    tensors.TensorFile(path)


@pytest.mark.parametrize("content", [b"", b"1234567", (1 << 60).to_bytes(8, "little") + b"{}"])
def test_files_that_are_cut_off_are_refused(tmp_path, content):
  (tmp_path / "w.safetensors").write_bytes(content)
  with pytest.raises(UserError, match="truncated"):
    tensors.TensorFile(tmp_path / "w.safetensors")
  with pytest.raises(UserError, match="cannot be read"):
    tensors.TensorFile(tmp_path / "none")
