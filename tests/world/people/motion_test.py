"""Actions change what they name, from the pose and expression of the start, and nothing else."""

import dataclasses

import numpy as np
import pytest

from mg_jax.world.people import motion
from mg_jax.world.people.facts import ACTIONS, GAZES, POSES, Person, identity
from mg_jax.world.people.motion import FACES, LAWS, curves

U = np.arange(16) / 16
PERSON = Person(identity(7), "red", expression="sad")
MOVES = {
  "still": set(), "turn left": {"yaw"}, "turn right": {"yaw"}, "nod": {"pitch"}, "shake": {"yaw"},
  "smile": {"raised", "frown", "width", "curve", "open", "teeth"}, "look away": {"gaze_x"},
  "enter left": {"dx", "dy"}, "enter right": {"dx", "dy"}, "wave": {"swing"},
  "talk": {"open", "width"},
}  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_moves_only_its_own_curves(action):
  out = dataclasses.asdict(curves(dataclasses.replace(PERSON, action=action), U))
  assert {name for name, value_T in out.items() if np.ptp(value_T) > 1e-9} == MOVES[action]
  assert set(LAWS) == set(ACTIONS)


def test_turns_nods_and_entries_go_where_they_say():
  def of(action, **facts):
    return curves(dataclasses.replace(PERSON, action=action, **facts), U)

  assert of("turn left").yaw[-1] < -0.6 and of("turn right").yaw[-1] > 0.6
  assert of("turn left", pose="right").yaw[0] == POSES["right"]
  assert of("nod").pitch.max() > 0.35 and of("nod").pitch.min() > -1e-9
  assert of("shake").yaw.max() > 0.35 and of("shake").yaw.min() < -0.35
  assert of("enter left").dx[0] < -0.7 and of("enter left").dx[-1] == 0
  assert of("enter right").dx[0] > 0.7
  assert of("look away", gaze="right").gaze_x[-1] == -1 and of("look away").gaze_x[-1] == 1
  assert np.abs(of("turn left", pose="left", amount=2.0).yaw).max() == motion.MAX_YAW


def test_a_smile_starts_from_the_expression_and_ends_happy():
  out = curves(dataclasses.replace(PERSON, action="smile"), U)
  first = {n: v for n, v in zip(motion.PARAMETERS, FACES["sad"], strict=True)}
  last = {n: v for n, v in zip(motion.PARAMETERS, FACES["happy"], strict=True)}
  for name in motion.PARAMETERS:
    assert getattr(out, name)[0] == pytest.approx(first[name])
    assert getattr(out, name)[-1] == pytest.approx(last[name])


@pytest.mark.parametrize("gaze", GAZES)
def test_gazes_are_apart(gaze):
  out = curves(dataclasses.replace(PERSON, gaze=gaze), U)
  assert (out.gaze_x[0], out.gaze_y[0]) == GAZES[gaze]
