"""Motion oracle on tracks made by hand: each law, noise, gaps and tracks that fit no law."""

import numpy as np
import pytest

from mg_jax.world.oracles.motion import classify
from mg_jax.world.scene.facts import PAN_DISTANCE, ZOOM_RATIO

T = 16
U = np.arange(T) / T
ONES = np.ones(T)
FIXED = np.ones(T, complex)


def _path(x=0.0, y=0.0):
  return np.stack(np.broadcast_arrays(x + 0 * U, y + 0 * U), axis=1)


PATHS = {
  "left": _path(x=-0.5 * U),
  "right": _path(x=0.5 * U),
  "up": _path(y=-0.5 * U),
  "down": _path(y=0.5 * U),
  "bounce": _path(y=-0.3 * np.abs(np.sin(np.pi * 1.6 * U))),
  "orbit": _path(x=0.15 * np.cos(6 * U), y=0.15 * np.sin(6 * U)),
  "still": _path(),
}


@pytest.mark.parametrize("name", list(PATHS))
def test_paths_are_named_also_with_noise_and_a_panning_camera(name):
  noise = np.random.default_rng(0).normal(scale=0.01, size=(T, 2))
  pan = np.stack([PAN_DISTANCE * (U - 0.5), 0 * U], axis=1)
  for path in (PATHS[name], PATHS[name] + noise, PATHS[name] + pan, PATHS[name] - pan):
    assert classify(path, ONES, FIXED)[0] == name


@pytest.mark.parametrize("name, ratio", [("grow", 2.0), ("shrink", 0.5), ("still", ZOOM_RATIO)])
def test_sizes_are_named_by_their_ratio(name, ratio):
  assert classify(_path(), ratio ** (2 * U), FIXED)[0] == name


def test_spin_is_a_phase_that_goes_round():
  assert classify(_path(), ONES, np.exp(2j * np.pi * 1.5 * U))[0] == "spin"
  assert classify(_path(), ONES, np.exp(0.3j * np.sin(9 * U)))[0] == "still"
  assert classify(_path(), ONES, np.zeros(T, complex))[0] == "still"  # round kinds


def test_movement_outweighs_size_and_turning():
  assert classify(PATHS["left"], 4**U, np.exp(9j * U))[0] == "left"


def test_to_and_fro_sideways_is_a_knock():
  for hits in (np.sin(9 * U), np.abs(np.sin(9 * U)), -np.abs(np.sin(7 * U))):
    assert classify(_path(x=0.35 * hits), ONES, FIXED)[0] == "knock"


def test_frames_without_an_object_are_skipped():
  path = PATHS["right"].copy()
  path[[0, 5, 6]] = np.nan
  assert classify(path, ONES, FIXED)[0] == "right"
  assert classify(np.full((T, 2), np.nan), ONES, FIXED)[0] is None
  assert classify(np.zeros((1, 2)), ONES[:1], FIXED[:1])[0] == "still"
