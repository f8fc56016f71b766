"""Captions of the toy world's sound, with the fields of the paper in their order [MG 6.3].

Quality from 1 to 10 with one decimal, speech, singing, the sound in quotes, the likelihood of music
with two decimals, and the music in quotes, which is described even if there is none, as by a music
captioner: the likelihood alone is the switch. `parse_sound_caption` parses all of them.
"""

import re
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.scene.facts import Scene
from mg_jax.world.sound.facts import MOODS, impacts, mood_of, sound_facts

# The canonical likelihoods; other wordings use values around them.
WITH_MUSIC, WITHOUT_MUSIC = 0.90, 0.01

FRAMES = (
  'Audio quality: {quality:.1f}. No speech. No singing. Sound: "{sound}". '
  'Music likelihood: {likelihood:.2f}. Music: "{music}".',
  'Quality {quality:.1f} of 10. There is no speech. There is no singing. One hears "{sound}". '
  'Music with likelihood {likelihood:.2f}: "{music}".',
  'This sound has quality {quality:.1f}, without speech, without singing. It is described as '
  '"{sound}". The likelihood of music is {likelihood:.2f}, described as "{music}".',
  'Sound quality: {quality:.1f}; speech: none; singing: none; sound: "{sound}"; likelihood of '
  'music: {likelihood:.2f}; music: "{music}".',
)

# Every table maps a fact to its wordings, the canonical one first; no two facts share one.
MATERIALS: dict[str, tuple[str, ...]] = {
  "metal": ("metal", "metallic", "steel"),
  "wood": ("wood", "wooden"),
  "glass": ("glass",),
  "rubber": ("rubber",),
}
SIZES: dict[str, tuple[str, ...]] = {
  "small": ("small", "little"),
  "medium": ("medium-sized",),
  "large": ("large", "big"),
}
# Fields: thing, such as "large metal object"; times, such as "twice".
HITS: dict[str, tuple[str, ...]] = {
  "floor": (
    "a {thing} hits the floor {times}",
    "a {thing} bounces off the floor {times}",
    "a {thing} strikes the ground {times}",
    "{times} the sound of a {thing} that drops to the floor",
  ),
  "wall": (
    "a {thing} knocks against the wall {times}",
    "a {thing} bumps into the wall {times}",
    "{times} the bang of a {thing} on the wall",
  ),
}
EFFECTS: dict[str, tuple[str, ...]] = {
  "whirr": ("the whirr of something that spins", "a fast whirring", "a spinning rotor whirrs"),
  "hum": ("a low wavering hum", "something circles with a deep hum", "humming that comes and goes"),
  "rise": ("a tone that rises", "a slide whistle going up", "a rising whistle"),
  "fall": ("a tone that falls", "a slide whistle going down", "a falling whistle"),
}
AMBIENCES: dict[str, tuple[str, ...]] = {
  "rain": ("rain in the background", "steady rainfall off screen", "the hiss of rain"),
  "wind": ("wind in the background", "gusts of wind off screen", "a soft breeze"),
  "mains": ("an electric buzz in the background", "the mains buzzes off screen"),
}
SILENCE = ("silence", "nothing at all", "complete quiet")
# Fields: mood; instrument; scale; tempo in beats a minute.
MUSIC = (
  "{mood} {instrument} melody in a {scale} scale, {tempo:.0f} beats per minute",
  "a {mood} tune on the {instrument}, {scale}, at {tempo:.0f} bpm",
  "{instrument} music, {mood}, {tempo:.0f} bpm, {scale} scale",
)
_INSTRUMENTS = {"piano": "piano", "guitar": "guitar", "pad": "synth pad", "organ": "organ",
                "bell": "music box"}  # fmt: skip
_TIMES = {1: "once", 2: "twice", 3: "three times", 4: "four times", 5: "five times"}


def short_sound_caption(scene: Scene) -> str:
  """The canonical caption: every fact in its first wording."""
  return _write(scene, None, 0)


def sound_caption(scene: Scene, variant: int = 0) -> str:
  """Other wordings; variant >= 0 cycles through the templates. Raises UserError if negative."""
  if variant < 0:
    raise UserError(f"sound_caption: variant is {variant}; pass 0 or more")
  return _write(scene, np.random.default_rng([scene.seed, scene.index, variant, 2]), variant)


def describe_sound(scene: Scene, *, style: str, variant: int = 0) -> str:
  """Caption in the style of a WorldConfig: canonical for "short", else in many wordings."""
  return short_sound_caption(scene) if style == "short" else sound_caption(scene, variant)


def _write(scene: Scene, rng: np.random.Generator | None, variant: int) -> str:
  facts = sound_facts(scene)
  mood = facts["mood"] or mood_of(scene.background.name)
  likelihood = WITH_MUSIC if facts["mood"] else WITHOUT_MUSIC
  if rng is not None:
    likelihood = rng.uniform(0.8, 0.99) if facts["mood"] else rng.uniform(0.0, 0.1)
  music = _pick(rng, MUSIC).format(
    mood=mood,
    instrument=_INSTRUMENTS[MOODS[mood].instrument],
    scale=MOODS[mood].scale_name,
    tempo=MOODS[mood].tempo_bpm,
  )
  return FRAMES[variant % len(FRAMES)].format(
    quality=facts["quality"], sound=_sound(scene, facts, rng), likelihood=likelihood, music=music
  )


def _sound(scene: Scene, facts: dict[str, Any], rng: np.random.Generator | None) -> str:
  parts = []
  if facts["times_s"]:
    size, material = _pick(rng, SIZES[facts["size"]]), _pick(rng, MATERIALS[facts["material"]])
    count = len(facts["times_s"])
    parts.append(
      _pick(rng, HITS[impacts(scene)[0].kind]).format(
        thing=f"{size} {material} object", times=_TIMES.get(count, f"{count} times")
      )
    )
  if facts["effect"]:
    parts.append(_pick(rng, EFFECTS[facts["effect"]]))
  if facts["ambience"]:
    parts.append(_pick(rng, AMBIENCES[facts["ambience"]]))
  return ", ".join(parts) or _pick(rng, SILENCE)


def _pick(rng: np.random.Generator | None, options: tuple[str, ...]) -> str:
  return options[0] if rng is None else options[int(rng.integers(len(options)))]


def parse_sound_caption(text: str) -> dict[str, Any]:
  """The facts in a caption; None if absent.

  Keys: quality, likelihood of music, mood if that is above one half, material, size, hits (their
  count, 0 for none), effect, ambience, silent.

  Raises:
    UserError: on a text without the two quoted descriptions and the two numbers.
  """
  quoted = re.findall(r'"([^"]*)"', text)
  numbers = re.findall(r"\d+\.\d+", re.sub(r'"[^"]*"', " ", text))
  if len(quoted) != 2 or len(numbers) != 2:
    raise UserError(
      f"not a sound caption: {text[:80]!r}; give quality, sound in quotes, likelihood of music "
      "and music in quotes"
    )
  sound, music = (part.lower() for part in quoted)
  likelihood = float(numbers[1])
  counted = [n for n, words in _TIMES.items() if words in sound]
  more = re.search(r"(\d+) times", sound)
  parsed = {
    "quality": float(numbers[0]),
    "likelihood": likelihood,
    "mood": _named({mood: (mood,) for mood in MOODS}, music) if likelihood > 0.5 else None,
    "material": _named(MATERIALS, sound),
    "size": _named(SIZES, sound),
    "hits": int(more[1]) if more else (counted or [0])[0],
    "effect": _named(EFFECTS, sound),
    "ambience": _named(AMBIENCES, sound),
  }
  audible = any(parsed[name] for name in ("mood", "material", "effect", "ambience"))
  return {**parsed, "silent": not audible}


def _named(table: dict[str, tuple[str, ...]], text: str) -> str | None:
  """The fact with the longest wording that occurs."""
  hits = [(len(w), name) for name, words in table.items() for w in words if w in text]
  return max(hits)[1] if hits else None
