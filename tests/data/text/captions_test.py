import codecs
import json
import unicodedata

import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.text.captions import Caption, read_captions

DECOMPOSED = unicodedata.normalize("NFD", "é.mp4")
COMPOSED = unicodedata.normalize("NFC", "é.mp4")


def _rows(folder, *rows, head=b""):
  text = "\n".join(json.dumps(row) for row in rows)
  (folder / "captions.jsonl").write_bytes(head + text.encode())


def _files(folder, *names):
  for name in names:
    (folder / name).write_bytes(b"x")
  return list(names)


def test_rows_come_before_files_beside_and_may_leave_the_text_to_them(tmp_path):
  names = _files(tmp_path, "a.mp4", "b.mp4", "c.mp4")
  (tmp_path / "b.txt").write_text(" beside\n")
  (tmp_path / "c.txt").write_text("beside c")
  _rows(
    tmp_path, {"file": "a.mp4", "caption": "row", "camera": "pan left", "sound_caption": "hum"},
    {"file": "c.mp4", "caption": " ", "camera": "aerial"},
  )  # fmt: skip
  assert read_captions(tmp_path, names, required=True) == {
    "a.mp4": Caption("row", "pan left", "hum"),
    "b.mp4": Caption("beside"),
    "c.mp4": Caption("beside c", "aerial"),
  }


def test_marks_of_byte_order_are_no_part_of_a_caption(tmp_path):
  names = _files(tmp_path, "a.mp4", "b.mp4")
  (tmp_path / "b.txt").write_bytes(codecs.BOM_UTF8 + "ein Bär".encode())
  _rows(tmp_path, {"file": "a.mp4", "caption": "row"}, head=codecs.BOM_UTF8)
  told = read_captions(tmp_path, names, required=True)
  assert (told["a.mp4"].text, told["b.mp4"].text) == ("row", "ein Bär")


def test_captions_that_are_no_utf8_are_refused_by_name(tmp_path):
  names = _files(tmp_path, "a.mp4")
  (tmp_path / "a.txt").write_bytes("ein Bär".encode("latin-1"))
  with pytest.raises(UserError, match=r"a\.txt is not UTF-8 text: line 1, byte 6"):
    read_captions(tmp_path, names, required=False)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_caption_is_none(tmp_path, text):
  names = _files(tmp_path, "a.mp4")
  (tmp_path / "a.txt").write_text(text)
  with pytest.raises(UserError, match=r"a\.mp4 has an empty caption; write it to a\.txt"):
    read_captions(tmp_path, names, required=True)
  (tmp_path / "a.txt").unlink()
  _rows(tmp_path, {"file": "a.mp4", "caption": text, "sound_caption": "hum"})
  assert read_captions(tmp_path, names, required=True)["a.mp4"].sound == "hum"
  with pytest.raises(UserError, match="has an empty caption"):
    read_captions(tmp_path, names, required=True, sound=False)


@pytest.mark.parametrize("file, row", [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_names_are_compared_in_composed_form(tmp_path, file, row, caplog):
  names = _files(tmp_path, file)
  _rows(tmp_path, {"file": row, "caption": "an accent"})
  assert read_captions(tmp_path, names, required=True)[file].text == "an accent"
  (tmp_path / "captions.jsonl").unlink()
  (tmp_path / row).with_suffix(".txt").write_text("beside")
  assert read_captions(tmp_path, names, required=True)[file].text == "beside"
  assert not caplog.records


def test_two_files_that_differ_in_form_alone_keep_their_rows(tmp_path):
  names = _files(tmp_path, DECOMPOSED, COMPOSED)
  _rows(tmp_path, {"file": DECOMPOSED, "caption": "apart"}, {"file": COMPOSED, "caption": "one"})
  told = read_captions(tmp_path, names, required=True)
  assert (told[DECOMPOSED].text, told[COMPOSED].text) == ("apart", "one")


def test_of_two_rows_for_a_file_the_last_counts_and_the_other_is_named(tmp_path, caplog):
  names = _files(tmp_path, "a.mp4")
  _rows(tmp_path, *({"file": "a.mp4", "caption": text} for text in ("first", "last")))
  assert read_captions(tmp_path, names, required=True)["a.mp4"].text == "last"
  assert "1 rows are not used, as later ones name the same file: a.mp4" in caplog.text


@pytest.mark.parametrize("row", ["/data/clips/a.mp4", "clips/a.mp4", "C:\\clips\\a.mp4"])
def test_rows_with_folders_are_named_with_a_hint(tmp_path, row, caplog):
  names = _files(tmp_path, "a.mp4")
  _rows(tmp_path, {"file": row, "caption": "x"}, {"file": "gone.mp4", "caption": "y"})
  with pytest.raises(UserError, match=r"a\.mp4 has no caption; a row of captions\.jsonl names it"):
    read_captions(tmp_path, names, required=True)
  assert read_captions(tmp_path, names, required=False) == {"a.mp4": Caption()}
  assert "2 of 2 rows match no file" in caplog.text and row in caplog.text
  assert "1 would match by name only" in caplog.text


def test_rows_of_other_files_of_the_folder_are_no_mistake(tmp_path, caplog):
  names = _files(tmp_path, "a.mp4", "b.png")
  _rows(tmp_path, *({"file": name, "caption": name} for name in names))
  read_captions(tmp_path, names[:1], required=True)
  assert not caplog.records
