"""Captions: canonical sentences, variety, grammar, and what every caption must mention."""

import dataclasses

import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.scene import captions, lexicon
from mg_jax.world.scene.facts import Background, Motion, Scene, Sign, Thing
from mg_jax.world.scene.sampling import WorldConfig, sample


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


def test_a_frame_is_described_without_motion_and_within_its_bytes():
  world = WorldConfig.stills()
  moves = [phrase for forms in lexicon.MOTIONS.values() for phrase in forms]
  words = {captions._forms(phrase, plural=False)[k].split()[0] for phrase in moves for k in (0, 2)}
  for index in range(300):
    scene = sample(0, index, world)
    for variant in range(2):
      text = captions.frame_caption(scene, variant)
      size = len(text.encode())
      assert size <= captions.SENTENCE if variant == 0 else captions.SENTENCE < size <= 255
      assert text.endswith(".") and text[0].isupper()
      assert not words & set(text.lower().replace(",", "").replace(".", "").split()), text
      for table, fact in (
        (lexicon.COLOURS, scene.objects[0].colour),
        (lexicon.SIZES, scene.objects[0].size),
        (lexicon.BACKGROUNDS, scene.background.name),
        (lexicon.COUNTS, len(scene.objects)),
      ):
        assert any(word in text.lower() for word in table[fact]), (fact, text)


def test_the_longest_facts_still_fit_a_sentence():
  thing = Thing("triangle", "orange", "medium", 0.3, 0.3)
  scene = Scene(0, 0, Background("checkered"), (thing,))
  assert all(len(captions.frame_caption(scene, v).encode()) <= 76 for v in range(0, 40, 2))


def test_held_out_frames_have_captions_of_their_own():
  scenes = [sample(0, (1 << 30) + i, WorldConfig.stills()) for i in range(256)]
  for variant in range(2):
    texts = {captions.frame_caption(scene, variant) for scene in scenes}
    assert len(texts) >= 250


@pytest.mark.parametrize(
  "x, y, motion, where",
  [
    (0.0, 0.0, Motion(), (0, 0)),
    (-0.3, 0.3, Motion(), (1, -1)),
    (0.0, 0.0, Motion("left", amount=0.5), (0, 0)),
    # A ball at rest on the floor of its bounce, half its height below the middle of its path.
    (0.0, 0.0, Motion("bounce", amount=0.4, cycles=2.0), (1, 0)),
  ],
)
def test_places_are_those_of_the_middle_of_the_scene(x, y, motion, where):
  assert captions.place(Thing("star", "red", "small", x, y, motion=motion)) == where
  scene = Scene(0, 0, Background(), (Thing("star", "red", "small", x, y, motion=motion),))
  for variant in range(6):
    text = captions.frame_caption(scene, variant)
    assert any(word in text.lower() for word in lexicon.PLACES[where]), text


def test_a_long_caption_places_every_object():
  things = tuple(
    Thing("cross", "blue", "small", 0.3 * x, 0.3 * y) for x, y in ((-1, -1), (1, -1), (0, 1))
  )
  text = captions.frame_caption(Scene(0, 0, Background(), things), 1).lower()
  for where in ((-1, -1), (-1, 1), (1, 0)):
    assert any(word in text for word in lexicon.PLACES[where]), text
  with pytest.raises(UserError, match="variant is -1"):
    captions.frame_caption(Scene(0, 0, Background(), things), -1)
