import numpy as np
import pytest

from mg_jax.data import text


def test_ids_are_bytes_plus_three_with_end_and_padding():
  ids, mask = text.encode_bytes("hi", 5)
  assert ids.dtype == np.int32 and mask.dtype == bool
  assert ids.tolist() == [ord("h") + 3, ord("i") + 3, 1, 0, 0]
  assert mask.tolist() == [True, True, True, False, False]


def test_empty_prompt_is_one_end_token():
  ids, mask = text.encode_bytes("", 3)
  assert ids.tolist() == [1, 0, 0] and mask.tolist() == [True, False, False]


@pytest.mark.parametrize("length", [1, 2, 7])
def test_long_prompt_is_cut_and_keeps_its_end(length):
  ids, mask = text.encode_bytes("x" * 1_000_000, length)
  assert ids.tolist() == [ord("x") + 3] * (length - 1) + [1]
  assert mask.all()


@pytest.mark.parametrize("prompt", ["émoji 🐕", "nul\0inside", "</s><pad>", "שלום", "../../x"])
def test_awkward_prompts_come_back_unchanged(prompt):
  ids, mask = text.encode_bytes(prompt, 64)
  assert text.decode_bytes(ids) == prompt
  assert mask.sum() == len(prompt.encode()) + 1
  assert (ids[mask][:-1] >= 3).all()


def test_lone_surrogate_becomes_a_question_mark():
  ids, _ = text.encode_bytes("a\ud800b", 8)
  assert text.decode_bytes(ids) == "a?b"


def test_character_cut_in_the_middle_does_not_break_decoding():
  ids, _ = text.encode_bytes("🐕🐕", 7)
  assert text.decode_bytes(ids) == "🐕\ufffd"


def test_length_must_hold_the_end_token():
  with pytest.raises(ValueError, match="length"):
    text.encode_bytes("a", 0)


def test_fps_tag():
  assert text.fps_tag("a dog", 16) == "FPS-16 a dog"
  assert text.fps_tag("a dog", 23.976) == "FPS-24 a dog"
  with pytest.raises(ValueError, match="fps"):
    text.fps_tag("a dog", 0)


def test_tokens_are_counted_as_they_are_made():
  for caption in ("", "a star", "Ein grüner Würfel", "\ud800"):
    _, mask = text.encode_bytes(caption, 99)
    assert text.count_bytes(caption) == mask.sum()
