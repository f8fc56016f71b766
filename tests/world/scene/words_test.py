"""Words: lengths, the share of real ones, and a split into training and held-out words."""

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.scene import words
from mg_jax.world.scene.letters import ALPHABET, check


def _drawn(length, held, n=150, seed=0):
  rng = np.random.default_rng(seed)
  return [words.draw(rng, length, held=held) for _ in range(n)]


@pytest.mark.parametrize("length", range(1, 7))
def test_words_have_their_length_and_their_side_of_the_split(length):
  for held in (False, True):
    drawn = _drawn(length, held)
    assert all(len(check(word)) == length and words.held_out(word) is held for word in drawn)
    assert len(set(drawn)) >= (5 if length == 1 else 40)


def test_real_words_are_about_half():
  real = [word in words.REAL for word in _drawn(4, False, n=400)]
  assert 0.4 < np.mean(real) < 0.6
  assert any(word in words.REAL for word in _drawn(3, True))


def test_list_of_real_words_is_clean():
  assert len(set(words.REAL)) == len(words.REAL) > 250
  assert {len(check(word)) for word in words.REAL} == set(range(2, 7))


def test_split_is_by_word_and_holds_every_letter_in_training():
  held = np.mean([words.held_out(a + b + c) for a in ALPHABET for b in "AEIOU" for c in ALPHABET])
  assert 0.12 < held < 0.22
  assert set("".join(_drawn(2, False))) == set(ALPHABET)
  assert words.held_out("CAT") is words.held_out("CAT")


@pytest.mark.parametrize("length", [0, 7])
def test_impossible_lengths_are_told(length):
  with pytest.raises(UserError, match="length"):
    words.draw(np.random.default_rng(0), length, held=False)
