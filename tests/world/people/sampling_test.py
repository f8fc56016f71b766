"""Sampling of people: held-out identities, actions that show, and worlds that stay as they were."""

import collections
import dataclasses

import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.people.facts import ACTIONS, EXPRESSIONS, IDENTITIES, held_out, number
from mg_jax.world.people.sampling import PeopleConfig
from mg_jax.world.scene.sampling import VALIDATION_START, WorldConfig, sample

WORLD = WorldConfig.people()


def _people(world=WORLD, n=400, start=0):
  return [sample(3, start + i, world).person for i in range(n)]


def test_scenes_are_deterministic_and_varied():
  assert _people(n=20) == _people(n=20)
  people = _people()
  assert len({number(p.identity) for p in people}) > 390
  assert {p.action for p in people} == set(ACTIONS)
  assert {p.expression for p in people} == set(EXPRESSIONS)


def test_training_and_validation_share_no_identity():
  assert not any(held_out(number(p.identity)) for p in _people())
  assert all(held_out(number(p.identity)) for p in _people(start=VALIDATION_START))


@pytest.mark.parametrize("which, wanted", [("seen", {False}), ("held out", {True}), ("all", None)])
def test_identities_may_be_chosen(which, wanted):
  world = dataclasses.replace(WORLD, person=PeopleConfig(identities=which))
  for start in (0, VALIDATION_START):
    held = {held_out(number(p.identity)) for p in _people(world, 80, start)}
    assert held == (wanted or {True, False})


def test_scenes_of_some_people_alone():
  world = dataclasses.replace(WORLD, person=PeopleConfig(numbers=(5, 77)))
  assert {number(p.identity) for p in _people(world, 40)} == {5, 77}


def test_actions_show():
  for person in _people(n=800):
    assert person.action != "smile" or person.expression != "happy"
    assert person.action != "talk" or person.expression != "surprised"
    assert person.action != "look away" or person.gaze == "camera"
    assert person.action not in ("turn left", "turn right") or person.pose != person.action[5:]


def test_people_join_other_scenes_without_changing_them():
  full = WorldConfig.full()
  mixed = dataclasses.replace(full, person=PeopleConfig(share=0.4))
  scenes = [(sample(1, i, mixed), sample(1, i, full)) for i in range(100)]
  counts = collections.Counter(scene.person is not None for scene, _ in scenes)
  assert 25 < counts[True] < 55
  assert all(scene == same for scene, same in scenes if scene.person is None)


@pytest.mark.parametrize(
  "wrong",
  [{"actions": ("fly",)}, {"poses": ()}, {"identities": "some"}, {"share": 1.5},
   {"numbers": (IDENTITIES,)}],
)  # fmt: skip
def test_config_errors_are_named(wrong):
  with pytest.raises(UserError):
    PeopleConfig(**wrong)
