"""Facts: the JSON round trip, grouping and the separation of names in the registries."""

import dataclasses
import json

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.scene import facts as F
from mg_jax.world.scene import lexicon
from mg_jax.world.scene.motion import MOTIONS
from mg_jax.world.scene.sampling import WorldConfig, sample
from mg_jax.world.scene.shapes import SHAPES


def _scene(*things: F.Thing) -> F.Scene:
  return F.Scene(0, 0, F.Background("dark"), things)


def test_json_round_trip_restores_every_field():
  for index in range(30):
    scene = sample(3, index, WorldConfig.full())
    assert F.Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_round_trip_keeps_events_and_attributes():
  thing = F.Thing("circle", "red", "small", 0.1, 0.2, attributes={"identity": 7})
  scene = dataclasses.replace(
    _scene(thing),
    events=(F.Event("impact", 0.5, {"material": "wood"}),),
    attributes={"mood": "calm"},
  )
  again = F.Scene.from_dict(json.loads(json.dumps(scene.to_dict())))
  assert again == scene
  assert again.events[0].attributes["material"] == "wood"


def test_signs_are_facts_of_their_own():
  scene = dataclasses.replace(_scene(), sign=F.Sign("CAT", "red", 0.3, 0.1, -0.1))
  assert F.Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
  assert F.groups(scene) == []
  wanted = {"word": "CAT", "colour": "red", "background": "dark", "camera": "static"}
  assert F.facts(scene) == wanted
  with pytest.raises(UserError, match="a sign and objects"):
    dataclasses.replace(scene, objects=(F.Thing("star", "red", "small", 0, 0),))
  old = _scene().to_dict()
  del old["sign"]
  assert F.Scene.from_dict(old) == _scene()


@pytest.mark.parametrize("damage", ["missing", "unknown"])
def test_from_dict_names_a_wrong_field(damage):
  data = sample(0, 0, WorldConfig.simple()).to_dict()
  if damage == "missing":
    del data["objects"]
  else:
    data["tide"] = "high"
  with pytest.raises(UserError, match="objects" if damage == "missing" else "tide"):
    F.Scene.from_dict(data)


def test_groups_count_like_objects_and_facts_describe_the_first():
  star = F.Thing("star", "red", "small", 0, 0, motion=F.Motion("left", 0.5))
  ring = F.Thing("ring", "blue", "large", 0, 0)
  scene = _scene(star, ring, dataclasses.replace(star, x=0.3))
  assert [(g["kind"], g["count"], g["motion"]) for g in F.groups(scene)] == [
    ("star", 2, "left"),
    ("ring", 1, "still"),
  ]
  assert F.facts(scene) == {
    "colour": "red",
    "kind": "star",
    "size": "small",
    "motion": "left",
    "count": 2,
    "background": "dark",
    "camera": "static",
  }


def test_facts_of_an_empty_scene_is_a_user_error():
  with pytest.raises(UserError, match="no objects"):
    F.facts(_scene())


def test_every_fact_has_words():
  assert set(lexicon.KINDS) == set(SHAPES)
  assert set(lexicon.COLOURS) == set(F.PALETTE)
  assert set(lexicon.SIZES) == set(F.SIZES)
  assert set(lexicon.MOTIONS) == set(MOTIONS)
  assert set(lexicon.BACKGROUNDS) == set(F.BACKGROUNDS)
  assert set(lexicon.CAMERAS) == set(F.CAMERAS)


def test_palette_parts_from_backgrounds_by_direction():
  # The colour oracle names directions from the background; 6 degrees is far above its noise.
  palette = np.array(list(F.PALETTE.values()), float)
  for tones in F.BACKGROUNDS.values():
    for tone in np.array(tones, float):
      away = palette - tone
      assert np.linalg.norm(away, axis=1).min() > 100
      away /= np.linalg.norm(away, axis=1, keepdims=True)
      cosine = away @ away.T - 2 * np.eye(len(away))
      assert cosine.max() < np.cos(np.radians(6))


def test_sound_is_kept_by_the_round_trip():
  for index in range(30):
    scene = sample(3, index, WorldConfig.orchestra())
    assert scene.sound is not None
    assert F.Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
  old = _scene().to_dict()
  del old["sound"]
  assert F.Scene.from_dict(old) == _scene()
