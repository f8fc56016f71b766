"""Sampling of people: a random person of a random identity, train and held-out ones apart."""

import dataclasses

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.people.facts import (
  ACTIONS,
  EXPRESSIONS,
  GAZES,
  IDENTITIES,
  LIGHTS,
  POSES,
  SHOTS,
  Identity,
  Person,
  held_out,
  identity,
)

IDENTITY_SETS = ("split", "seen", "held out", "all")
OFFSET = (0.05, 0.015)  # largest shift of a head from its place, in shorter sides


@dataclasses.dataclass(frozen=True)
class PeopleConfig:
  """The possible people of scenes. Names are drawn uniformly from each tuple; an entry repeated in
  a tuple is drawn more often.

  share: fraction of scenes with a person. identities: "seen" ones, "held out" ones, "all", or
  "split": seen ones in training scenes and held-out ones in validation scenes. numbers: of the only
  identities drawn, whatever `identities` is; empty for any.
  """

  share: float = 1.0
  identities: str = "split"
  numbers: tuple[int, ...] = ()
  actions: tuple[str, ...] = ACTIONS
  poses: tuple[str, ...] = ("front", *POSES)
  expressions: tuple[str, ...] = EXPRESSIONS
  gazes: tuple[str, ...] = ("camera", *GAZES)
  lights: tuple[str, ...] = ("even", *LIGHTS)
  shots: tuple[str, ...] = ("close-up", "close-up", "bust")

  def __post_init__(self):
    known = {
      "actions": ACTIONS,
      "poses": POSES,
      "expressions": EXPRESSIONS,
      "gazes": GAZES,
      "lights": LIGHTS,
      "shots": SHOTS,
    }
    for field, names in known.items():
      values = getattr(self, field)
      wrong = [v for v in values if v not in names]
      if wrong or not values:
        raise UserError(f"PeopleConfig.{field}: {wrong or 'empty'}; choose from {list(names)}")
    if self.identities not in IDENTITY_SETS:
      raise UserError(f"PeopleConfig.identities: choose from {IDENTITY_SETS}")
    if not 0 <= self.share <= 1:
      raise UserError(f"PeopleConfig.share is {self.share}; give a fraction from 0 to 1")
    for number in self.numbers:
      identity(number)


def draw_identity(rng: np.random.Generator, config: PeopleConfig, *, held: bool) -> Identity:
  """A random identity; `held`: of a validation scene."""
  if config.numbers:
    return identity(config.numbers[int(rng.integers(len(config.numbers)))])
  wanted = {"split": held, "seen": False, "held out": True}.get(config.identities)
  while True:
    number = int(rng.integers(IDENTITIES))
    if wanted is None or held_out(number) is wanted:
      return identity(number)


def draw_person(
  rng: np.random.Generator, config: PeopleConfig, *, held: bool, shirts: tuple[str, ...]
) -> Person:
  """A random person whose action shows: who smiles is not happy before, who looks away looks at
  the camera before, and who turns does not face that side already."""

  def pick(values: tuple[str, ...], *without: str) -> str:
    values = [v for v in values if v not in without] or list(values)
    return values[int(rng.integers(len(values)))]

  who = draw_identity(rng, config, held=held)
  action = pick(config.actions)
  side = {"turn left": ("left",), "turn right": ("right",), "shake": ("left", "right")}
  expressions = {"smile": ("happy",), "talk": ("surprised",)}
  return Person(
    identity=who,
    shirt=pick(shirts),
    action=action,
    pose=pick(config.poses, *side.get(action, ())),
    expression=pick(config.expressions, *expressions.get(action, ())),
    gaze="camera" if action == "look away" else pick(config.gazes),
    light=pick(config.lights),
    shot=pick(config.shots),
    x=float(rng.uniform(-1, 1)) * OFFSET[0],
    y=float(rng.uniform(-1, 1)) * OFFSET[1],
    amount=float(rng.uniform(0.9, 1.1)),
  )
