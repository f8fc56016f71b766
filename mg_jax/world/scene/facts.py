"""Facts of the toy world: what a scene holds, as frozen data that round-trips through JSON.

A scene is independent of resolution and frame rate. Lengths are in units of the frame's shorter
side, the origin is the centre of the frame, x points right and y points down; times are seconds. A
scene is pure data: names are looked up in the registries of `shapes` and `motion`, so an edit is a
function Scene -> Scene (`dataclasses.replace`) and new facts are new entries or fields with
defaults. The toy world stands in for the filtered corpus of [MG 3.2], with exact labels.
"""

import dataclasses
from typing import Any

from mg_jax.core.errors import UserError
from mg_jax.world.people.facts import Person, person_facts
from mg_jax.world.scene.grounds import outdoor
from mg_jax.world.scene.styles import STYLES

# Saturated and far apart in hue, even when blurred towards any allowed background.
PALETTE: dict[str, tuple[int, int, int]] = {
  "red": (225, 38, 38),
  "orange": (250, 130, 20),
  "yellow": (245, 220, 40),
  "green": (40, 175, 60),
  "cyan": (45, 210, 220),
  "blue": (45, 80, 235),
  "purple": (165, 55, 205),
  "white": (252, 252, 252),
}

# Radius of the circle around a shape.
SIZES: dict[str, float] = {"small": 0.10, "medium": 0.16, "large": 0.21}

# The letters of every sign: dark on boards of any palette colour.
INK: tuple[int, int, int] = (18, 18, 22)

# The two tones of every background: grey and dim enough to separate from each palette colour.
BACKGROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
  "dark": ((26, 27, 31), (26, 27, 31)),
  "light": ((170, 168, 164), (170, 168, 164)),
  "gradient": ((28, 29, 36), (92, 90, 88)),
  "striped": ((40, 42, 46), (62, 62, 64)),
  "checkered": ((36, 38, 42), (56, 56, 58)),
}

CAMERAS = ("static", "pan left", "pan right", "zoom in", "zoom out")
# Deliberately gentle: a camera move stays well below what the oracles call a motion of the object.
PAN_DISTANCE = 0.12
ZOOM_RATIO = 1.16


@dataclasses.dataclass(frozen=True)
class Motion:
  """How a thing moves over one scene; `name` selects the law in `motion.MOTIONS`.

  amount: distance travelled, orbit radius, bounce height or size ratio, by law.
  cycles: turns or bounces within the scene, signed where direction matters.
  phase: starting point of a cycle, in cycles.
  hits: phases of the scene at which a bounce or a knock hits the floor or the wall, ascending;
    the first is before 0 and the last after 1. Empty for the regular hits of cycles and phase.
  """

  name: str = "still"
  amount: float = 0.0
  cycles: float = 0.0
  phase: float = 0.0
  hits: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Thing:
  """One visible object. (x, y) is the middle of its path, angle in radians, clockwise on screen.

  attributes are keyword arguments of the shape's distance function (a word, a face's expression).
  """

  kind: str
  colour: str
  size: str
  x: float
  y: float
  angle: float = 0.0
  motion: Motion = Motion()
  attributes: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class Background:
  """`name` of BACKGROUNDS or of `grounds.GROUNDS`; plain patterns have a period in shorter sides
  and an angle in radians, and the layout of a ground follows `seed`."""

  name: str = "dark"
  period: float = 0.25
  angle: float = 0.0
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Sign:
  """A still board of a palette colour with one word of 1 to 6 letters A-Z.

  (x, y) is the centre of the board; `height` is that of a letter, which determines the board's size
  by `letters.board`.
  """

  word: str
  colour: str
  height: float
  x: float = 0.0
  y: float = 0.0


@dataclasses.dataclass(frozen=True)
class Music:
  """Background music. mood: of `sound_facts.MOODS`, which sets tempo, scale and instrument.

  root: semitones above the lowest root; start_s: time of the first note; tune: melody seed.
  """

  mood: str
  root: int = 0
  start_s: float = 0.0
  tune: int = 0


@dataclasses.dataclass(frozen=True)
class Sound:
  """Sounds of a scene besides those of its objects: nothing of them is visible.

  ambience: of `sound_facts.AMBIENCES`, or "". quality: of the recording, 1 to 10; from 8 up without
  noise.
  """

  music: Music | None = None
  ambience: str = ""
  quality: float = 8.0


@dataclasses.dataclass(frozen=True)
class Event:
  """Something that happens at one time, such as an impact and its material."""

  kind: str
  time_s: float
  attributes: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class Scene:
  """A whole clip. `fps` is the nominal frame rate for builders that keep one.

  `sound` is None for a scene of a world without sound. weather, time: of `weather`, visible on
  outdoor grounds; style: of the whole picture, of `styles.STYLES`.

  A scene shows objects, a sign or a person, never two of them: letters and faces need the whole of
  a small frame, and the object oracles need not distinguish a board from a square. Raises UserError
  for two.
  """

  seed: int
  index: int
  background: Background
  objects: tuple[Thing, ...]
  camera: str = "static"
  duration_s: float = 2.0
  fps: float = 8.0
  events: tuple[Event, ...] = ()
  attributes: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
  sign: Sign | None = None
  sound: Sound | None = None
  person: Person | None = None
  weather: str = "clear"
  time: str = "day"
  style: str = "natural"

  def __post_init__(self):
    if self.person is not None and (self.objects or self.sign is not None):
      raise UserError(
        f"Scene {self.seed}/{self.index} has a person and objects or a sign; leave out one of them"
      )
    if self.sign is not None and self.objects:
      raise UserError(
        f"Scene {self.seed}/{self.index} has a sign and objects; leave out one of them"
      )

  def to_dict(self) -> dict[str, Any]:
    """Plain dicts, lists, strings and numbers, ready for JSON."""
    out = dataclasses.asdict(self)
    out["objects"], out["events"] = list(out["objects"]), list(out["events"])
    return out

  @classmethod
  def from_dict(cls, data: dict[str, Any]) -> "Scene":
    """Inverse of `to_dict`; raises UserError on missing or unknown fields."""
    try:
      things = tuple(Thing(**{**d, "motion": _motion(d["motion"])}) for d in data["objects"])
      events = tuple(Event(**d) for d in data["events"])
      background = Background(**data["background"])
      sign = None if data.get("sign") is None else Sign(**data["sign"])
      built = {"objects": things, "events": events, "background": background, "sign": sign}
      person = data.get("person")
      built["person"] = None if person is None else Person.from_dict(person)
      built["sound"] = None if data.get("sound") is None else _sound(data["sound"])
      return cls(**{**data, **built})
    except (KeyError, TypeError) as error:
      raise UserError(f"Scene.from_dict: {error}; pass a dict written by Scene.to_dict") from error


def _motion(data: dict[str, Any]) -> Motion:
  return Motion(**{**data, "hits": tuple(data.get("hits", ()))})


def _sound(data: dict[str, Any]) -> Sound:
  return Sound(**{**data, "music": None if data["music"] is None else Music(**data["music"])})


def groups(scene: Scene) -> list[dict[str, Any]]:
  """Facts of each group of equal objects (same kind, colour, size and motion), in drawing order."""
  counts: dict[tuple[str, str, str, str], int] = {}
  for thing in scene.objects:
    key = (thing.colour, thing.kind, thing.size, thing.motion.name)
    counts[key] = counts.get(key, 0) + 1
  names = ("colour", "kind", "size", "motion")
  found = [{**dict(zip(names, key, strict=True)), "count": n} for key, n in counts.items()]
  return [_visible(group, scene) for group in found]


def _visible(named: dict[str, Any], scene: Scene) -> dict[str, Any]:
  """Those facts that the style of the scene does not hide."""
  hidden = STYLES[scene.style].hides if scene.style in STYLES else ()
  return {name: value for name, value in named.items() if name not in hidden}


def facts(scene: Scene) -> dict[str, Any]:
  """True facts of the scene: colour, kind, count, motion and size of its first group (the
  subject), word and colour of its sign, or those of its person; background and camera; weather and
  time of an outdoor ground; style unless it is natural, without the facts that it hides. Raises
  UserError for an empty scene."""
  if scene.person is not None:
    subject = person_facts(scene.person)
  elif scene.sign is not None:
    subject = {"word": scene.sign.word, "colour": scene.sign.colour}
  elif scene.objects:
    subject = groups(scene)[0]
  else:
    raise UserError(f"facts: scene {scene.seed}/{scene.index} has no objects; add one first")
  named = {**subject, "background": scene.background.name, "camera": scene.camera}
  if outdoor(scene.background.name):
    named |= {"weather": scene.weather, "time": scene.time}
  if scene.style != "natural":
    named["style"] = scene.style
  return _visible(named, scene)
