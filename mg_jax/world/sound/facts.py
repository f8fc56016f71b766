"""The sound of a scene of the toy world as exact facts: impacts, effects, music, ambience.

Diegetic sound follows from the picture: an object that bounces or knocks rings at that very moment,
with the timbre of its material and a pitch set by its size; one that spins, circles or changes size
makes a continuous sound. A colour is a material: metal is white or yellow, wood orange or green,
glass cyan or blue, rubber red or purple, so pixels determine it. Music is not diegetic, yet its
mood follows the background. Ambience and the noise of the recording are invisible [MG 6.1].
"""

import dataclasses
from typing import Any

import numpy as np

from mg_jax.world.scene.facts import Motion, Scene

COLOUR_MATERIALS: dict[str, str] = {
  "white": "metal",
  "yellow": "metal",
  "orange": "wood",
  "green": "wood",
  "cyan": "glass",
  "blue": "glass",
  "red": "rubber",
  "purple": "rubber",
}
# Lowest mode of a large object in Hz, and its factor by size: the smaller the higher.
MATERIALS: dict[str, float] = {"metal": 1100.0, "wood": 700.0, "glass": 2400.0, "rubber": 160.0}
PITCHES: dict[str, float] = {"large": 1.0, "medium": 1.35, "small": 1.8}

# Continuous sounds by the motion that causes them; other motions are silent.
EFFECTS: dict[str, str] = {"spin": "whirr", "orbit": "hum", "grow": "rise", "shrink": "fall"}
HITS: dict[str, str] = {"bounce": "floor", "knock": "wall"}
AMBIENCES = ("rain", "wind", "mains")
NOISY_BELOW = 8.0  # quality from which a recording has no noise


@dataclasses.dataclass(frozen=True)
class Mood:
  """A kind of music: a note lasts half a beat. scale: semitones above the root."""

  background: str
  tempo_bpm: float
  scale: tuple[int, ...]
  scale_name: str
  instrument: str


# Tempos are within a factor of two, so that none is twice another.
MOODS: dict[str, Mood] = {
  "sad": Mood("dark", 76.0, (0, 2, 3, 5, 7, 8, 10), "minor", "piano"),
  "happy": Mood("light", 136.0, (0, 2, 4, 5, 7, 9, 11), "major", "guitar"),
  "calm": Mood("gradient", 88.0, (0, 2, 4, 7, 9), "pentatonic", "pad"),
  "tense": Mood("striped", 118.0, (0, 1, 3, 5, 7, 8, 10), "phrygian", "organ"),
  "playful": Mood("checkered", 102.0, (0, 2, 4, 6, 7, 9, 11), "lydian", "bell"),
}


@dataclasses.dataclass(frozen=True)
class Impact:
  """One audible hit.

  time_s: from the start of the scene. kind: "floor" or "wall". pitch_hz: lowest mode. level: 0..1,
  larger for longer falls.
  """

  time_s: float
  kind: str
  material: str
  size: str
  pitch_hz: float
  level: float = 1.0


def mood_of(background: str) -> str:
  """The mood of the music that goes with a background."""
  return next(name for name, mood in MOODS.items() if mood.background == background)


def pitch_hz(material: str, size: str) -> float:
  """Lowest mode of an object."""
  return MATERIALS[material] * PITCHES[size]


def impacts(scene: Scene) -> tuple[Impact, ...]:
  """All hits within the scene in order of time; simultaneous hits of equal objects count once."""
  by_key = {}
  for thing in scene.objects:
    if thing.motion.name in HITS:
      material = COLOUR_MATERIALS[thing.colour]
      for u, level in _hits(thing.motion):
        key = (u * scene.duration_s, HITS[thing.motion.name], material, thing.size)
        by_key[key] = Impact(*key, pitch_hz(material, thing.size), level)
  return tuple(by_key[key] for key in sorted(by_key))


def _hits(motion: Motion) -> list[tuple[float, float]]:
  """Phase within the scene and level of every hit."""
  if motion.hits:
    gaps = np.diff(motion.hits)
    return [
      (u, 0.6 + 0.4 * float(gap / gaps.max()))
      for u, gap in zip(motion.hits[1:], gaps, strict=True)
      if 0 <= u < 1
    ]
  if not motion.cycles:
    return []
  ends = sorted((motion.phase, motion.phase + motion.cycles))
  whole = range(int(np.ceil(ends[0])), int(np.floor(ends[1])) + 1)
  phases = sorted((k - motion.phase) / motion.cycles for k in whole)
  return [(u, 1.0) for u in phases if 0 <= u < 1]


def effect(scene: Scene) -> str | None:
  """The continuous sound of the subject, one of EFFECTS, or None."""
  return EFFECTS.get(scene.objects[0].motion.name) if scene.objects else None


def sound_facts(scene: Scene) -> dict[str, Any]:
  """The audible facts, None for absent ones, ready for JSON.

  material: of the impacts; effect: of EFFECTS; times_s: of the impacts; mood, tempo_bpm, scale and
  instrument of the music; ambience of AMBIENCES; quality 1 to 10; silent: whether all are absent.
  """
  hits = impacts(scene)
  music = scene.sound.music if scene.sound else None
  mood = MOODS[music.mood] if music else None
  ambience = (scene.sound.ambience or None) if scene.sound else None
  quality = scene.sound.quality if scene.sound else 8.0
  return {
    "times_s": [hit.time_s for hit in hits],
    "material": hits[0].material if hits else None,
    "size": hits[0].size if hits else None,
    "effect": effect(scene),
    "mood": music.mood if music else None,
    "tempo_bpm": mood.tempo_bpm if mood else None,
    "scale": mood.scale_name if mood else None,
    "instrument": mood.instrument if mood else None,
    "ambience": ambience,
    "quality": quality,
    "silent": not (hits or effect(scene) or music or ambience),
  }
