"""Facts of people in the toy world: who somebody is, and how a scene shows them.

An `Identity` is what personalization keeps [MG 4]: the look of a head. Everything else of a
`Person` (clothing, action, pose, expression, gaze, light, size of the shot) changes from scene to
scene. Identities are numbered, so that a whole number is an identity and the reverse; about one in
eight is held out of training. Left and right are those of the picture.
"""

import dataclasses
import hashlib
import math

from mg_jax.core.errors import UserError

Colour = tuple[int, int, int]

# Evenly spaced in lightness, and each of them apart from every colour of hair.
SKINS: dict[str, Colour] = {
  "pale": (255, 226, 206),
  "light": (243, 194, 156),
  "tan": (218, 154, 106),
  "brown": (174, 112, 76),
  "dark": (126, 78, 56),
}
# Half width and half height of a face in head units, and how far its jaw is widened.
SHAPES: dict[str, tuple[float, float, float]] = {
  "round": (0.98, 0.91, 0.0),
  "long": (0.74, 1.12, 0.0),
  "square": (0.85, 0.99, 0.25),
}
HAIRCUTS = ("bald", "short", "long", "curly", "bun", "fringe", "pigtails")
HAIRS: dict[str, Colour] = {
  "black": (30, 28, 46),
  "brown": (84, 46, 24),
  "blond": (240, 198, 82),
  "red": (206, 80, 32),
  "grey": (206, 210, 218),
  "pink": (238, 104, 168),
  "blue": (50, 118, 204),
}
BROWS: dict[str, float] = {"thin": 0.032, "thick": 0.075}  # half the thickness, in head units
EYES: dict[str, Colour] = {"brown": (112, 58, 20), "blue": (40, 116, 232), "green": (48, 160, 80)}
GLASSES = ("none", "round", "square")
MARKS = ("none", "freckles", "mole", "plaster", "moustache", "beard")

# What an identity is made of, most significant first in its number.
TRAITS: dict[str, tuple[str, ...]] = {
  "haircut": HAIRCUTS,
  "hair": tuple(HAIRS),
  "skin": tuple(SKINS),
  "face": tuple(SHAPES),
  "mark": MARKS,
  "glasses": GLASSES,
  "eyes": tuple(EYES),
  "brows": tuple(BROWS),
}
IDENTITIES = math.prod(map(len, TRAITS.values()))
HELD_OUT_PART = 8  # one identity in this many

ACTIONS = (
  "still", "turn left", "turn right", "nod", "shake", "smile", "look away", "enter left",
  "enter right", "wave", "talk",
)  # fmt: skip
POSES: dict[str, float] = {"front": 0.0, "left": -0.55, "right": 0.55}  # yaw in radians
EXPRESSIONS = ("neutral", "happy", "sad", "surprised", "angry")
# Shift of the iris, right and down, in units of the most that it can move.
GAZES: dict[str, tuple[float, float]] = {
  "camera": (0.0, 0.0),
  "left": (-1.0, 0.0),
  "right": (1.0, 0.0),
  "up": (0.0, -1.0),
  "down": (0.0, 1.0),
}
LIGHTS = ("even", "left", "right", "dim")
# Half the height of a face, and height of its centre, in shorter sides of the frame.
SHOTS: dict[str, tuple[float, float]] = {"close-up": (0.285, -0.02), "bust": (0.235, -0.08)}


@dataclasses.dataclass(frozen=True)
class Identity:
  """Who somebody is: one value for each of TRAITS. Raises UserError for unknown values."""

  skin: str
  face: str
  haircut: str
  hair: str
  brows: str
  eyes: str
  glasses: str = "none"
  mark: str = "none"

  def __post_init__(self):
    _check("Identity", self, TRAITS)


def number(identity: Identity) -> int:
  """The number of an identity, in 0..IDENTITIES - 1."""
  out = 0
  for trait, values in TRAITS.items():
    out = out * len(values) + values.index(getattr(identity, trait))
  return out


def identity(number: int) -> Identity:
  """The identity of a number; raises UserError outside 0..IDENTITIES - 1."""
  if not 0 <= number < IDENTITIES:
    raise UserError(f"identity: {number} is no identity; choose 0 to {IDENTITIES - 1}")
  chosen = {}
  for trait, values in reversed(TRAITS.items()):
    number, place = divmod(number, len(values))
    chosen[trait] = values[place]
  return Identity(**chosen)


def held_out(number: int) -> bool:
  """Whether an identity is held out for validation, independent of seeds."""
  return hashlib.sha256(f"identity {number}".encode()).digest()[0] % HELD_OUT_PART == 0


@dataclasses.dataclass(frozen=True)
class Person:
  """One person, seen from the front down to the shoulders. Raises UserError for unknown values.

  shirt: of `scene.facts.PALETTE`. pose, expression and gaze hold when the clip begins; the action
  changes one of them, or moves the head, and leaves the others. (x, y): offset of the head from its
  place in the shot, in shorter sides. amount: scales the movement of the action, about 1.
  """

  identity: Identity
  shirt: str
  action: str = "still"
  pose: str = "front"
  expression: str = "neutral"
  gaze: str = "camera"
  light: str = "even"
  shot: str = "close-up"
  x: float = 0.0
  y: float = 0.0
  amount: float = 1.0

  def __post_init__(self):
    known = {
      "action": ACTIONS,
      "pose": POSES,
      "expression": EXPRESSIONS,
      "gaze": GAZES,
      "light": LIGHTS,
      "shot": SHOTS,
    }
    _check("Person", self, known)

  @classmethod
  def from_dict(cls, data: dict) -> "Person":
    """Inverse of `dataclasses.asdict`; raises TypeError or KeyError on wrong fields."""
    return cls(**{**data, "identity": Identity(**data["identity"])})


def _check(what: str, value, known: dict) -> None:
  for field, names in known.items():
    if getattr(value, field) not in names:
      raise UserError(f"{what}.{field}: {getattr(value, field)!r}; choose from {', '.join(names)}")


def person_facts(person: Person) -> dict[str, str | int]:
  """True facts of a person: every trait, the number of the identity, and the facts of the scene."""
  who = {trait: getattr(person.identity, trait) for trait in TRAITS}
  names = ("shirt", "action", "pose", "expression", "gaze", "light", "shot")
  return {**who, "identity": number(person.identity), **{n: getattr(person, n) for n in names}}
