import json
import os

import pytest

from mg_jax.core.errors import UserError
from mg_jax.data import atomic


def test_failure_leaves_the_old_file_and_no_trace(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("old")
  with pytest.raises(RuntimeError):
    with atomic.replacing(path) as partial:
      partial.write_text("half")
      raise RuntimeError
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_seen_before_the_end(tmp_path):
  path = tmp_path / "new" / "a.txt"
  with atomic.replacing(path) as partial:
    partial.write_text("whole")
    assert not path.exists() and partial.parent == path.parent
    assert partial.name.startswith(atomic.PREFIX), "leftovers would look like data"
  assert path.read_text() == "whole"
  assert list(path.parent.iterdir()) == [path]


def test_json_and_lines(tmp_path):
  atomic.write_json(tmp_path / "a.json", {"b": 1, "a": "\ud800"})
  assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1, "a": "\ud800"}
  atomic.write_jsonl(tmp_path / "a.jsonl", [{"x": 1}, {"x": "line\nbreak"}])
  lines = (tmp_path / "a.jsonl").read_text().splitlines()
  assert [json.loads(line)["x"] for line in lines] == [1, "line\nbreak"]


@pytest.mark.parametrize("name", ["a.mp4", "new/deep/a.mp4", 250 * "n" + ".wav", "there.txt"])
def test_a_place_that_can_be_written_is_tried_without_a_trace(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "there.txt").write_text("old")
  for path in (name, tmp_path / name):
    atomic.check_writable(path)
  assert os.listdir(tmp_path) == ["there.txt"] and (tmp_path / "there.txt").read_text() == "old"
  with atomic.replacing(tmp_path / name) as partial:
    partial.write_text("new")
  assert (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("name, words", [
  ("folder", "folder is a folder"), ("file/a.mp4", "file cannot be written"),
  ("file/deep/a.mp4", "file cannot be written"), (300 * "n", "name too long"),
  ("new/" + 300 * "n", "name too long"), ("/proc/nowhere/a.mp4", "/proc cannot be written"),
])  # fmt: skip
def test_a_place_that_cannot_be_written_is_told(tmp_path, name, words):
  (tmp_path / "folder").mkdir()
  (tmp_path / "file").write_text("x")
  with pytest.raises(UserError, match=words):
    atomic.check_writable(tmp_path / name)
  assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
