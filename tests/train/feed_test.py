"""The feed: order, position, placement, waiting and failures."""

import time

import jax
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.train.feed import Feed, place_batch


@pytest.fixture
def mesh():
  return make_mesh((4, 2, 1, 1))


def test_batches_arrive_in_order_split_over_the_mesh(toy, mesh):
  feed = Feed(toy.Stream(), mesh)
  for number in range(3):
    batch = next(feed)
    np.testing.assert_array_equal(batch["index"], np.arange(16) + 100 * number)
    assert batch["x"].addressable_shards[0].data.shape == (2, 8)
    assert "caption" not in batch and feed.host["caption"][0] == "a"
  feed.close()


def test_rows_that_every_process_has_are_placed_as_they_stand(mesh):
  rows = {"x": np.arange(32.0).reshape(16, 2), "caption": np.array(["a"] * 16)}
  whole, own = place_batch(rows, mesh, whole=True), place_batch(rows, mesh)
  assert whole.keys() == {"x"} and whole["x"].sharding == own["x"].sharding
  np.testing.assert_array_equal(whole["x"], rows["x"])
  with pytest.raises(UserError, match="a batch of 15 does not divide over 8 devices"):
    place_batch({"x": rows["x"][:15]}, mesh, whole=True)


def test_position_leaves_out_what_was_drawn_ahead(toy, mesh):
  stream = toy.Stream()
  feed = Feed(stream, mesh)
  assert feed.get_state() == {"next": 0}
  next(feed)
  deadline = time.monotonic() + 5
  while len(stream.drawn) < 3 and time.monotonic() < deadline:
    time.sleep(0.01)
  assert len(stream.drawn) >= 3, "nothing is drawn ahead"
  assert feed.get_state() == {"next": 1}
  np.testing.assert_array_equal(feed.peek()["index"][0], 100)
  assert feed.get_state() == {"next": 1}, "a peek does not move on"
  feed.set_state({"next": 7})
  assert next(feed)["index"][0] == 700 and feed.get_state() == {"next": 8}
  feed.close()


def test_waiting_for_data_is_measured(toy, mesh):
  class Slow(toy.Stream):
    def __next__(self):
      time.sleep(0.1)
      return super().__next__()

  feed = Feed(Slow(), mesh)
  next(feed)
  assert 0.09 < feed.wait < 2
  feed.close()


def test_a_failure_while_drawing_is_raised_each_time_with_its_position(toy, mesh):
  class Broken(toy.Stream):
    def __next__(self):
      if self.position == 1:
        raise OSError("clip_17.mp4 is cut short")
      return super().__next__()

  feed = Feed(Broken(), mesh)
  next(feed)
  for _ in range(2):
    with pytest.raises(OSError, match="clip_17") as caught:
      next(feed)
  assert "data position {'next': 1}" in caught.value.__notes__[0]
  feed.close()


def test_the_end_of_the_data_is_told(toy, mesh):
  feed = Feed(toy.Stream(end=1), mesh)
  next(feed)
  with pytest.raises(StopIteration):
    next(feed)
  with pytest.raises(UserError, match="end at position"):
    feed.peek()
  feed.close()


def test_a_batch_that_does_not_divide_is_refused(mesh):
  with pytest.raises(UserError, match="12 does not divide over 8"):
    place_batch({"x": np.zeros((12, 2), np.float32)}, mesh)


def test_nested_batches_keep_their_structure(mesh):
  batch = {"text": {"ids": np.zeros((8, 3), np.int32), "raw": np.array(["x"] * 8)}}
  placed = place_batch(batch, mesh)
  assert set(placed["text"]) == {"ids"} and isinstance(placed["text"]["ids"], jax.Array)
