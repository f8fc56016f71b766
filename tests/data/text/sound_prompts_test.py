"""Captions of a user's words: fields of the training captions, words that ask for voices."""

import pytest

from mg_jax.data.text import sound_prompts as sound_text
from mg_jax.world.scene import sampling
from mg_jax.world.sound import captions as sound_captions
from mg_jax.world.sound.facts import sound_facts


def test_the_frame_is_the_canonical_one_of_the_world():
  assert sound_text.FRAME == sound_captions.FRAMES[0]
  likelihoods = (sound_captions.WITH_MUSIC, sound_captions.WITHOUT_MUSIC)
  assert (sound_text.WITH_MUSIC, sound_text.WITHOUT_MUSIC) == likelihoods


def test_a_scene_is_described_as_its_own_caption_does():
  config = sampling.WorldConfig.orchestra()
  for index in range(8):
    scene = sampling.sample(0, index, config)
    whole = sound_captions.short_sound_caption(scene)
    _, sound, _, music, _ = whole.split('"')
    facts = sound_facts(scene)
    made = sound_text.caption(
      sound, music, quality=facts["quality"], has_music=facts["mood"] is not None
    )
    assert made == whole


def test_quality_and_likelihood_follow_the_music():
  assert sound_text.caption("waves", has_music=False) == (
    'Audio quality: 7.0. No speech. No singing. Sound: "waves". Music likelihood: 0.01. Music: "".'
  )
  assert sound_text.caption(music="a slow piano", has_music=True) == (
    'Audio quality: 8.0. No speech. No singing. Sound: "". Music likelihood: 0.90. '
    'Music: "a slow piano".'
  )
  assert "quality: 5.5." in sound_text.caption("waves", quality=5.5, has_music=True)
  with pytest.raises(ValueError, match="within 1 to 10"):
    sound_text.caption("waves", quality=11, has_music=True)


def test_a_prompt_stays_within_its_quotes():
  text = sound_text.caption('a "bang"\n\u201cloud\u201d. Music: "x.', "{0} {music}", has_music=True)
  asked = sound_captions.parse_sound_caption(text)
  assert text.count('"') == 4 and asked["likelihood"] == 0.9 and "\n" not in text
  assert "{0} {music}" in text


@pytest.mark.parametrize(
  "text, words",
  [
    ("A man says hello and sings", ["says", "sings"]),
    ("people TALKING, talking", ["talking"]),
    ("a narrator's voice-over", ["narrator", "voice"]),
    ("dialogue in a café", ["dialogue"]),
    ("waves on a beach, an essay on single raptors wrapped up", []),
    ("no speech, without any voices", []),
    ("no rain but speech", ["speech"]),
    ("", []),
  ],
)
def test_words_that_ask_for_a_voice(text, words):
  assert sound_text.voices(text) == words
