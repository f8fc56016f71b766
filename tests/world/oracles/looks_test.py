"""Oracle of looks: accuracy with shapes and people in front, degraded clips, errors."""

import dataclasses

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.oracles import looks
from mg_jax.world.oracles.validation import degrade
from mg_jax.world.scene.facts import facts
from mg_jax.world.scene.render import finish, render
from mg_jax.world.scene.sampling import WorldConfig, sample

WORLD = WorldConfig.looks()


def _with_bust(scene, rng) -> np.ndarray:
  """A head and shoulders that sway in front of the ground of a scene, in its style."""
  plain = dataclasses.replace(scene, objects=(), style="natural")
  v = render(plain, frames=8, height=64, width=64).astype(np.float32)
  y, x = (np.indices((64, 64)) + 0.5) / 64 - 0.5
  for t in range(8):
    middle = 0.03 * np.sin(t)
    for cx, cy, rx, ry, colour in (
      (middle, -0.06, 0.25, 0.33, rng.uniform(10, 200, 3)),
      (0.0, 0.5, 0.4, 0.25, rng.uniform(20, 250, 3)),
      (middle, 0.0, 0.2, 0.27, np.array((230, 180, 150)) * rng.uniform(0.4, 1)),
    ):
      v[t][np.hypot((x - cx) / rx, (y - cy) / ry) < 1] = colour
  return finish(v, scene.style)


def _rates(clips, scenes):
  found = [looks.compare(looks.measure(clip), looks.truth(s)) for clip, s in
           zip(clips, scenes, strict=True)]  # fmt: skip
  return looks.average(found)


def test_looks_are_measured_behind_shapes():
  scenes = [sample(2, index, WORLD) for index in range(60)]
  clips = [render(scene, frames=16, height=64, width=64) for scene in scenes]
  assert min(_rates(clips, scenes).values()) >= 0.96
  for how in ("blur", "compression"):
    rates = _rates([degrade(clip, how) for clip in clips], scenes)
    assert rates["all"] >= 0.85 and rates["time"] >= 0.9, (how, rates)


def test_people_in_front_do_not_confuse():
  scenes = [sample(6, index, WORLD) for index in range(40)]
  clips = [_with_bust(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)]
  assert min(_rates(clips, scenes).values()) >= 0.9


def test_an_edit_is_measured_and_nothing_else():
  scene = next(s for s in (sample(3, i, WORLD) for i in range(99)) if "weather" in facts(s)
               and s.style == "natural")  # fmt: skip
  for edit in ({"weather": "snow"}, {"time": "night"}, {"style": "watercolour"}):
    edited = dataclasses.replace(scene, **edit)
    found = looks.measure(render(edited, frames=8, height=64, width=64))
    assert looks.compare(found, looks.truth(edited)) == dict.fromkeys(looks.LOOKS, True)
    assert min(found.confidence.values()) > 0


def test_hidden_facts_are_not_asked():
  scene = dataclasses.replace(sample(0, 0, WORLD), style="neon")
  assert looks.truth(scene) == {"style": "neon"}
  found = looks.measure(render(scene, frames=1, height=64, width=64))
  assert looks.compare(found, looks.truth(scene)) == {"style": True}
  assert looks.average([{"style": True}, {"style": False}]) == {"style": 0.5, "all": 0.5}


def test_other_arrays_are_told():
  with pytest.raises(UserError, match="uint8 video"):
    looks.measure(np.zeros((2, 8, 8, 3), np.float32))
