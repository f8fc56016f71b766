"""Conditions: what a row takes of a record, and the null that stands in for what is missing."""

import pickle

import jax
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mg_jax.core.errors import UserError
from mg_jax.data.conditions import (
  ClassId,
  Condition,
  Constant,
  Default,
  Frames,
  Image,
  Latent,
  Mask,
  View,
)
from mg_jax.data.text.condition import Text
from mg_jax.data.text.prompts import decode_bytes
from mg_jax.data.text.readers import Reader, TextConfig
from mg_jax.data.text.tokenizers import open_tokenizer

READER = Reader(TextConfig(length=12), open_tokenizer("bytes"))
ALL = {
  "text": Text(12, reader=READER),
  "features": Text(4, features=3, cached=True),
  "frames": Frames(rate=5.0, fps=10.0, size=2),
  "tower": Frames(rate=5.0, fps=10.0, size=2, features=3),
  "face": Image(size=2, count=3),
  "first": Latent(channels=2),
  "task": ClassId(classes=4),
  "mask": Mask(),
}
GRID = (3, 2, 4)


def _record(grid):
  """What a record holds for all of the conditions."""
  t, h, w = grid
  return {
    "text/features/0": np.ones((2, 3), np.float32),
    "image": np.arange(1, 8, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8),
    "features": np.arange(1, 8, dtype=np.float16)[:, None] * np.ones(3, np.float16),
    "given/face": np.full((2, 2, 2, 3), 9, np.uint8),
    "latent/first": np.full((1, h, w, 2), 3, np.float32),
    "given/task": 2,
    "given/mask": np.ones((t, h, w), bool),
  }


def _view(grid=GRID, **fields):
  return View(**{"grid": grid, "caption": "a dog", "length": grid[0]} | fields)


def _alike(row, null):
  assert jax.tree.structure(row) == jax.tree.structure(null)
  for a, b in zip(jax.tree.leaves(row), jax.tree.leaves(null), strict=True):
    assert np.shape(a) == np.shape(b) and np.asarray(a).dtype == np.asarray(b).dtype


@given(st.tuples(*[st.integers(1, 6)] * 3), st.integers(0, 9), st.integers(0, 6))
def test_a_row_has_the_shapes_of_the_null_whatever_the_grid(grid, start, length):
  view = _view(grid, start=start, length=min(length, grid[0]))
  for name, condition in ALL.items():
    record = _record(grid)
    if name == "tower":
      record.pop("image")
    row, null = condition.row(name, record, view), condition.null(grid)
    _alike(row, null)
    if not isinstance(condition, Frames) or view.length:
      assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (row, null)), strict=True))


@pytest.mark.parametrize("name", [n for n in ALL if not isinstance(ALL[n], Text)])
def test_a_record_without_an_entry_gives_the_null(name):
  condition = ALL[name]
  row, null = condition.row(name, {}, _view()), condition.null(GRID)
  _alike(row, null)
  jax.tree.map(np.testing.assert_array_equal, row, null)


@pytest.mark.parametrize("name", ALL)
def test_workers_get_the_same_condition(name):
  condition = ALL[name]
  assert isinstance(condition, Condition)
  again = pickle.loads(pickle.dumps(condition))
  rows = [c.row(name, _record(GRID), _view()) for c in (condition, again)]
  jax.tree.map(np.testing.assert_array_equal, *rows)


def test_text_is_read_with_its_tags_or_taken_of_the_wording_drawn():
  row = ALL["text"].row("text", {}, _view(tags={"fps": 8}))
  assert decode_bytes(row["ids"]) == "FPS-8 a dog"
  record = _record(GRID) | {"text/features/1": np.full((9, 3), 2, np.float32)}
  short, long = (ALL["features"].row("features", record, _view(wording=k)) for k in (0, 1))
  assert short["mask"].tolist() == [True, True, False, False] and not short["features"][2:].any()
  assert long["mask"].all() and (long["features"] == 2).all()


@pytest.mark.parametrize("name", ["frames", "tower"])
def test_a_latent_has_the_frame_at_its_start_and_padding_none(name):
  record, view = _record(GRID), _view((3, 1, 1), start=1, length=2)
  row = ALL[name].row(name, record, view)
  if name == "frames":
    assert row["image"].shape[0] == 5 and row["mask"].tolist() == [True, True, False]
    # The images from the third on, 0.2 s after the first, in steps of two.
    assert row["image"][row["at"][:2], 0, 0, 0].tolist() == [3, 5]
    assert row["at"][2] == 0
  else:
    assert row[:, 0].tolist() == [3, 5, 0]


def test_the_last_frame_stands_for_those_that_a_video_lacks():
  record = {"image": _record(GRID)["image"][:4]}
  row = ALL["frames"].row("frames", record, _view((3, 1, 1), start=1))
  assert row["image"][row["at"], 0, 0, 0].tolist() == [3, 4, 4] and row["mask"].all()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_pictures_are_as_many_as_there_are_and_fit(count):
  pictures = np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None] * np.ones(
    (2, 2, 3), np.uint8
  )
  row = ALL["face"].row("face", {"given/face": pictures}, _view())
  kept = min(count, 3)
  assert row["mask"].tolist() == [k < kept for k in range(3)]
  np.testing.assert_array_equal(row["image"][:kept], pictures[:kept])
  assert not row["image"][kept:].any()
  if count == 1:  # one alone needs no axis of its own
    alone = ALL["face"].row("face", {"given/face": pictures[0]}, _view())
    jax.tree.map(np.testing.assert_array_equal, alone, row)


def test_a_latent_is_normalised_as_the_clip_is_and_says_where_it_is_known():
  view = _view(mean=(1.0, 2.0), std=(2.0, 0.5))
  row = ALL["first"].row("first", _record(GRID), view)
  np.testing.assert_array_equal(row[0], np.broadcast_to([1.0, 2.0, 1.0], (2, 4, 3)))
  assert not row[1:].any()


def test_a_latent_is_placed_at_the_beginning():
  latent = np.random.default_rng(0).normal(size=(2, 2, 4, 2)).astype(np.float32)
  entry = ALL["first"].place(latent, GRID)
  np.testing.assert_array_equal(entry[:2, ..., :2], latent)
  assert (entry[:2, ..., 2] == 1).all() and not entry[2].any()
  whole = ALL["first"].place(np.zeros((*GRID, 2), np.float32), GRID)
  assert (whole[..., 2] == 1).all()


@pytest.mark.parametrize("shape", [(4, 2, 4, 2), (1, 2, 3, 2), (1, 3, 4, 2), (1, 2, 4, 3)])
def test_a_latent_that_does_not_fit_is_refused(shape):
  with pytest.raises(UserError, match=r"does not fit the grid \(3, 2, 4\)"):
    ALL["first"].place(np.zeros(shape, np.float32), GRID)


def test_a_class_of_a_record_comes_before_the_constant_and_its_null_is_one_past_the_last():
  default, constant = (kind(ClassId(classes=4), 1) for kind in (Default, Constant))
  record = {"given/task": 0}
  assert default.row("task", {}, _view()) == constant.row("task", {}, _view()) == 1
  assert default.row("task", record, _view()) == 0 and constant.row("task", record, _view()) == 1
  assert Default(ClassId(4)).row("task", record, _view()) == 0
  assert Default(ClassId(4)).row("task", {}, _view()) == 4
  assert constant.null(GRID) == ALL["task"].row("task", {}, _view()) == 4


@pytest.mark.parametrize("found", [-1, 4])
def test_a_class_out_of_range_is_refused(found):
  with pytest.raises(UserError, match=f"'task' has class {found}; classes are 0..3"):
    ALL["task"].row("task", {"given/task": found}, _view())


def test_masks_and_pictures_of_another_size_are_refused():
  with pytest.raises(UserError, match=r"'mask' has a mask of \(3, 2, 5\).*is of \(3, 2, 4\)"):
    ALL["mask"].row("mask", {"given/mask": np.ones((3, 2, 5), bool)}, _view())
  for shape in ((2, 4, 3), (2, 4, 4, 3), (2, 2, 1)):
    with pytest.raises(UserError, match="'face' has a picture of .*conditions.face.size is 2"):
      ALL["face"].row("face", {"given/face": np.zeros(shape, np.uint8)}, _view())


@pytest.mark.parametrize("name", ["text", "first", "task", "mask"])
def test_a_null_constant_stands_for_every_record(name):
  constant = Constant(ALL[name])
  row, null = constant.row(name, _record(GRID), _view()), ALL[name].null(GRID)
  _alike(row, null)
  jax.tree.map(np.testing.assert_array_equal, row, null)


def test_values_of_caption_files_and_requests_are_read(tmp_path):
  PIL.Image.new("RGB", (30, 20), (200, 0, 0)).save(tmp_path / "a.png")
  found = ALL["face"].read("face", ["a.png", "a.png"], str(tmp_path))
  assert found.shape == (2, 2, 2, 3) and np.abs(found - np.array([200, 0, 0])).max() < 5
  np.testing.assert_array_equal(ALL["face"].read("face", str(tmp_path / "a.png"))[0], found[0])
  np.save(tmp_path / "m.npy", np.ones(GRID, bool))
  assert ALL["mask"].read("mask", "m.npy", str(tmp_path)).all()
  assert ALL["task"].read("task", "3") == ALL["task"].read("task", 3) == 3


@pytest.mark.parametrize("name, value, words", [
  ("task", "red", "'task' is 'red'; give the number of a class"),
  ("task", 1.5, "'task' is 1.5; give the number"),
  ("task", float("inf"), "'task' is inf; give the number"),
  ("task", ["1", "2"], "give the number of a class"),
  ("task", True, "'task' is True; give the number"),
  ("task", 4, "classes are 0..3"),
  ("face", 3, "'face' is 3; give an image file, or a list"),
  ("face", [], "give an image file, or a list"),
  ("face", ["a.png"] * 4, "has 4 images; config conditions.face.count is 3"),
  ("face", "../a.png", "names '../a.png'; give a file of the folder"),
  ("face", "/etc/passwd", "names '/etc/passwd'; give a file of the folder"),
  ("face", "none.png", "condition 'face': .*none.png"),
  ("face", "mask.npy", "condition 'face': .*mask.npy"),
  ("mask", "none.npy", "none.npy cannot be read as an .npy file"),
  ("mask", "mask.npy", "mask.npy has no bool array"),
  ("mask", "object.npy", "object.npy cannot be read"),
  ("mask", [True], "give an .npy file"),
])  # fmt: skip
def test_values_that_are_none_are_refused(name, value, words, tmp_path):
  np.save(tmp_path / "mask.npy", np.ones(GRID))
  np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
  with pytest.raises(UserError, match=words):
    ALL[name].read(name, value, str(tmp_path))
