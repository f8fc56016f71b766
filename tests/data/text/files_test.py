import codecs

import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.text import files as textfiles

TEXT = "a dög\r\n\n  two suns 🌞 \u2028 x\n"


@pytest.mark.parametrize(
  "data",
  [
    TEXT.encode(),
    TEXT.encode("utf-8-sig"),
    codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
  ],
)
def test_every_mark_of_byte_order_is_understood_and_dropped(tmp_path, data):
  (tmp_path / "a.txt").write_bytes(data)
  assert textfiles.read(tmp_path / "a.txt") == TEXT
  assert textfiles.lines(tmp_path / "a.txt") == [(1, "a dög"), (3, "two suns 🌞 \u2028 x")]


@pytest.mark.parametrize(
  "data, words",
  [
    ("a\nb\nd\u00f6g".encode("latin-1"), "a.txt is not UTF-8 text: line 3, byte 6 of the file"),
    (codecs.BOM_UTF8 + b"a\n\xe9t\xe9", "line 2, byte 6 of the file, is 0xe9"),
    (codecs.BOM_UTF16_LE + b"a", "is invalid UTF-16"),
    ("ab\ncd".encode("utf-16-le"), "line 1 holds a zero byte, as UTF-16 without"),
  ],
)
def test_other_encodings_are_refused_with_the_place(tmp_path, data, words):
  (tmp_path / "a.txt").write_bytes(data)
  with pytest.raises(UserError, match=words):
    textfiles.read(tmp_path / "a.txt")


def test_files_that_cannot_be_read_are_named(tmp_path):
  with pytest.raises(UserError, match="list of names .*none.txt cannot be read .No such file"):
    textfiles.read(tmp_path / "none.txt", what="list of names")
  with pytest.raises(UserError, match="cannot be read .Is a directory"):
    textfiles.read(tmp_path)
