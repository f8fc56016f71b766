"""Captions of sound: the fields of the paper in their order, always true, and read back."""

import dataclasses
import re

import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.scene.sampling import WorldConfig, sample
from mg_jax.world.sound.captions import (
  FRAMES,
  describe_sound,
  parse_sound_caption,
  short_sound_caption,
  sound_caption,
)
from mg_jax.world.sound.facts import sound_facts

FIELDS = ("quality", "mood", "material", "size", "effect", "ambience", "silent")
WORLDS = (WorldConfig.sounds(), WorldConfig.orchestra())


@pytest.mark.parametrize("config", WORLDS, ids=["sounds", "orchestra"])
def test_every_wording_tells_the_facts(config):
  for index in range(150):
    scene = sample(7, index, config)
    facts = sound_facts(scene)
    for text in (short_sound_caption(scene), *(sound_caption(scene, v) for v in range(6))):
      told = parse_sound_caption(text)
      assert {name: told[name] for name in FIELDS} == {name: facts[name] for name in FIELDS}, text
      assert told["hits"] == len(facts["times_s"])
      assert (told["likelihood"] > 0.5) == (facts["mood"] is not None)


def test_fields_come_in_the_order_of_the_paper():
  for index in range(40):
    scene = sample(1, index, WorldConfig.orchestra())
    for variant in range(len(FRAMES)):
      text = sound_caption(scene, variant)
      # Quality with one decimal, speech, singing, sound, likelihood with two, music.
      order = [text.lower().index(word) for word in ("quality", "speech", "singing", '"')]
      assert order == sorted(order)
      assert re.search(r"\b\d+\.\d\b", text).start() < order[1]
      rest = text[text.index('"', order[3] + 1) + 1 :]
      assert re.search(r"\d\.\d\d\b", rest).start() < rest.index('"')
      assert rest.count('"') == 2 and len(text.encode()) <= 320


def test_music_is_told_even_without_any():
  scene = sample(0, 0, WorldConfig.sounds())
  assert scene.sound.music is None and "Music likelihood: 0.01" in short_sound_caption(scene)
  assert short_sound_caption(scene).count("piano") == 1
  music = dataclasses.replace(WorldConfig.sounds().sound, music=1.0)
  loud = sample(0, 0, dataclasses.replace(WorldConfig.sounds(), sound=music))
  assert "Music likelihood: 0.90" in short_sound_caption(loud)


def test_wordings_differ_and_are_deterministic():
  scene = sample(0, 4, WorldConfig.orchestra())
  texts = [sound_caption(scene, v) for v in range(40)]
  assert len(set(texts)) > 30 and texts == [sound_caption(scene, v) for v in range(40)]
  assert describe_sound(scene, style="short") == short_sound_caption(scene)
  assert describe_sound(scene, style="natural", variant=3) == texts[3]
  with pytest.raises(UserError, match="variant"):
    sound_caption(scene, -1)


def test_prompts_of_people_are_read():
  text = (
    'Audio quality: 7.0. No speech. No singing. Sound: "a big glass object bounces off the floor 7 '
    'times, rain in the background". Music likelihood: 0.90. Music: "a tense tune".'
  )
  told = parse_sound_caption(text)
  assert (told["material"], told["size"], told["hits"]) == ("glass", "large", 7)
  assert (told["ambience"], told["mood"], told["quality"]) == ("rain", "tense", 7.0)
  assert parse_sound_caption(text.replace("0.90", "0.01"))["mood"] is None
  with pytest.raises(UserError, match="not a sound caption"):
    parse_sound_caption("a dog barks")
