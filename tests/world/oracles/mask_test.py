"""Mask oracle: coverage, colour names, connected parts, empty clips."""

import numpy as np
import pytest

from mg_jax.world.oracles.mask import foreground, name_colour, parts
from mg_jax.world.scene.facts import BACKGROUNDS, PALETTE, Background, Scene, Thing
from mg_jax.world.scene.render import render


def _video(colour="red", background="dark", homes=((0.0, 0.0),), size=48):
  things = tuple(Thing("circle", colour, "medium", x, y) for x, y in homes)
  scene = Scene(0, 0, Background(background, angle=0.6), things)
  return render(scene, frames=3, height=size, width=size).astype(np.float32)


@pytest.mark.parametrize("background", list(BACKGROUNDS))
@pytest.mark.parametrize("colour", list(PALETTE))
def test_colour_and_coverage_on_every_background(colour, background):
  alpha, seen, ground = foreground(_video(colour, background))
  name, margin = name_colour(seen, ground)
  assert name == colour and margin > 0.003
  area = (alpha * (alpha > 0.12)).sum((1, 2)) / 48**2
  np.testing.assert_allclose(area, np.pi * 0.16**2, rtol=0.06)


def test_empty_clips_have_no_foreground():
  for background in BACKGROUNDS:
    alpha, _, _ = foreground(_video(background=background, homes=()))
    assert not alpha.any()
    labels, table = parts(alpha)
    assert not labels.any() and table.shape == (0, 4)


def test_parts_are_found_where_they_are():
  homes = ((-0.25, -0.2), (0.25, 0.1))
  alpha, _, _ = foreground(_video(homes=homes))
  labels, table = parts(alpha)
  assert sorted(table[:, 0].tolist()) == [0, 0, 1, 1, 2, 2]
  assert set(np.unique(labels)) == set(range(7))
  first = table[table[:, 0] == 1]
  first = first[np.argsort(first[:, 2])]
  np.testing.assert_allclose((first[:, 2:] + 0.5) / 48 - 0.5, homes, atol=2e-3)


def test_parts_join_along_snakes_and_diagonals_but_not_across_frames():
  alpha = np.zeros((2, 12, 12))
  alpha[0, 1, 1:10] = alpha[0, 1:10, 9] = alpha[0, 9, 3:10] = alpha[0, 5:10, 3] = 1  # one spiral
  alpha[1, 0, 0:4] = 1
  for i in range(4):
    alpha[1, 4 + i, 4 + i] = 1  # diagonal, apart from the bar above
  _, table = parts(alpha)
  assert np.bincount(table[:, 0].astype(int)).tolist() == [1, 2]
  assert table[0, 1] == alpha[0].sum()


def test_crumbs_are_dropped():
  alpha = np.zeros((1, 16, 16))
  alpha[0, 2:8, 2:8] = 1
  alpha[0, 12, 12:14] = 1
  labels, table = parts(alpha)
  assert len(table) == 1 and labels[0, 12, 12] == 0


def test_drift_of_the_background_is_not_an_object():
  video = _video()
  video[1] += 12
  video[2] -= 8
  alpha, seen, ground = foreground(video)
  assert (alpha[:, :8] < 0.05).all()
  assert name_colour(seen, ground)[0] == "red"
