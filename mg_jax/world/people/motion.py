"""How people move: Person and phases of the scene -> pose, expression and gaze in every frame.

A registry from action to a law, which changes the curves of a person that keeps still. Phases u =
time / duration are (T,); one-way actions are complete at three quarters of a scene and then hold.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from mg_jax.world.people.facts import GAZES, POSES, Person

MAX_YAW = 0.8  # a head turns no further
TURN = 0.72  # radians
NOD, SHAKE = 0.42, 0.42
NODS, WAVES, SYLLABLES = 2.0, 2.0, 4.0  # cycles per scene
ENTRY = 1.05  # shorter sides

# Parameters of an expression, in head units: brows raised and inner ends lowered; half width of
# the mouth, curve (positive: corners up) and opening; fraction of the opening that is teeth; size
# of the eyes.
PARAMETERS = ("raised", "frown", "width", "curve", "open", "teeth", "eye")
FACES: dict[str, tuple[float, ...]] = {
  "neutral": (0.0, 0.0, 0.24, 0.05, 0.0, 0.0, 1.0),
  "happy": (0.03, -0.02, 0.38, 0.2, 0.2, 0.5, 1.0),
  "sad": (0.0, -0.15, 0.26, -0.22, 0.0, 0.0, 1.0),
  "surprised": (0.15, 0.0, 0.16, 0.0, 0.36, 0.0, 1.12),
  "angry": (-0.03, 0.17, 0.32, -0.08, 0.17, 1.0, 1.0),
}


@dataclasses.dataclass
class Curves:
  """Everything that moves, each (T,). dx, dy: shorter sides; yaw, pitch: radians, positive to the
  right and down; the parameters of the expression; gaze: see GAZES; hand: 0 hidden, 1 raised;
  swing: angle of the hand in radians."""

  dx: np.ndarray
  dy: np.ndarray
  yaw: np.ndarray
  pitch: np.ndarray
  raised: np.ndarray
  frown: np.ndarray
  width: np.ndarray
  curve: np.ndarray
  open: np.ndarray
  teeth: np.ndarray
  eye: np.ndarray
  gaze_x: np.ndarray
  gaze_y: np.ndarray
  hand: np.ndarray
  swing: np.ndarray


def curves(person: Person, u_T: np.ndarray) -> Curves:
  """The curves of a person at the phases (T,) of a scene."""
  u_T = np.clip(np.asarray(u_T, np.float64), 0, 1)
  zero = np.zeros_like(u_T)
  face = {k: zero + v for k, v in zip(PARAMETERS, FACES[person.expression], strict=True)}
  gaze_x, gaze_y = GAZES[person.gaze]
  out = Curves(
    **{name: zero for name in ("dx", "dy", "pitch", "hand", "swing")},
    **face,
    yaw=zero + POSES[person.pose],
    gaze_x=zero + gaze_x,
    gaze_y=zero + gaze_y,
  )
  LAWS[person.action](out, person, u_T)
  out.yaw = np.clip(out.yaw, -MAX_YAW, MAX_YAW)
  return out


def _ease(u_T: np.ndarray, start: float = 0.2, end: float = 0.7) -> np.ndarray:
  """0 before `start`, 1 after `end`, smooth in between."""
  way_T = np.clip((u_T - start) / (end - start), 0, 1)
  return way_T * way_T * (3 - 2 * way_T)


def _turn(sign: int) -> Callable:
  def law(c: Curves, person: Person, u_T: np.ndarray) -> None:
    c.yaw = c.yaw + sign * TURN * person.amount * _ease(u_T)

  return law


def _nod(c: Curves, person: Person, u_T: np.ndarray) -> None:
  c.pitch = NOD * person.amount * (0.5 - 0.5 * np.cos(2 * np.pi * NODS * u_T))


def _shake(c: Curves, person: Person, u_T: np.ndarray) -> None:
  c.yaw = c.yaw + SHAKE * person.amount * np.sin(2 * np.pi * NODS * u_T)


def _smile(c: Curves, person: Person, u_T: np.ndarray) -> None:
  way_T = _ease(u_T)
  for name, target in zip(PARAMETERS, FACES["happy"], strict=True):
    start_T = getattr(c, name)
    setattr(c, name, start_T + way_T * (target - start_T))


def _look_away(c: Curves, person: Person, u_T: np.ndarray) -> None:
  """To the right, or to the left for a person who looks right."""
  way_T, aim = _ease(u_T), -1.0 if person.gaze == "right" else 1.0
  c.gaze_x, c.gaze_y = c.gaze_x + way_T * (aim - c.gaze_x), c.gaze_y * (1 - way_T)


def _enter(sign: int) -> Callable:
  def law(c: Curves, person: Person, u_T: np.ndarray) -> None:
    left_T = 1 - _ease(u_T, -0.3, 0.75)
    c.dx = -sign * ENTRY * left_T
    c.dy = -0.02 * np.abs(np.sin(2 * np.pi * 2 * u_T)) * (left_T > 0)

  return law


def _wave(c: Curves, person: Person, u_T: np.ndarray) -> None:
  c.hand = np.ones_like(u_T)
  c.swing = 0.26 * person.amount * np.sin(2 * np.pi * WAVES * u_T)


def _talk(c: Curves, person: Person, u_T: np.ndarray) -> None:
  say_T = 0.5 - 0.5 * np.cos(2 * np.pi * SYLLABLES * u_T)
  c.open = c.open + (0.3 - c.open) * say_T
  c.width = c.width + (0.2 - c.width) * say_T
  c.teeth = c.teeth * (1 - say_T)


LAWS: dict[str, Callable[[Curves, Person, np.ndarray], None]] = {
  "still": lambda c, person, u_T: None,
  "turn left": _turn(-1),
  "turn right": _turn(1),
  "nod": _nod,
  "shake": _shake,
  "smile": _smile,
  "look away": _look_away,
  "enter left": _enter(1),
  "enter right": _enter(-1),
  "wave": _wave,
  "talk": _talk,
}
