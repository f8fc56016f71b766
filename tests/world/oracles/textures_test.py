"""Oracles of lasting sounds: effects, ambience and music of drawn scenes, alone and together."""

import dataclasses
import itertools

import numpy as np
import pytest

from mg_jax.world.oracles import textures as O
from mg_jax.world.scene.facts import SIZES, Background, Motion, Music, Scene, Sound, Thing
from mg_jax.world.sound.facts import AMBIENCES, EFFECTS, MOODS, impacts
from mg_jax.world.sound.synthesis import soundtrack

MOTIONS = {
  "whirr": Motion("spin", cycles=0.6),
  "hum": Motion("orbit", amount=0.15, cycles=1.1),
  "rise": Motion("grow", amount=2.0),
  "fall": Motion("shrink", amount=2.0),
  None: Motion(),
}
NO_HITS = np.zeros(0)


STILL = Motion()


def scene(motion=STILL, mood=None, ambience="", colour="red", index=0, size="large"):
  music = Music(mood, 3, 0.07, 11 + index) if mood else None
  thing = Thing("square", colour, size, 0, 0, motion=motion)
  return Scene(0, index, Background("dark"), (thing,), sound=Sound(music, ambience))


@pytest.mark.parametrize("effect", MOTIONS)
def test_effects_are_heard_through_everything_else(effect):
  for mood, ambience in itertools.product((None, "happy"), ("", *AMBIENCES)):
    wave = soundtrack(scene(MOTIONS[effect], mood, ambience)).mix
    assert O.effect(wave) == effect, (mood, ambience)
    assert O.ambience(wave) == (ambience or None), (mood, effect)


def test_every_effect_has_its_motion():
  assert set(EFFECTS.values()) | {None} == set(MOTIONS)


@pytest.mark.parametrize("mood", MOODS)
def test_tempo_is_measured_within_three_percent(mood):
  for index in range(4):
    tempo = O.music(soundtrack(scene(mood=mood, index=index)).mix, NO_HITS)
    assert tempo == pytest.approx(MOODS[mood].tempo_bpm, rel=0.03)
    assert O.mood(tempo) == mood


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("colour", ["white", "orange", "cyan", "red"])
def test_impacts_are_no_music_and_do_not_hide_it(colour, size):
  motion = Motion("bounce", 0.4, hits=(-0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1))
  alone, both = (scene(motion, mood, colour=colour, size=size) for mood in (None, "happy"))
  hits = np.array([hit.time_s for hit in impacts(alone)])
  assert len(hits) == 5
  assert O.music(soundtrack(alone).mix, hits) is None
  assert O.music(soundtrack(both).mix, hits) == pytest.approx(136, rel=0.03)


@pytest.mark.parametrize("quality", [4.0, 8.0])
def test_notes_that_fade_are_heard_through_wind(quality):
  """Those of the guitar sink into it before the next one begins."""
  for index in range(12):
    windy = scene(mood="happy", ambience="wind", index=index)
    sound = dataclasses.replace(windy.sound, quality=quality)
    wave = soundtrack(dataclasses.replace(windy, sound=sound)).mix
    assert O.music(wave, NO_HITS) == pytest.approx(136, rel=0.03), index
    still = dataclasses.replace(windy, sound=dataclasses.replace(sound, music=None))
    assert O.music(soundtrack(still).mix, NO_HITS) is None


def test_noise_and_silence_are_nothing():
  white = 0.05 * np.random.default_rng(0).standard_normal(96_000)
  for wave in (white, np.zeros(96_000)):
    assert O.music(wave, NO_HITS) is None and O.effect(wave) is None and O.ambience(wave) is None


def test_a_steady_tone_is_no_glide():
  time = np.arange(96_000) / 48_000
  assert O.effect(0.1 * np.sin(2 * np.pi * 2500 * time)) is None


def test_hits_everywhere_leave_music_to_be_heard():
  wave = soundtrack(scene(mood="happy")).mix
  assert O.music(wave, np.arange(0, 2, 0.04)) is not None
