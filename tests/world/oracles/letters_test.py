"""Letter oracle: reads drawn signs, clean and degraded, and nothing where there is no sign."""

import dataclasses

import numpy as np
import pytest

from mg_jax.world.oracles.letters import letter_accuracy, read
from mg_jax.world.oracles.pixels import compare, measure
from mg_jax.world.oracles.validation import DEGRADATIONS, degrade
from mg_jax.world.scene.facts import Background, Scene, Sign, facts
from mg_jax.world.scene.letters import ALPHABET
from mg_jax.world.scene.render import render
from mg_jax.world.scene.sampling import WorldConfig, sample

SIGNS = WorldConfig.signs()
LONG = dataclasses.replace(SIGNS, word_lengths=(1, 2, 3, 4, 5, 6))
FULL = WorldConfig.full()
EVERYWHERE = dataclasses.replace(
  LONG, colours=FULL.colours, backgrounds=FULL.backgrounds, cameras=FULL.cameras
)


def _rates(config, size, *, n, frames=2, how="clean"):
  """Share of words and of letters right over n scenes."""
  results = []
  for index in range(n):
    scene = sample(3, index, config)
    video = degrade(render(scene, frames=frames, height=size, width=size), how, seed=index)
    word = read(video).word
    results.append((word == scene.sign.word, letter_accuracy(word, scene.sign.word)))
  return np.mean(results, axis=0)


@pytest.mark.parametrize("config, size", [(SIGNS, 32), (LONG, 64), (EVERYWHERE, 64)])
def test_clean_words_are_read(config, size):
  words, letters = _rates(config, size, n=60)
  assert words >= 0.99 and letters >= words


@pytest.mark.parametrize("how", DEGRADATIONS[1:])
def test_degraded_words_are_read(how):
  assert _rates(SIGNS, 32, n=40, how=how)[0] >= 0.97
  assert _rates(LONG, 64, n=30, how=how)[0] >= 0.96


def test_every_letter_is_read_alone_and_from_one_frame():
  for letter in ALPHABET:
    scene = Scene(0, 0, Background("light"), (), sign=Sign(letter, "blue", 0.4, -0.1, 0.05))
    assert read(render(scene, frames=1, height=32, width=48)).word == letter


def test_scenes_without_a_sign_are_not_read():
  seen = [
    read(render(sample(5, index, FULL), frames=4, height=32, width=32)).word for index in range(150)
  ]
  assert sum(word is not None for word in seen) <= 2
  empty = Scene(0, 0, Background("striped"), ())
  assert read(render(empty, frames=2, height=32, width=32)).word is None
  noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
  assert read(noise).word is None and read(noise[:1, :8, :9]).word is None


def test_a_board_without_letters_and_unsteady_letters_say_nothing():
  scene = Scene(0, 0, Background(), (), sign=Sign("CAT", "white", 0.3))
  video = render(scene, frames=6, height=32, width=32)
  blank = video.copy()
  blank[:, 12:20, 4:28] = 252  # over the letters
  seen = read(blank)
  assert seen.word is None and seen.board == pytest.approx([252] * 3)
  rng = np.random.default_rng(0)
  words = ["".join(rng.choice(list(ALPHABET), 3)) for _ in range(6)]
  frames = [
    render(dataclasses.replace(scene, sign=Sign(w, "white", 0.3)), frames=1, height=32, width=32)
    for w in words
  ]
  assert read(np.concatenate(frames)).confidence < read(video).confidence - 0.2


@pytest.mark.parametrize(
  "seen, wanted, share",
  [
    ("CAT", "CAT", 1.0),
    ("CUT", "CAT", 2 / 3),
    ("AT", "CAT", 2 / 3),
    ("CART", "CAT", 3 / 4),
    ("XYZ", "CAT", 0.0),
    ("DOGDOG", "I", 0.0),
    (None, "CAT", 0.0),
  ],
)
def test_letter_accuracy(seen, wanted, share):
  assert letter_accuracy(seen, wanted) == pytest.approx(share)


@pytest.mark.parametrize("background", list(FULL.backgrounds))
def test_signs_are_measured_by_word_and_colour(background):
  scene = Scene(0, 0, Background(background), (), sign=Sign("WEB", "orange", 0.3))
  video = render(scene, frames=3, height=48, width=48)
  right = {"colour": True, "word": True, "letters": 1.0}
  seen = measure(video)
  assert compare(seen, facts(scene)) == right
  assert compare(seen, {"word": "WED"}) == {"word": False, "letters": pytest.approx(2 / 3)}
  assert seen.confidence["word"] > 0.9
