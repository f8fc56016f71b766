import numpy as np
import pytest

from mg_jax.data.text import prompts as text


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


@pytest.mark.parametrize(
  "prompt, words",
  [
    ('a sign says "STOP"', "STOP"),
    ('"A" above "B C"', "A B C"),
    ("“typographic” and «guillemets»", "typographic guillemets"),
    ("the dog's bone and the cats' bowl", ""),
    ('one mark " alone', ""),
    ('empty "" and blank " "', ""),
    ('"é🐕"', "é🐕"),
  ],
)
def test_quotation_marks_hold_what_is_to_be_drawn(prompt, words):
  assert text.quoted(prompt) == words


def test_a_megabyte_of_marks_is_read_at_once():
  assert text.quoted('"' * 1_000_001) == ""


def test_camera_tag():
  assert text.camera_tag("a dog runs", "zoom in") == "Zoom in. a dog runs"
  assert text.camera_tag("a dog runs", "") == "a dog runs"
  assert len(set(text.CAMERAS)) == 16 + 6
