"""Reader of prompts: inverts every caption, and reads free wordings."""

import dataclasses

import pytest

from mg_jax.world.scene.captions import SIGN_TEMPLATES, TEMPLATES, caption, short_caption
from mg_jax.world.scene.facts import facts
from mg_jax.world.scene.prompts import parse_prompt
from mg_jax.world.scene.sampling import WorldConfig, sample

TOLD = ("colour", "kind", "count", "motion")


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
def test_inverts_every_caption_variant(template):
  for index in range(40):
    scene = sample(template, index, WorldConfig.full())
    text = caption(scene, template + len(TEMPLATES) * index)
    truth, read = facts(scene), parse_prompt(text)
    assert {k: read[k] for k in TOLD} == {k: truth[k] for k in TOLD}, text
    wrong = {k: v for k, v in read.items() if v is not None and v != truth[k]}
    assert not wrong, text


def test_inverts_short_captions():
  for index in range(200):
    scene = sample(8, index, WorldConfig.full())
    truth = facts(scene)
    background = None if truth["background"] == "dark" else truth["background"]
    told = {**truth, "word": None, "size": None, "camera": None, "background": background}
    told |= dict.fromkeys(("weather", "time", "style"))
    assert parse_prompt(short_caption(scene)) == told


@pytest.mark.parametrize("template", range(len(SIGN_TEMPLATES)))
def test_inverts_every_caption_of_a_sign(template):
  full = WorldConfig.full()
  world = dataclasses.replace(full, word_lengths=(1, 2, 3, 4, 5, 6))
  for index in range(40):
    scene = sample(template, index, world)
    truth = facts(scene)
    for text in (short_caption(scene), caption(scene, template + len(SIGN_TEMPLATES) * index)):
      assert f'"{truth["word"]}"' in text
      read = parse_prompt(text)
      assert read["word"] == truth["word"], text
      assert not {k: v for k, v in read.items() if v is not None and v != truth.get(k)}, text


@pytest.mark.parametrize(
  "text, wanted",
  [
    ("A RED STAR, rising", {"colour": "red", "kind": "star", "count": 1, "motion": "up"}),
    ("blue rings", {"colour": "blue", "kind": "ring", "count": None, "motion": None}),
    ("a video of three hoops moving in a circle", {"kind": "ring", "count": 3, "motion": "orbit"}),
    ("a cross jumps from left to right", {"kind": "cross", "motion": "right"}),
    (
      "a disc drops while the camera pans to the left",
      {"kind": "circle", "motion": "down", "camera": "pan left"},
    ),
    ("a cyan square on a white background", {"colour": "cyan", "count": 1, "kind": "square"}),
    ("a square goes left to right", {"motion": "right"}),
    ("a square goes from the right to the left", {"motion": "left"}),
    ('a board that says "red" on a dark wall', {"word": "RED", "colour": None, "kind": None}),
    ("a red sign: \u201cSTAR\u201d", {"word": "STAR", "colour": "red", "kind": None}),
    ('a star and the words "two moons", then "GO"', {"word": "GO", "count": 1, "kind": "star"}),
    ('a sign says "TOOLONG"', {"word": None}),
    ('a 5" star moves up', {"word": None, "kind": "star", "motion": "up"}),
    ("nothing to see", dict.fromkeys((*TOLD, "size", "background", "camera"))),
  ],
)
def test_free_wordings(text, wanted):
  read = parse_prompt(text)
  assert {k: read[k] for k in wanted} == wanted
