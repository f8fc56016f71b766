"""Text streams: who reads what of a prompt."""

import pickle

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.text.prompts import decode_bytes
from mg_jax.data.text.readers import Reader, TextConfig, blank, open_readers
from mg_jax.data.text.tokenizers import open_tokenizer


def _reader(**fields):
  return Reader(TextConfig(**fields), open_tokenizer("bytes"))


def _read(reader, prompt, **tags):
  return decode_bytes(reader(prompt, **tags)["ids"])


def test_a_prompt_is_read_behind_its_tags():
  reader = _reader(length=40)
  assert _read(reader, "a dog") == "a dog"
  assert _read(reader, "a dog", fps=16.0) == "FPS-16 a dog"
  assert _read(reader, "a dog", fps=24.0, camera="pan left") == "FPS-24 Pan left. a dog"


def test_quoted_words_alone_reach_the_stream_of_letters():
  reader = _reader(length=12, reads="quoted")
  assert _read(reader, 'a sign says "CAT" and “DOG”', fps=16.0, camera="pan left") == "CAT DOG"
  tokens = reader('a sign says "CAT"')
  assert tokens["mask"].tolist() == [True] * 4 + [False] * 8


@pytest.mark.parametrize("prompt", ["", "a dog's bone", 'an inch is 1"', '""'])
def test_a_stream_with_nothing_to_read_has_no_token(prompt):
  tokens = _reader(length=6, reads="quoted")(prompt, fps=16.0)
  assert not tokens["mask"].any() and tokens["ids"].shape == (6,)
  np.testing.assert_equal(tokens, blank(6))


def test_the_empty_prompt_has_no_tags():
  assert not _reader()("", fps=16.0, camera="aerial")["mask"].any()


def test_what_does_not_fit_is_told():
  reader = _reader(length=8)
  assert not reader.cuts("a dog r")
  assert reader.cuts("a dog ru") and reader.cuts("a", fps=16.0)


def test_readers_travel_to_worker_processes():
  reader = pickle.loads(pickle.dumps(_reader(length=9)))
  np.testing.assert_equal(reader("a cat"), _reader(length=9)("a cat"))


def test_readers_of_a_config_come_in_the_order_of_their_names():
  configs = {"b": TextConfig(), "a": TextConfig(length=3)}
  assert list(open_readers(configs)) == ["a", "b"]


def test_a_length_of_nothing_is_refused():
  with pytest.raises(UserError, match="length is 0"):
    TextConfig(length=0)
