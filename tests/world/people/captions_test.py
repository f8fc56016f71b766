"""Captions of people: true, varied, with or without the identity; `prompts` inverts all of them."""

import re

import pytest

from mg_jax.world.people.captions import TEMPLATES
from mg_jax.world.people.facts import TRAITS, Identity, Person
from mg_jax.world.people.prompts import FACTS
from mg_jax.world.scene.captions import SENTENCE, STORY, caption, frame_caption, short_caption
from mg_jax.world.scene.facts import Background, Scene, facts
from mg_jax.world.scene.prompts import parse_prompt
from mg_jax.world.scene.sampling import WorldConfig, sample

WHO = Identity("tan", "round", "short", "red", "thin", "blue", "round")
SCENE = Scene(0, 0, Background("light"), (), person=Person(WHO, "green", "turn left", pose="right",
                                                           expression="happy"))  # fmt: skip


def test_the_short_caption_says_who_and_what():
  assert short_caption(SCENE) == (
    "a happy person with short red hair, round glasses and a green shirt turns left on a light "
    "background"
  )


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
def test_every_caption_is_inverted(template):
  for index in range(60):
    scene = sample(template, index, WorldConfig.people())
    truth = facts(scene)
    for text in (short_caption(scene), caption(scene, template + len(TEMPLATES) * index)):
      read = parse_prompt(text)
      assert read["action"] == truth["action"], text
      assert not {k: v for k, v in read.items() if v is not None and v != truth.get(k)}, text


def test_captions_of_a_frame_are_true_and_fit():
  for index in range(100):
    scene = sample(9, index, WorldConfig.people())
    truth = facts(scene)
    for variant, limit in ((0, SENTENCE), (1, STORY)):
      text = frame_caption(scene, variant)
      read = parse_prompt(text)
      assert len(text) <= limit and read["action"] is None, text
      assert not {k: v for k, v in read.items() if v is not None and v != truth.get(k)}, text


def test_some_captions_name_nobody_and_together_they_name_every_trait():
  reads = [parse_prompt(caption(sample(1, i, WorldConfig.people()), i)) for i in range(400)]
  anonymous = sum(all(read[trait] is None for trait in TRAITS) for read in reads)
  assert 80 < anonymous < 200
  for fact in FACTS:
    assert any(read[fact] is not None for read in reads), fact


def test_grammar():
  for index in range(200):
    text = caption(sample(2, index, WorldConfig.people()), index)
    assert text[0].isupper() and text.endswith(".") and "  " not in text
    assert not re.search(r"\ba [aeio]|\ban [^aeiou]|\{", text.lower()), text


@pytest.mark.parametrize(
  "text, wanted",
  [
    ("a woman with curly red hair, round glasses and a green shirt smiles and turns left",
     {"haircut": "curly", "hair": "red", "glasses": "round", "shirt": "green",
      "expression": "happy", "action": "turn left"}),
    ("A bearded man walks in from the right, lit from the left",
     {"mark": "beard", "action": "enter right", "light": "left", "gaze": None}),
    ("someone with blue eyes and blue hair looks up",
     {"eyes": "blue", "hair": "blue", "gaze": "up", "action": None}),
    ("a girl looking left glances away", {"gaze": "left", "action": "look away"}),
  ],
)  # fmt: skip
def test_free_wordings(text, wanted):
  read = parse_prompt(text)
  assert {k: read[k] for k in wanted} == wanted


def test_other_prompts_have_no_person():
  assert "action" not in parse_prompt("a red star moves left")
