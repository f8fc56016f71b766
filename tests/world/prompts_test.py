"""Reader of prompts: inverts every caption, and reads free wordings."""

import pytest

from mg_jax.world.captions import TEMPLATES, caption, image_caption, short_caption
from mg_jax.world.facts import facts
from mg_jax.world.prompts import parse_prompt
from mg_jax.world.sampling import WorldConfig, sample

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


def test_inverts_short_and_image_captions():
  for index in range(200):
    scene = sample(8, index, WorldConfig.full())
    truth = facts(scene)
    background = None if truth["background"] == "dark" else truth["background"]
    told = {**truth, "size": None, "camera": None, "background": background}
    assert parse_prompt(short_caption(scene)) == told
    assert parse_prompt(image_caption(scene)) == {**told, "motion": None}


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
    ("nothing to see", dict.fromkeys((*TOLD, "size", "background", "camera"))),
  ],
)
def test_free_wordings(text, wanted):
  read = parse_prompt(text)
  assert {k: read[k] for k in wanted} == wanted
