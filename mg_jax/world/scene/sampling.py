"""Sampling of the toy world: (seed, index, WorldConfig) -> Scene, the same in every process.

Each scene has its own generator seeded by (seed, index), so any scene can be drawn alone and in any
order. Motions are drawn before kinds, and kinds among those that show the motion, so labels stay
balanced over motions. Scenes from VALIDATION_START on are held out, and so are their words.
"""

import dataclasses
import functools

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.people.sampling import PeopleConfig, draw_person
from mg_jax.world.scene.facts import (
  BACKGROUNDS,
  CAMERAS,
  PALETTE,
  PAN_DISTANCE,
  SIZES,
  ZOOM_RATIO,
  Background,
  Motion,
  Scene,
  Sign,
  Thing,
)
from mg_jax.world.scene.grounds import GROUNDS, outdoor
from mg_jax.world.scene.letters import MAX_LETTERS, board
from mg_jax.world.scene.motion import MOTIONS
from mg_jax.world.scene.shapes import SHAPES
from mg_jax.world.scene.styles import STYLES
from mg_jax.world.scene.weather import TIMES, WEATHERS
from mg_jax.world.scene.words import draw
from mg_jax.world.sound.facts import AMBIENCES
from mg_jax.world.sound.sampling import SoundConfig, add_sound

# Scene indices from here on are held out.
VALIDATION_START = 1 << 30
MAX_COUNT = 4
CAPTION_STYLES = ("short", "natural", "frame")
MARGIN = 0.02  # free space between objects and the edge of the frame
GAP = 0.07  # desired gap between outlines of two objects
ATTEMPTS = 256
SIGN_MARGIN = 0.03  # least fraction of the frame left free at the sides of a board
MAX_LETTER = 0.5  # height of the letter of a one-letter word
_SIGN_STREAM = 0x5169  # separates the generator of signs from that of objects
_LOOK_STREAM = 0x100C
_SOUND_STREAM = 0x50D  # and that of sounds from both
_PEOPLE_STREAM = 0x9E09  # and that of people


@dataclasses.dataclass(frozen=True)
class WorldConfig:
  """The possible contents of scenes. Names are drawn uniformly from each tuple; an entry repeated
  in a tuple is drawn more often. Ranges are (lowest, highest), uniform. tilt: largest starting
  angle, radians. word_lengths: letters of the word on a sign; 0 is a scene of objects without a
  sign. weathers, times: of outdoor grounds; styles: of the whole picture. sound: its sound, None
  for a silent world. person: its people, None for none.
  """

  kinds: tuple[str, ...] = ("circle", "square", "triangle", "star", "ring", "cross")
  colours: tuple[str, ...] = tuple(PALETTE)
  motions: tuple[str, ...] = tuple(name for name in MOTIONS if name != "knock")
  counts: tuple[int, ...] = (1, 1, 2, 3, 4)
  sizes: tuple[str, ...] = tuple(SIZES)
  backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
  cameras: tuple[str, ...] = ("static",) * 4 + CAMERAS[1:]
  duration_s: tuple[float, float] = (2.0, 16.0)
  fps: tuple[float, float] = (16.0, 16.0)
  tilt: float = 0.2
  caption_style: str = "natural"
  word_lengths: tuple[int, ...] = (0,)
  weathers: tuple[str, ...] = ("clear",)
  times: tuple[str, ...] = ("day",)
  styles: tuple[str, ...] = ("natural",)
  sound: SoundConfig | None = None
  person: PeopleConfig | None = None

  @classmethod
  def simple(cls) -> "WorldConfig":
    """One large object on a dark background, which a tiny model learns in minutes."""
    return cls(
      motions=("left", "right", "up", "down", "spin", "grow"),
      counts=(1,),
      sizes=("large",),
      backgrounds=("dark",),
      cameras=("static",),
      duration_s=(2.0, 2.0),
      fps=(8.0, 8.0),
      tilt=0.0,
      caption_style="short",
    )

  @classmethod
  def pairs(cls) -> "WorldConfig":
    """The simple world with one or two objects, so that counting depends on the prompt."""
    return dataclasses.replace(cls.simple(), counts=(1, 2))

  @classmethod
  def signs(cls) -> "WorldConfig":
    """A sign with a word of one to three letters, legible from 32 pixels up, which a tiny model
    learns to spell in minutes."""
    colours = ("white", "yellow", "cyan")
    return dataclasses.replace(cls.simple(), colours=colours, word_lengths=(1, 2, 3))

  @classmethod
  def people(cls) -> "WorldConfig":
    """One person from the shoulders up, of any identity: for clips of 64 pixels and more."""
    return dataclasses.replace(
      cls.simple(), backgrounds=("light",), caption_style="natural", person=PeopleConfig()
    )

  @classmethod
  def full(cls) -> "WorldConfig":
    """Every kind of scene of objects: the defaults."""
    return cls()

  @classmethod
  def stills(cls) -> "WorldConfig":
    """The full world for single frames: all scenes last two seconds, so that their middle is at
    one second, and captions name places instead of motions."""
    return dataclasses.replace(
      cls.full(), duration_s=(2.0, 2.0), fps=(8.0, 8.0), caption_style="frame"
    )

  @classmethod
  def looks(cls) -> "WorldConfig":
    """Up to two objects on every ground, in every weather, at every time of day and in every style,
    half of the time a natural one."""
    grounds = (*BACKGROUNDS, *2 * tuple(GROUNDS))
    return dataclasses.replace(
      cls.full(),
      counts=(1, 1, 2),
      colours=tuple(name for name in PALETTE if name != "white"),
      backgrounds=grounds,
      cameras=("static",) * 12 + CAMERAS[1:],
      duration_s=(2.0, 2.0),
      fps=(8.0, 8.0),
      weathers=("clear", "clear", *WEATHERS[1:]),
      times=TIMES,
      styles=("natural",) * (len(STYLES) - 1) + tuple(STYLES)[1:],
    )

  @property
  def looks_vary(self) -> bool:
    """Whether scenes have weather, time of day, style or a painted ground."""
    return bool(set(GROUNDS) & set(self.backgrounds)) or set(self.styles) != {"natural"}

  @classmethod
  def sounds(cls) -> "WorldConfig":
    """One object that bounces, knocks, spins, resizes or rests, with its sound, half of the time
    with music: small enough for a tiny model."""
    return dataclasses.replace(
      cls.simple(),
      motions=("bounce", "bounce", "knock", "knock", "spin", "grow", "shrink", "still"),
      colours=("white", "orange", "cyan", "red"),
      sizes=("medium", "large"),
      backgrounds=("dark", "light"),
      sound=SoundConfig(),
    )

  @classmethod
  def orchestra(cls) -> "WorldConfig":
    """Every motion, material, mood and ambience, in recordings of any quality."""
    return dataclasses.replace(
      cls.full(),
      motions=tuple(MOTIONS),
      counts=(1, 1, 2),
      cameras=("static",),
      duration_s=(2.0, 10.0),
      sound=SoundConfig(ambiences=("", *AMBIENCES), quality=(4.0, 10.0)),
    )

  def __post_init__(self):
    known = {
      "kinds": SHAPES,
      "colours": PALETTE,
      "motions": MOTIONS,
      "counts": range(1, MAX_COUNT + 1),
      "sizes": SIZES,
      "backgrounds": (*BACKGROUNDS, *GROUNDS),
      "weathers": WEATHERS,
      "times": TIMES,
      "styles": STYLES,
      "cameras": CAMERAS,
      "word_lengths": range(MAX_LETTERS + 1),
    }
    for field, names in known.items():
      values = getattr(self, field)
      wrong = [v for v in values if v not in names]
      if wrong or not values:
        raise UserError(f"WorldConfig.{field}: {wrong or 'empty'}; choose from {list(names)}")
    if self.caption_style not in CAPTION_STYLES:
      raise UserError(f"WorldConfig.caption_style: choose from {CAPTION_STYLES}")
    for field in ("duration_s", "fps"):
      low, high = getattr(self, field)
      if not 0 < low <= high:
        raise UserError(f"WorldConfig.{field}: ({low}, {high}) is not a positive range")
    if "spin" in self.motions and not any(SHAPES[k].symmetry for k in self.kinds):
      raise UserError("WorldConfig: spin does not show on these kinds; add one that is not round")


def sample(seed: int, index: int, config: WorldConfig) -> Scene:
  """Draws scene `index` of world `seed`. Three or four objects are small and two at most medium,
  so that they stay apart. Sound only affects the positions of objects that hit the floor or a
  wall, which move to it."""
  if config.person is not None:
    rng = np.random.default_rng([seed, index, _PEOPLE_STREAM])
    if rng.uniform() < config.person.share:
      return _portrait(rng, seed, index, config)
  rng = np.random.default_rng([seed, index, _SIGN_STREAM])
  length = _pick(rng, config.word_lengths)
  if length:
    scene = _signed(rng, seed, index, length=length, config=config)
  else:
    scene = _objects(seed, index, config)
  scene = _looks(scene, config)
  if config.sound is None:
    return scene
  return add_sound(np.random.default_rng([seed, index, _SOUND_STREAM]), scene, config.sound)


def _looks(scene: Scene, config: WorldConfig) -> Scene:
  """The scene with layout of its ground, weather, time and style, those alone that are visible.

  They have a generator of their own, so a world's objects stay as they are when it gains looks.
  """
  rng = np.random.default_rng([scene.seed, scene.index, _LOOK_STREAM])
  weather, time = _pick(rng, config.weathers), _pick(rng, config.times)
  style = _pick(rng, config.styles)
  layout = int(rng.integers(1 << 31))
  if scene.sign is not None and "word" in STYLES[style].unread:
    style = "natural"
  if scene.background.name in GROUNDS:
    background = dataclasses.replace(scene.background, seed=layout)
    scene = dataclasses.replace(scene, background=background)
  hidden = STYLES[style].hides if outdoor(scene.background.name) else ("weather", "time")
  return dataclasses.replace(
    scene,
    weather="clear" if "weather" in hidden else weather,
    time="day" if "time" in hidden else time,
    style=style,
  )


def _objects(seed: int, index: int, config: WorldConfig) -> Scene:
  rng = np.random.default_rng([seed, index])
  pick = functools.partial(_pick, rng)
  name = pick(config.motions)
  kind = pick([k for k in config.kinds if name != "spin" or SHAPES[k].symmetry])
  colour, count = pick(config.colours), pick(config.counts)
  largest = {1: "large", 2: "medium"}.get(count, "small")
  size = min(pick(config.sizes), largest, key=SIZES.__getitem__)
  camera = pick(config.cameras)
  background = _ground(rng, config)
  motion = _motion(rng, name, count=count)
  angle = float(rng.uniform(-1, 1)) * config.tilt
  homes = _place(rng, motion, count=count, radius=SIZES[size], camera=camera)
  return Scene(
    seed=seed,
    index=index,
    background=background,
    objects=tuple(Thing(kind, colour, size, x, y, angle, motion) for x, y in homes),
    camera=camera,
    duration_s=float(rng.uniform(*config.duration_s)),
    fps=float(rng.uniform(*config.fps)),
  )


def _pick(rng: np.random.Generator, values: tuple):
  return values[int(rng.integers(len(values)))]


def _ground(rng: np.random.Generator, config: WorldConfig) -> Background:
  return Background(
    name=_pick(rng, config.backgrounds),
    period=float(rng.uniform(0.25, 0.45)),
    angle=float(rng.uniform(0, 2 * np.pi)),
  )


def _signed(
  rng: np.random.Generator, seed: int, index: int, *, length: int, config: WorldConfig
) -> Scene:
  """A scene with a sign, its letters about as large as fit for the whole scene."""
  word = draw(rng, length, held=index >= VALIDATION_START)
  colour, camera = _pick(rng, config.colours), _pick(rng, config.cameras)
  zoom = ZOOM_RATIO**0.5 if camera.startswith("zoom") else 1.0
  pan = PAN_DISTANCE / 2 if camera.startswith("pan") else 0.0
  room = np.array([0.5 / zoom - pan, 0.5 / zoom]) - SIGN_MARGIN
  half = np.array(board(length)) / 2
  height = min(MAX_LETTER, float((room / half).min())) * float(rng.uniform(0.94, 1))
  x, y = rng.uniform(-1, 1, size=2) * (room - height * half)
  return Scene(
    seed=seed,
    index=index,
    background=_ground(rng, config),
    objects=(),
    camera=camera,
    duration_s=float(rng.uniform(*config.duration_s)),
    fps=float(rng.uniform(*config.fps)),
    sign=Sign(word, colour, height, float(x), float(y)),
  )


def _portrait(rng: np.random.Generator, seed: int, index: int, config: WorldConfig) -> Scene:
  """A scene with a person, for which sound is not drawn."""
  person = draw_person(rng, config.person, held=index >= VALIDATION_START, shirts=config.colours)
  return Scene(
    seed=seed,
    index=index,
    background=_ground(rng, config),
    objects=(),
    camera=_pick(rng, config.cameras),
    duration_s=float(rng.uniform(*config.duration_s)),
    fps=float(rng.uniform(*config.fps)),
    person=person,
  )


def _motion(rng: np.random.Generator, name: str, *, count: int) -> Motion:
  """Amounts visible in sixteen frames that leave room for `count` objects."""
  amount, cycles, phase = rng.uniform(), rng.uniform(), float(rng.uniform())
  sign = 1 if rng.integers(2) else -1
  if name in ("left", "right", "up", "down"):
    return Motion(name, amount=(0.48 if count <= 2 else 0.42) + 0.06 * amount)
  if name == "bounce":
    return Motion(name, amount=0.3 + 0.1 * amount, cycles=1.6 + 0.8 * cycles, phase=phase)
  if name == "knock":
    return Motion(name, amount=sign * (0.3 + 0.1 * amount), cycles=1.6 + 0.8 * cycles, phase=phase)
  if name == "orbit":
    radius = (0.15 if count == 1 else 0.13) + 0.03 * amount
    return Motion(name, amount=radius, cycles=sign * (0.95 + 0.25 * cycles), phase=phase)
  if name == "spin":
    # At most 0.8 turns: in eight frames a five-pointed star still turns the right way.
    return Motion(name, cycles=sign * (0.5 + 0.3 * cycles), phase=phase)
  if name in ("grow", "shrink"):
    return Motion(name, amount=1.9 + 0.3 * amount)
  return Motion(name)


def _place(
  rng: np.random.Generator, motion: Motion, *, count: int, radius: float, camera: str
) -> list[tuple[float, float]]:
  """Centres of the paths, inside the frame for the whole scene and apart from each other."""
  u_T = np.linspace(0, 1, 33)
  pose = MOTIONS[motion.name](motion, u_T)
  radius = radius * pose.scale.max()
  zoom = ZOOM_RATIO**0.5 if camera.startswith("zoom") else 1.0
  pan = PAN_DISTANCE / 2 if camera.startswith("pan") else 0.0
  low = np.array([radius - pose.dx.min() + pan, radius - pose.dy.min()]) - 0.5 / zoom + MARGIN
  high = 0.5 / zoom - MARGIN - np.array([radius + pose.dx.max() + pan, radius + pose.dy.max()])
  middle = (low + high) / 2
  low, high = np.minimum(low, middle), np.maximum(high, middle)
  homes = rng.uniform(low, high, size=(ATTEMPTS, count, 2))
  apart = np.linalg.norm(homes[:, :, None] - homes[:, None], axis=-1) + 9 * np.eye(count)
  nearest = apart.min(axis=(1, 2))
  good = np.flatnonzero(nearest >= 2 * radius + GAP)
  if len(good):
    chosen = homes[good[0]]
  else:
    chosen = _push_apart(homes[int(nearest.argmax())], 2 * radius + GAP, low=low, high=high)
  return [(float(x), float(y)) for x, y in chosen]


def _push_apart(
  homes: np.ndarray, distance: float, *, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
  """Moves points (N, 2) away from each other, inside their box, until `distance` apart."""
  for _ in range(100):
    away = homes[:, None] - homes[None]
    apart = np.linalg.norm(away, axis=-1) + 9 * np.eye(len(homes))
    if apart.min() >= distance:
      break
    push = np.maximum(1.05 * distance - apart, 0) / apart
    homes = np.clip(homes + 0.5 * (push[..., None] * away).sum(1), low, high)
  return homes
