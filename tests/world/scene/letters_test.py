"""Letters: a whole and distinct alphabet, inside its box, and words that fill their board."""

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.scene import letters
from mg_jax.world.scene.letters import ALPHABET, PAD, STROKE, WIDTH

AXIS = (np.arange(90) + 0.5) / 60 - 0.75


def _mask(letter):
  return letters.distance(letter, *np.meshgrid(AXIS, AXIS)) < 0


def test_letters_differ_and_fill_their_box():
  masks = np.array([_mask(letter) for letter in ALPHABET], float)
  for letter, mask in zip(ALPHABET, masks, strict=True):
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert AXIS[rows[[0, -1]]] == pytest.approx([-0.5, 0.5], abs=0.06)
    assert np.abs(AXIS[cols[[0, -1]]]).max() < WIDTH / 2 + 0.01
    assert letter == "I" or np.ptp(AXIS[cols]) > 0.7 * WIDTH
  flat = masks.reshape(26, -1)
  flat /= np.linalg.norm(flat, axis=1, keepdims=True)
  assert (flat @ flat.T - np.eye(26)).max() < 0.95


def test_symmetric_letters_are_symmetric():
  for letter in "AHIMOTUVWXY":
    np.testing.assert_array_equal(_mask(letter), _mask(letter)[:, ::-1])
  for letter in "CDEHIOX":
    np.testing.assert_array_equal(_mask(letter), _mask(letter)[::-1])


def test_distance_is_that_of_a_pen():
  y = np.array([-0.2, 0.0, 0.3])
  np.testing.assert_allclose(letters.distance("I", np.full(3, 0.2), y), 0.2 - STROKE / 2, atol=1e-6)
  np.testing.assert_allclose(letters.distance("I", np.zeros(3), y), -STROKE / 2, atol=1e-6)


def test_words_stand_in_the_middle_of_their_board():
  for word in ("H", "HO", "OHOHOH"):
    width, height = letters.board(len(word))
    x_W = (np.arange(400) + 0.5) / 64 - 400 / 128
    y_H = (np.arange(128) + 0.5) / 64 - 1
    ink = letters.ink(word, x_W, y_H, pixel=1 / 64)
    assert ink.shape == (128, 400) and ink.min() == 0 and ink.max() == 1
    cols, rows = np.flatnonzero(ink.any(0)), np.flatnonzero(ink.any(1))
    assert x_W[cols[[0, -1]]] == pytest.approx([PAD - width / 2, width / 2 - PAD], abs=0.03)
    assert y_H[rows[[0, -1]]] == pytest.approx([PAD - height / 2, height / 2 - PAD], abs=0.03)


def test_ink_covers_the_same_area_at_any_size():
  areas = []
  for size in (8, 16, 64):
    axis = (np.arange(6 * size) + 0.5) / size - 3
    areas.append(letters.ink("SUN", axis, axis, pixel=1 / size).sum() / size**2)
  np.testing.assert_allclose(areas, areas[-1], rtol=0.03)


@pytest.mark.parametrize("word", ["", "cat", "SEVENTH", "A B", "É", "A1"])
def test_words_no_sign_can_bear_are_told(word):
  with pytest.raises(UserError, match="1 to 6 letters"):
    letters.check(word)
