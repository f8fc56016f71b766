"""Identities are numbered without gaps, a share of them is held out, and wrong values are named."""

import dataclasses
import json

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.people import facts as F
from mg_jax.world.people import lexicon
from mg_jax.world.scene.facts import Background, Scene, Sign, facts

WHO = F.identity(12345)
PERSON = F.Person(WHO, "green", action="nod", pose="left", x=0.02)


def test_numbers_and_identities_are_one_to_one():
  assert F.IDENTITIES >= 10_000
  numbers = np.random.default_rng(0).integers(F.IDENTITIES, size=2000)
  for n in (0, F.IDENTITIES - 1, *map(int, numbers)):
    assert F.number(F.identity(n)) == n
  assert len({F.identity(n) for n in range(5000)}) == 5000


@pytest.mark.parametrize("wrong", [-1, F.IDENTITIES])
def test_numbers_out_of_range_are_rejected(wrong):
  with pytest.raises(UserError, match="choose 0 to"):
    F.identity(wrong)


def test_each_trait_alone_changes_the_number():
  for trait, values in F.TRAITS.items():
    numbers = {F.number(dataclasses.replace(WHO, **{trait: value})) for value in values}
    assert len(numbers) == len(values) and F.number(WHO) in numbers


def test_about_one_identity_in_eight_is_held_out_whatever_its_traits():
  held = [F.held_out(n) for n in range(8000)]
  assert 0.11 < np.mean(held) < 0.14
  seen = {(t, getattr(F.identity(n), t)) for n in range(0, F.IDENTITIES, 17) if F.held_out(n)
          for t in F.TRAITS}  # fmt: skip
  assert seen == {(t, value) for t, values in F.TRAITS.items() for value in values}


@pytest.mark.parametrize(
  "field, value", [("action", "fly"), ("pose", "up"), ("light", "red"), ("shot", "wide")]
)
def test_unknown_values_are_named(field, value):
  with pytest.raises(UserError, match=value):
    dataclasses.replace(PERSON, **{field: value})
  with pytest.raises(UserError, match="mohawk"):
    dataclasses.replace(WHO, haircut="mohawk")


def test_scenes_with_a_person_round_trip_and_show_nothing_else():
  scene = Scene(0, 0, Background("light"), (), person=PERSON)
  assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
  known = facts(scene)
  assert known["identity"] == 12345 and known["action"] == "nod" and known["hair"] == WHO.hair
  assert known["background"] == "light"
  with pytest.raises(UserError, match="has a person and"):
    dataclasses.replace(scene, sign=Sign("CAT", "red", 0.3))
  data = scene.to_dict()
  data["person"]["identity"]["nose"] = "big"
  with pytest.raises(UserError, match="nose"):
    Scene.from_dict(data)
  del data["person"]
  assert Scene.from_dict(data) == dataclasses.replace(scene, person=None)


def test_every_fact_has_words_of_its_own():
  tables = {**F.TRAITS, "action": F.ACTIONS, "pose": F.POSES, "expression": F.EXPRESSIONS,
            "gaze": F.GAZES, "light": F.LIGHTS, "shot": F.SHOTS}  # fmt: skip
  words = {**lexicon.TRAITS, "hair": lexicon.HAIRS, "action": lexicon.ACTIONS,
           "pose": lexicon.POSES, "expression": lexicon.EXPRESSIONS, "gaze": lexicon.GAZES,
           "light": lexicon.LIGHTS, "shot": lexicon.SHOTS}  # fmt: skip
  for name, values in tables.items():
    assert set(words[name]) == set(values), name


def test_colours_of_skin_and_hair_are_apart():
  skins, hairs = (np.array(list(t.values()), float) for t in (F.SKINS, F.HAIRS))
  assert np.linalg.norm(skins[:, None] - hairs, axis=-1).min() > 45
  for table in (skins, hairs):
    assert (np.linalg.norm(table[:, None] - table, axis=-1) + 999 * np.eye(len(table))).min() > 45
