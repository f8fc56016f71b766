import json

import pytest

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
