"""Captions of looks: every table is complete, wordings parse back, hidden facts are left out."""

import pytest

from mg_jax.world.scene import captions, look_words
from mg_jax.world.scene.facts import BACKGROUNDS, facts
from mg_jax.world.scene.grounds import GROUNDS
from mg_jax.world.scene.prompts import parse_prompt
from mg_jax.world.scene.sampling import WorldConfig, sample
from mg_jax.world.scene.styles import STYLES
from mg_jax.world.scene.weather import TIMES, WEATHERS

WORLD = WorldConfig.looks()


def test_every_look_has_several_words():
  assert set(look_words.GROUNDS) == {*BACKGROUNDS, *GROUNDS}
  assert set(look_words.WEATHERS) == set(WEATHERS) and set(look_words.TIMES) == set(TIMES)
  assert set(look_words.STYLES) == set(STYLES)
  for table in (look_words.GROUNDS, look_words.WEATHERS, look_words.TIMES, look_words.STYLES):
    assert all(len(words) >= 2 for name, words in table.items() if name != "natural")


@pytest.mark.parametrize(
  "fact, table",
  [
    ("background", look_words.GROUNDS),
    ("weather", look_words.WEATHERS),
    ("time", look_words.TIMES),
    ("style", look_words.STYLES),
  ],
)
def test_wordings_are_read_back_and_mean_nothing_else(fact, table):
  none = dict.fromkeys(parse_prompt(""))
  for name, words in table.items():
    for phrase in words:
      assert parse_prompt(phrase) == none | {fact: name}, phrase


def test_captions_are_inverted_and_tell_what_is_unusual():
  for index in range(400):
    scene = sample(1, index, WORLD)
    truth = facts(scene)
    for text in (captions.short_caption(scene), captions.caption(scene, index)):
      read = parse_prompt(text)
      assert not {k: v for k, v in read.items() if v is not None and v != truth.get(k)}, text
      for fact in ("kind", "count", "motion", "colour", "style"):
        assert read[fact] == truth.get(fact), text
      for fact, usual in (("weather", "clear"), ("time", "day")):
        assert truth.get(fact, usual) == usual or read[fact] == truth[fact], text


def test_captions_of_frames_name_no_hidden_ground():
  for index in range(200):
    scene = sample(2, index, WORLD)
    for variant in range(2):
      text = captions.frame_caption(scene, variant)
      assert parse_prompt(text)["background"] == facts(scene).get("background"), text


@pytest.mark.parametrize(
  "text, wanted",
  [
    ("a star in the rain at night, pixel art", {"style": "pixel art", "weather": "rain"}),
    ("a black-and-white circle on a dark wall", {"style": "greyscale", "background": "dark"}),
    ("a square moves up, snow falling, misty", {"motion": "up", "weather": "snow"}),
    ("two rings over the sea at sunset", {"background": "beach", "time": "dusk", "count": 2}),
    ('a sign says "RAIN" in fog', {"word": "RAIN", "weather": "fog"}),
  ],
)
def test_free_wordings(text, wanted):
  read = parse_prompt(text)
  assert {k: read[k] for k in wanted} == wanted
