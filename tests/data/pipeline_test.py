import collections
import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mg_jax.core.errors import UserError
from mg_jax.data import pipeline
from mg_jax.data.pipeline import Entry, Feed

BATCH = 8


class Numbers:
  """A source of `length` numbers starting at `first`; reading `broken` fails."""

  def __init__(self, length, first=0, broken=None):
    self.length, self.first, self.broken = length, first, broken

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    if index == self.broken:
      raise ValueError("unreadable")
    return self.first + index


class Row:
  """A row of `width` copies of the number, with a random draw."""

  def __init__(self, width=1):
    self.width = width

  def __call__(self, index, record, rng):
    draw = np.int32(rng.integers(1 << 30))
    return {"x": np.full(self.width, record), "index": np.int32(index), "in": {"draw": draw}}


def feed(**changes):
  """Thirty images and twenty videos as 1 to 3; rows of the two do not stack with each other."""
  entries = (
    Entry("image", Numbers(30), Row(1), weight=1),
    Entry("video", Numbers(20, first=100), Row(4), weight=3),
  )
  return Feed(**{"entries": entries, "global_batch": BATCH, "seed": 7, **changes})


def take(stream, count):
  batches = [next(stream) for _ in range(count)]
  stream.close()
  return batches


def same(left, right):
  for a, b in zip(left, right, strict=True):
    np.testing.assert_array_equal(a["x"], b["x"])
    np.testing.assert_array_equal(a["index"], b["index"])
    np.testing.assert_array_equal(a["in"]["draw"], b["in"]["draw"])


def test_every_batch_is_of_one_entry_and_weights_are_exact_in_every_window():
  widths = [batch["x"].shape for batch in take(feed().stream(), 40)]
  assert set(widths) == {(BATCH, 1), (BATCH, 4)}
  windows = [tuple(widths[k : k + 4]) for k in range(0, 40, 4)]
  assert all(window.count((BATCH, 1)) == 1 for window in windows)
  assert len(set(windows)) > 1, "the order within windows never changes"


def test_weights_are_reduced_to_lowest_terms():
  entries = tuple(
    Entry(name, Numbers(10), Row(width), weight=weight)
    for name, width, weight in (("a", 1, 50), ("b", 2, 100))
  )
  widths = [b["x"].shape[1] for b in take(feed(entries=entries).stream(), 30)]
  assert all(widths[k : k + 3].count(1) == 1 for k in range(0, 30, 3))


def test_every_epoch_holds_each_record_once_in_a_new_order():
  batches = [b for b in take(feed().stream(), 40) if b["x"].shape[1] == 4]
  indices = np.concatenate([batch["index"] for batch in batches])
  epochs = [tuple(indices[k : k + 20].tolist()) for k in range(0, 240, 20)]
  assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
  assert len(set(epochs)) == len(epochs)
  values = np.concatenate([batch["x"][:, 0] for batch in batches])
  np.testing.assert_array_equal(values, indices + 100)


def test_draws_differ_between_epochs_and_seeds():
  single = feed(entries=(Entry("a", Numbers(8), Row()),))
  epochs = take(single.stream(), 2)
  first, second = (
    dict(zip(b["index"].tolist(), b["in"]["draw"].tolist(), strict=True)) for b in epochs
  )
  assert all(first[k] != second[k] for k in range(8))
  other = take(feed(seed=8).stream(), 4)
  with pytest.raises(AssertionError):
    same(take(feed().stream(), 4), other)


def test_entries_of_one_source_are_not_shuffled_alike():
  entries = tuple(Entry(name, Numbers(64), Row()) for name in ("a", "b"))
  a, b = take(feed(entries=entries, global_batch=64).stream(), 2)
  assert (a["index"] == b["index"]).mean() < 0.2


@pytest.mark.parametrize("processes", [2, 4])
def test_shards_together_are_the_single_stream(processes):
  whole = take(feed().stream(), 9)
  shards = [
    take(feed().stream(process_index=k, process_count=processes), 9) for k in range(processes)
  ]
  for step, batch in enumerate(whole):
    for k in range(processes):
      np.testing.assert_array_equal(shards[k][step]["x"], np.split(batch["x"], processes)[k])
      np.testing.assert_array_equal(
        shards[k][step]["in"]["draw"], np.split(batch["in"]["draw"], processes)[k]
      )


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_threads_change_nothing(threads):
  same(take(feed().stream(threads=threads), 12), take(feed().stream(), 12))


@pytest.mark.slow
def test_workers_change_nothing():
  plain = take(feed().stream(), 12)
  stream = feed().stream(workers=2)
  stream.set_state({"global_next_index": 5 * BATCH})
  same([next(stream) for _ in range(7)], plain[5:])
  assert stream.get_state() == {"global_next_index": 12 * BATCH, "global_batch": BATCH}
  stream.close()


@pytest.mark.parametrize("before, after", [(1, 1), (1, 4), (4, 2)])
def test_state_restores_under_any_process_count(before, after):
  whole = take(feed().stream(), 14)
  stream = feed().stream(process_index=before - 1, process_count=before)
  take(stream, 6)
  state = stream.get_state()
  assert state == {"global_next_index": 6 * BATCH, "global_batch": BATCH}
  for k in range(after):
    again = feed().stream(process_index=k, process_count=after)
    next(again)
    again.set_state(state)
    assert again.get_state() == state
    for batch, expected in zip(take(again, 8), whole[6:], strict=True):
      np.testing.assert_array_equal(batch["x"], np.split(expected["x"], after)[k])


@pytest.mark.parametrize(
  "state",
  [
    {},
    {"global_next_index": -8},
    {"global_next_index": 8.0},
    {"global_next_index": 12, "global_batch": 8},
    {"global_next_index": 8, "global_batch": 0},
    {"global_next_index": 8, "global_batch": "8"},
  ],
)
def test_what_is_no_state_is_refused(state):
  with pytest.raises(UserError, match="global batch of .*; resume from another checkpoint"):
    feed().stream().set_state(state)


def test_states_of_older_runs_are_read(caplog):
  whole = take(feed().stream(), 8)
  stream = feed().stream()
  stream.set_state({"global_next_index": 6 * BATCH})
  same(take(stream, 2), whole[6:])
  assert not caplog.records
  stream = feed().stream()
  stream.set_state({"global_next_index": 6 * BATCH - 3})
  same(take(stream, 2), whole[6:])
  assert "was another and is 8: the data continue at element 48, 3 are skipped" in caplog.text


@pytest.mark.parametrize("before, after, block", [(12, 8, 5), (6, 8, 3), (4, 8, 2), (16, 8, 6)])
def test_another_global_batch_goes_on_at_the_next_whole_block(before, after, block, caplog):
  """After three batches of `before`; the new stream then is that of a run of its own."""
  old = feed(global_batch=before).stream()
  take(old, 3)
  state = old.get_state()
  whole = take(feed(global_batch=after).stream(), block + 4)
  for processes in (1, 2):
    shards = []
    for k in range(processes):
      stream = feed(global_batch=after).stream(process_index=k, process_count=processes)
      stream.set_state(state)
      assert stream.get_state() == {"global_next_index": block * after, "global_batch": after}
      shards.append(take(stream, 4))
    for batches, expected in zip(zip(*shards, strict=True), whole[block:], strict=True):
      joined = np.concatenate([batch["index"] for batch in batches])
      np.testing.assert_array_equal(joined, expected["index"])
  begin = block * after
  message = f"the global batch was {before} and is {after}: the data continue at element {begin}"
  assert f"{message}, {begin - 3 * before} are skipped" in caplog.text


def grouped(**changes):
  """Batches of 24 images beside those of 8 videos, as 1 to 3."""
  image, clip = feed().entries
  return feed(entries=(dataclasses.replace(image, rows=3), clip), **changes)


def test_an_entry_may_have_larger_batches():
  batches = take(grouped().stream(), 40)
  shapes = collections.Counter(batch["x"].shape for batch in batches)
  assert shapes == {(3 * BATCH, 1): 10, (BATCH, 4): 30}
  images = [batch for batch in batches if batch["x"].shape[1] == 1]
  assert images[0]["in"]["draw"].shape == images[0]["index"].shape == (3 * BATCH,)
  # Every epoch holds each image once still, 30 of them in 240 rows.
  indices = np.concatenate([batch["index"] for batch in images]).reshape(8, 30)
  assert (np.sort(indices, axis=1) == np.arange(30)).all()
  np.testing.assert_array_equal(images[0]["x"][:, 0], images[0]["index"])
  # Videos do not see what images do.
  clips = [b for b in take(feed().stream(), 40) if b["x"].shape[1] == 4]
  same([b for b in batches if b["x"].shape[1] == 4], clips)


@pytest.mark.parametrize("processes", [2, 4])
def test_larger_batches_are_split_alike(processes):
  whole = take(grouped().stream(), 9)
  shards = [
    take(grouped().stream(process_index=k, process_count=processes, threads=k), 9)
    for k in range(processes)
  ]
  for step, batch in enumerate(whole):
    for name in ("x", "index"):
      joined = np.concatenate([shard[step][name] for shard in shards])
      np.testing.assert_array_equal(joined, batch[name])


@pytest.mark.parametrize("processes", [1, 2])
def test_larger_batches_are_resumed(processes):
  whole = take(grouped().stream(), 14)
  stream = grouped().stream()
  take(stream, 6)
  pieces = []
  for k in range(processes):
    again = grouped().stream(process_index=k, process_count=processes)
    again.set_state(stream.get_state())
    pieces.append(take(again, 8))
  for step, batch in enumerate(whole[6:]):
    joined = np.concatenate([piece[step]["in"]["draw"] for piece in pieces])
    np.testing.assert_array_equal(joined, batch["in"]["draw"])


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_names_the_record_and_never_ends_the_stream_silently(threads):
  entries = (Entry("clips", Numbers(40, broken=13), Row()),)
  stream = feed(entries=entries).stream(threads=threads)
  with pytest.raises(RuntimeError, match="'clips', record 13: unreadable"):
    take(stream, 5)
  with pytest.raises(RuntimeError, match="stream has failed"):
    next(stream)
  stream.set_state({"global_next_index": 5 * BATCH})
  assert next(stream)["x"].shape == (BATCH, 1)
  stream.close()


def test_error_of_a_transform_names_the_record():
  def broken(index, record, rng):
    raise KeyError("latent")

  with pytest.raises(RuntimeError, match="'clips', record .*latent"):
    next(feed(entries=(Entry("clips", Numbers(4), broken),)).stream(threads=0))


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"entries": ()}, "entries"),
    (
      {"entries": (Entry("a", Numbers(3), Row()), Entry("a", Numbers(3), Row()))},
      "distinct names",
    ),
    ({"entries": (Entry("a", Numbers(3), Row(), weight=0),)}, "'a' has weight 0"),
    ({"entries": (Entry("a", Numbers(0), Row()),)}, "0 records"),
    ({"entries": (Entry("a", Numbers(3), Row(), rows=0),)}, "0 rows per element"),
    ({"global_batch": 0}, "global_batch"),
  ],
)
def test_impossible_recipes_are_refused(changes, word):
  with pytest.raises(UserError, match=word):
    feed(**changes)


def test_batch_must_divide_over_processes():
  with pytest.raises(UserError, match="8 is not divisible by 3"):
    feed().stream(process_count=3)


def test_an_evaluation_batch_has_rows():
  with pytest.raises(UserError, match="0 rows"):
    next(pipeline.evaluation_batches(Numbers(4), Row(), batch=0))


@pytest.mark.parametrize("groups, expected", [
  ([(1, [1000, 3000])], [[1, 3]]),
  ([(1, [1, 1_000_000])], [[1, 99]]),
  ([(1, [5])], [[1]]),
  ([(1, [7, 7]), (10, [3, 3, 3, 3, 3])], [[1, 1], [4, 4, 4, 4, 4]]),
])  # fmt: skip
def test_weights_are_proportional_to_volume_within_a_group(groups, expected):
  assert pipeline.weights([(Fraction(share), sizes) for share, sizes in groups]) == expected


@given(st.lists(
  st.tuples(st.integers(1, 20), st.lists(st.integers(1, 10**6), min_size=1, max_size=130)),
  min_size=1, max_size=4,
))  # fmt: skip
def test_groups_get_their_shares_however_many_sources_they_have(groups):
  found = pipeline.weights([(Fraction(share), sizes) for share, sizes in groups])
  whole = sum(map(sum, found))
  for (share, sizes), part in zip(groups, found, strict=True):
    assert Fraction(sum(part), whole) == Fraction(share, sum(s for s, _ in groups))
    assert len(part) == len(sizes) and min(part) >= 1
    if len(sizes) <= 50:
      for size, weight in zip(sizes, part, strict=True):
        assert abs(weight / sum(part) - size / sum(sizes)) < 0.01 * len(sizes)


def test_sources_without_volume_are_refused():
  for groups in ([(1, [3, 0])], [(1, [])], [(0, [3])]):
    with pytest.raises(ValueError, match="must not be empty"):
      pipeline.weights([(Fraction(share), sizes) for share, sizes in groups])


@pytest.mark.parametrize("limit, expected", [(None, 10), (6, 6), (4, 4), (99, 10)])
def test_evaluation_reads_each_record_once(limit, expected):
  batches = list(pipeline.evaluation_batches(Numbers(10), Row(2), batch=4, limit=limit))
  assert {batch["x"].shape for batch in batches} == {(4, 2)}
  valid = np.concatenate([batch["valid"] for batch in batches])
  index = np.concatenate([batch["index"] for batch in batches])
  assert valid.dtype == bool and index[valid].tolist() == list(range(expected))
  assert (index[~valid] == expected - 1).all()


def test_evaluation_draws_do_not_depend_on_the_batch():
  def draws(batch):
    found = collections.defaultdict(set)
    for rows in pipeline.evaluation_batches(Numbers(10), Row(), batch=batch):
      for index, draw in zip(rows["index"], rows["in"]["draw"], strict=True):
        found[int(index)].add(int(draw))
    return dict(found)

  whole = draws(4)
  assert draws(10) == whole and all(len(values) == 1 for values in whole.values())
