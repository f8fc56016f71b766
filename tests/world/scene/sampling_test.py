"""Sampling: determinism, room inside the frame, distances, balance and config checks."""

import collections
import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.scene.facts import SIZES, facts
from mg_jax.world.scene.letters import board
from mg_jax.world.scene.motion import MOTIONS
from mg_jax.world.scene.sampling import VALIDATION_START, WorldConfig, sample
from mg_jax.world.scene.shapes import SHAPES


def _scenes(config: WorldConfig, n: int, seed: int = 11):
  return [sample(seed, index, config) for index in range(n)]


def test_same_seed_and_index_give_the_same_scene_in_any_order():
  config = WorldConfig.full()
  forward = _scenes(config, 10)
  backward = [sample(11, index, config) for index in reversed(range(10))][::-1]
  assert forward == backward
  assert sample(12, 0, config) != forward[0] != forward[1]


def test_another_process_draws_the_same_pixels_with_numpy_alone():
  code = (
    "import sys; from mg_jax.world.scene.sampling import WorldConfig, sample;"
    "from mg_jax.world.scene.render import render; import mg_jax.world.oracles.validation;"
    "assert not {'jax', 'scipy', 'skimage'} & set(sys.modules);"
    "v = render(sample(5, 9, WorldConfig.full()), frames=4, height=32, width=32);"
    "print(*v.reshape(4, -1, 3).mean(1).reshape(-1).tolist())"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  from mg_jax.world.scene.render import render

  v = render(sample(5, 9, WorldConfig.full()), frames=4, height=32, width=32)
  here = v.reshape(4, -1, 3).mean(1).reshape(-1)
  np.testing.assert_allclose([float(x) for x in out.stdout.split()], here, atol=1e-6)


@pytest.mark.parametrize(
  "config",
  [WorldConfig.simple(), WorldConfig.pairs(), WorldConfig.full()],
  ids=["simple", "pairs", "full"],
)
def test_objects_stay_inside_the_frame_and_apart(config):
  u = np.linspace(0, 1, 17)
  for scene in _scenes(config, 300):
    thing = scene.objects[0]
    pose = MOTIONS[thing.motion.name](thing.motion, u)
    radius = SIZES[thing.size] * pose.scale
    for each in scene.objects:
      for middle, way in ((each.x, pose.dx), (each.y, pose.dy)):
        assert np.abs(middle + way).max() + radius.max() < 0.5
    homes = np.array([(each.x, each.y) for each in scene.objects])
    for i in range(len(homes)):
      for j in range(i):
        assert np.linalg.norm(homes[i] - homes[j]) > 2 * radius.max() + 0.03


def test_labels_are_balanced_over_motions_and_colours():
  config = WorldConfig.full()
  for name, options in (("motion", config.motions), ("colour", config.colours)):
    counts = collections.Counter(facts(s)[name] for s in _scenes(config, 600))
    assert set(counts) == set(options)
    assert min(counts.values()) > 0.5 * 600 / len(options)


def test_round_kinds_never_spin_and_many_objects_are_small():
  for scene in _scenes(WorldConfig.full(), 300):
    truth = facts(scene)
    assert truth["motion"] != "spin" or SHAPES[truth["kind"]].symmetry
    assert truth["count"] < 3 or truth["size"] == "small"
    assert truth["count"] == len(scene.objects)


def test_simple_is_one_object_seen_by_a_still_camera():
  for scene in _scenes(WorldConfig.simple(), 50):
    truth = facts(scene)
    assert (truth["count"], truth["camera"], scene.duration_s * scene.fps) == (1, "static", 16)
    assert truth["size"] != "small" and truth["background"] in ("dark", "light")


def test_boards_stay_inside_the_frame_with_letters_as_large_as_fit():
  full = WorldConfig.full()
  for index in range(300):
    config = dataclasses.replace(full, word_lengths=(1, 2, 3, 4, 5, 6))
    scene = sample(11, index, config)
    sign, size = scene.sign, np.array(board(len(scene.sign.word)))
    zoom = 1.16**0.5 if "zoom" in scene.camera else 1.0
    pan = 0.06 if "pan" in scene.camera else 0.0
    half = sign.height * size / 2
    assert abs(sign.x) + half[0] + pan < 0.5 / zoom
    assert abs(sign.y) + half[1] < 0.5 / zoom
    assert sign.height > 0.46 or half[0] > 0.9 * (0.47 / zoom - pan)
    assert not scene.objects


def test_words_of_validation_scenes_are_never_trained_on():
  world = WorldConfig.signs()
  train = collections.Counter(sample(0, i, world).sign.word for i in range(3000))
  held = {sample(0, VALIDATION_START + i, world).sign.word for i in range(500)}
  assert not held & set(train) and len(held) > 100
  assert {len(word) for word in train} == {len(word) for word in held} == {1, 2, 3}


def test_signs_join_objects_without_moving_them():
  full = WorldConfig.full()
  mixed = dataclasses.replace(full, word_lengths=(0, 0, 3))
  scenes = [(sample(1, i, mixed), sample(1, i, full)) for i in range(60)]
  signs = sum(scene.sign is not None for scene, _ in scenes)
  assert 8 < signs < 35
  assert all(scene == same for scene, same in scenes if scene.sign is None)


@pytest.mark.parametrize(
  "wrong",
  [
    {"kinds": ("blob",)},
    {"colours": ()},
    {"counts": (5,)},
    {"duration_s": (3.0, 2.0)},
    {"fps": (0.0, 8.0)},
    {"caption_style": "poem"},
    {"word_lengths": (7,)},
    {"kinds": ("circle",), "motions": ("spin",)},
  ],
  ids=lambda w: "-".join(w),
)
def test_config_errors_are_told(wrong):
  with pytest.raises(UserError, match="WorldConfig"):
    WorldConfig(**wrong)
