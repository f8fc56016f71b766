"""Sampling of sound: hits at random moments on a visible edge, and shares of music and ambience."""

import collections
import dataclasses
import hashlib

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.scene.render import render
from mg_jax.world.scene.sampling import VALIDATION_START, WorldConfig, sample
from mg_jax.world.sound.facts import AMBIENCES, impacts, mood_of
from mg_jax.world.sound.sampling import GAPS_S, SoundConfig, reach

SOUNDS = WorldConfig.sounds()


def test_existing_worlds_are_what_they_were():
  """Digests from before there was sound."""
  digest = hashlib.sha256()
  for world in (WorldConfig.simple(), WorldConfig.full(), WorldConfig.signs()):
    for index in (0, 1, VALIDATION_START):
      scene = sample(3, index, world)
      assert scene.sound is None
      digest.update(render(scene, frames=2, height=24, width=24).tobytes())
  assert digest.hexdigest()[:12] == "6d1e7d63d2c8"


def test_sound_changes_nothing_that_is_drawn_but_hits():
  silent = dataclasses.replace(SOUNDS, sound=None)
  for index in range(60):
    a, b = sample(5, index, SOUNDS), sample(5, index, silent)
    if a.objects[0].motion.name not in ("bounce", "knock"):
      assert dataclasses.replace(a, sound=None) == b
    assert a.background == b.background and a.objects[0].colour == b.objects[0].colour


def test_hits_come_at_random_moments_and_far_enough_apart():
  config = dataclasses.replace(SOUNDS, motions=("bounce", "knock"))
  firsts = []
  for index in range(200):
    times = [hit.time_s for hit in impacts(sample(0, index, config))]
    assert 1 <= len(times) <= 6 and times[0] > 0.1 and times[-1] < 1.86
    assert np.all(np.diff(times) >= GAPS_S[0] - 1e-9)
    firsts.append(times[0])
  assert np.histogram(firsts, bins=4, range=(0.12, 0.7))[0].min() > 25


@pytest.mark.parametrize("world", ["sounds", "orchestra"])
def test_hits_touch_the_edge_of_the_frame_and_nothing_leaves_it(world):
  config = getattr(WorldConfig, world)()
  config = dataclasses.replace(config, motions=("bounce", "knock"), duration_s=(2.0, 2.0))
  for index in range(12):
    scene = sample(1, index, config)
    for hit in impacts(scene)[:2]:
      frame = render(scene, frames=1, height=128, width=128, start_s=hit.time_s)[0].astype(int)
      empty = render(dataclasses.replace(scene, objects=()), frames=1, height=128, width=128)[0]
      away = np.abs(frame - empty).sum(-1) > 60
      edges = {"floor": [away[-2:]], "wall": [away[:, :2], away[:, -2:]]}[hit.kind]
      assert any(edge.any() for edge in edges), (index, hit)
      assert not (away[0].any() or (hit.kind == "wall" and away[-1].any()))


def test_reach_is_the_extent_of_the_outline():
  square = sample(0, 0, dataclasses.replace(SOUNDS, kinds=("square",))).objects[0]
  square = dataclasses.replace(square, angle=0.0, size="large")
  assert reach(square, 0, 1) == pytest.approx(0.21 * 0.5**0.5, abs=0.007)
  turned = dataclasses.replace(square, angle=np.pi / 4)
  assert reach(turned, 1, 0) == pytest.approx(0.21, abs=0.01)


def test_half_of_the_scenes_have_music_of_their_background():
  moods = collections.Counter()
  for index in range(400):
    scene = sample(2, index, SOUNDS)
    music = scene.sound.music
    moods[music.mood if music else None] += 1
    assert music is None or music.mood == mood_of(scene.background.name)
    assert scene.sound.ambience == "" and scene.sound.quality == 8.0
  assert 160 < moods[None] < 240 and set(moods) == {None, "sad", "happy"}


def test_music_does_not_depend_on_what_is_seen():
  music = collections.defaultdict(list)
  for index in range(500):
    scene = sample(4, index, SOUNDS)
    music[scene.objects[0].motion.name].append(scene.sound.music is not None)
  assert all(0.25 < np.mean(drawn) < 0.75 for drawn in music.values())


def test_the_orchestra_has_every_ambience_and_quality():
  scenes = [sample(0, index, WorldConfig.orchestra()) for index in range(200)]
  ambiences = collections.Counter(scene.sound.ambience for scene in scenes)
  assert set(ambiences) == {"", *AMBIENCES} and min(ambiences.values()) > 30
  qualities = [scene.sound.quality for scene in scenes]
  assert 4 <= min(qualities) < 5 and 9 < max(qualities) <= 10
  assert {scene.objects[0].motion.name for scene in scenes} > {"knock", "orbit", "left"}


def test_short_scenes_still_have_a_hit():
  config = dataclasses.replace(SOUNDS, motions=("bounce",), duration_s=(0.4, 0.4))
  assert all(len(impacts(sample(0, index, config))) == 1 for index in range(20))


def test_signs_may_have_sound():
  config = dataclasses.replace(WorldConfig.signs(), sound=SoundConfig(music=1.0))
  scene = sample(0, 0, config)
  assert scene.sign.word and scene.sound.music.mood == "sad" and impacts(scene) == ()


@pytest.mark.parametrize(
  "wrong, match",
  [
    ({"ambiences": ("thunder",)}, "thunder"),
    ({"ambiences": ()}, "empty"),
    ({"music": 1.5}, "fraction from 0 to 1"),
    ({"quality": (0.0, 5.0)}, "1 to 10"),
  ],
)
def test_impossible_configs_are_refused(wrong, match):
  with pytest.raises(UserError, match=match):
    SoundConfig(**wrong)
