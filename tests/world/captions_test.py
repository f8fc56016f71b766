"""Captions: canonical sentences, variety, grammar, and what every caption must mention."""

import dataclasses

import pytest

from mg_jax.core.errors import UserError
from mg_jax.world import captions, lexicon
from mg_jax.world.facts import Background, Motion, Scene, Sign, Thing
from mg_jax.world.sampling import WorldConfig, sample


def _scene(kind="star", colour="red", count=1, motion="left", background="dark", camera="static"):
  things = tuple(
    Thing(kind, colour, "small", 0.3 * i, 0.0, motion=Motion(motion)) for i in range(count)
  )
  return Scene(0, 0, Background(background), things, camera=camera)


@pytest.mark.parametrize(
  "facts, sentence",
  [
    ({}, "a red star moves left"),
    (
      {"kind": "square", "colour": "orange", "motion": "spin", "background": "light"},
      "an orange square spins on a light background",
    ),
    (
      {"kind": "cross", "colour": "blue", "motion": "still", "count": 2},
      "two blue crosses stay still",
    ),
    ({"motion": "shrink", "count": 4}, "four red stars shrink"),
  ],
)
def test_short_caption(facts, sentence):
  assert captions.short_caption(_scene(**facts)) == sentence


def test_image_caption_leaves_the_motion_out():
  assert captions.image_caption(_scene(count=3)) == "three red stars"


def test_several_groups_are_all_told():
  scene = _scene()
  ring = dataclasses.replace(scene.objects[0], kind="ring", colour="blue", motion=Motion("still"))
  scene = dataclasses.replace(scene, objects=(*scene.objects, ring))
  short = captions.short_caption(scene)
  assert short == "a red star moves left and a blue ring stays still"
  assert any(word in captions.caption(scene, 3) for word in ("ring", "hoop"))


def test_signs_say_their_word_in_quotation_marks():
  scene = Scene(0, 0, Background("dark"), (), sign=Sign("CAT", "orange", 0.3))
  assert captions.short_caption(scene) == 'a sign says "CAT" on a dark background'
  assert captions.image_caption(scene) == captions.short_caption(scene)
  texts = [captions.caption(scene, v) for v in range(64)]
  assert len(set(texts)) > 45
  assert all(text.count('"CAT"') == 1 and text.count('"') == 2 for text in texts)
  assert sum("orange" in text for text in texts) > 20
  assert not any("a orange" in text.lower() or "an sign" in text for text in texts)
  assert all(text.endswith(".") and "  " not in text and " ," not in text for text in texts)


def test_variants_differ_and_are_deterministic():
  scene = _scene()
  texts = [captions.caption(scene, v) for v in range(72)]
  assert len(captions.TEMPLATES) >= 20
  assert len(set(texts)) > 65
  assert texts == [captions.caption(scene, v) for v in range(72)]


def test_captions_are_sentences():
  for index in range(100):
    text = captions.caption(sample(4, index, WorldConfig.full()), index)
    assert text[0].isupper() or text[0].isdigit()
    assert text.endswith(".") and "  " not in text and " ," not in text and "{" not in text
    assert " a orange" not in text.lower() and not text.lower().startswith("a orange")


def test_moving_camera_is_always_told():
  for variant in range(24):
    assert "pan" in captions.caption(_scene(camera="pan left"), variant)


@pytest.mark.parametrize(
  "verb, third, ing",
  [("move", "moves", "moving"), ("go", "goes", "going"), ("spin", "spins", "spinning")],
)
def test_verb_forms(verb, third, ing):
  assert (lexicon.third_person(verb), lexicon.gerund(verb)) == (third, ing)


def test_describe_follows_the_style():
  scene = _scene()
  assert captions.describe(scene, style="short") == captions.short_caption(scene)
  assert captions.describe(scene, style="natural", variant=5) == captions.caption(scene, 5)
  with pytest.raises(UserError, match="poem"):
    captions.describe(scene, style="poem")
  with pytest.raises(UserError, match="variant"):
    captions.caption(scene, -1)
