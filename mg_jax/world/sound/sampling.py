"""Sampling of sound: adds hits at random moments, music and ambience to a scene of the toy world.

Hits have uneven gaps, so that they cannot be predicted from each other, and are on a visible floor
or wall: the edge of the frame.
"""

import dataclasses

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.scene.facts import SIZES, Music, Scene, Sound, Thing
from mg_jax.world.scene.shapes import SHAPES
from mg_jax.world.sound.facts import AMBIENCES, HITS, MOODS, mood_of

GAPS_S = (0.35, 0.9)  # between hits
EARLIEST_S, LATEST_S = 0.12, 0.15  # from the ends of the scene to the first and the last hit
ROOTS = 8


@dataclasses.dataclass(frozen=True)
class SoundConfig:
  """The possible sounds of scenes.

  music: fraction with music. ambiences: drawn uniformly, "" for none. quality: range of recordings.
  """

  music: float = 0.5
  ambiences: tuple[str, ...] = ("",)
  quality: tuple[float, float] = (8.0, 8.0)

  def __post_init__(self):
    wrong = [name for name in self.ambiences if name and name not in AMBIENCES]
    if wrong or not self.ambiences:
      raise UserError(f"SoundConfig.ambiences: {wrong or 'empty'}; choose from {AMBIENCES} and ''")
    if not 0 <= self.music <= 1:
      raise UserError(f"SoundConfig.music is {self.music}; give a fraction from 0 to 1")
    if not 1 <= self.quality[0] <= self.quality[1] <= 10:
      raise UserError(f"SoundConfig.quality: {self.quality} is not a range within 1 to 10")


def add_sound(rng: np.random.Generator, scene: Scene, config: SoundConfig) -> Scene:
  """The scene with a `Sound`, and with objects that bounce or knock at random moments."""
  objects = scene.objects
  if objects and objects[0].motion.name in HITS:
    hits = _hits(rng, scene.duration_s)
    objects = tuple(_at_edge(thing, hits, i, len(objects)) for i, thing in enumerate(objects))
  music = None
  if rng.uniform() < config.music:
    mood = mood_of(scene.background.name)
    start_s = float(rng.uniform()) * 30 / MOODS[mood].tempo_bpm
    music = Music(mood, int(rng.integers(ROOTS)), start_s, int(rng.integers(1 << 31)))
  ambience = config.ambiences[int(rng.integers(len(config.ambiences)))]
  quality = round(float(rng.uniform(*config.quality)), 1)
  return dataclasses.replace(scene, objects=objects, sound=Sound(music, ambience, quality))


def _hits(rng: np.random.Generator, duration_s: float) -> tuple[float, ...]:
  """Phases of hits, including one before the scene and one after it."""
  last = duration_s - LATEST_S
  first = float(rng.uniform(EARLIEST_S, max(EARLIEST_S, min(0.7, last))))
  times = [first - max(float(rng.uniform(*GAPS_S)), first + 0.1), first]
  while True:
    following = times[-1] + float(rng.uniform(*GAPS_S))
    if following > last:
      break
    times.append(following)
  times.append(max(following, duration_s + 0.1))
  return tuple(time / duration_s for time in times)


def _at_edge(thing: Thing, hits: tuple[float, ...], number: int, count: int) -> Thing:
  """The object with its hits at the edge of a square frame; equal objects side by side."""
  motion = dataclasses.replace(thing.motion, hits=hits)
  aside = ((number + 0.5) / count - 0.5) if count > 1 else None
  if motion.name == "bounce":
    y = 0.5 - reach(thing, 0, 1) - motion.amount / 2
    return dataclasses.replace(thing, motion=motion, x=thing.x if aside is None else aside, y=y)
  way = int(np.sign(motion.amount))
  x = way * (0.5 - reach(thing, way, 0)) - motion.amount / 2
  return dataclasses.replace(thing, motion=motion, x=x, y=thing.y if aside is None else aside)


def reach(thing: Thing, x: int, y: int) -> float:
  """Distance of an object's outline from its centre along (x, y), in shorter sides."""
  axis = np.linspace(-1, 1, 65)
  across, down = np.meshgrid(axis, axis)
  cos, sin = np.cos(thing.angle), np.sin(thing.angle)
  inside = SHAPES[thing.kind].distance(
    cos * across + sin * down, cos * down - sin * across, **thing.attributes
  )
  along = (across * x + down * y)[inside <= 1e-9]
  return SIZES[thing.size] * float(along.max())
