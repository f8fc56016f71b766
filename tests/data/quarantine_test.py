import pickle

import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.quarantine import Quarantine


class Reader:
  def __init__(self, bad):
    self.bad = bad

  def __call__(self, index):
    if index in self.bad:
      raise ValueError(f"broken {index}")
    return index


def make(bad, length=100, limit=0.05, errors=(ValueError,)):
  return Quarantine(Reader(bad), length, errors=errors, limit=limit)


def test_good_records_pass_through():
  quarantine = make(set())
  assert [quarantine.read(i) for i in range(100)] == list(range(100))
  assert len(quarantine) == 0


def test_bad_record_is_replaced_the_same_way_everywhere_and_counted_once():
  first, second = make({3, 50}), make({3, 50})
  replaced = first.read(3)
  assert replaced not in (3, 50)
  second.read(50)  # another order of reading changes nothing
  assert [second.read(3), first.read(3)] == [replaced, replaced]
  assert [(b.index, b.reason) for b in first.records] == [(3, "broken 3")]
  assert len(second) == 2


def test_replacements_spread_over_the_source():
  quarantine = make(set(range(50)), limit=1)
  replacements = {quarantine.read(i) for i in range(50)}
  assert len(replacements) > 20 and min(replacements) >= 50


def test_too_many_bad_records_stop():
  quarantine = make({1, 2, 3}, limit=0.02)
  quarantine.read(1)
  quarantine.read(2)
  with pytest.raises(UserError, match="3 of 100.*broken 3"):
    quarantine.read(3)


def test_limit_zero_allows_none_and_a_tiny_source_one():
  with pytest.raises(UserError):
    make({1}, limit=0).read(1)
  assert make({1}, length=3).read(1) in (0, 2)


def test_nothing_good_left():
  with pytest.raises(UserError, match="replacements"):
    make(set(range(4)), length=4, limit=1).read(0)


def test_other_errors_pass():
  with pytest.raises(ValueError):
    make({1}, errors=(KeyError,)).read(1)


def test_travels_to_a_worker():
  quarantine = make({3})
  expected = quarantine.read(3)
  assert pickle.loads(pickle.dumps(quarantine)).read(3) == expected
