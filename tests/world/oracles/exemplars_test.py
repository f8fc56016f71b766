"""Examples of looks: which there are, what is measured of pictures, models that are steady."""

import numpy as np

from mg_jax.world.oracles import exemplars
from mg_jax.world.scene.facts import BACKGROUNDS, Background, Scene
from mg_jax.world.scene.grounds import GROUNDS
from mg_jax.world.scene.render import render
from mg_jax.world.scene.styles import STYLES


def test_there_is_every_look_that_is_sampled():
  known = exemplars.looks()
  assert len(known) == len(set(known))
  assert {look[0] for look in known} == set(STYLES)
  assert {look[1] for look in known} == {*BACKGROUNDS, *GROUNDS}
  assert ("natural", "meadow", "rain", "night") in known
  assert ("natural", "brick", "rain", "day") not in known
  assert ("sepia", "meadow", "fog", "day") in known
  assert not any(look[0] == "neon" and look[2] != "clear" for look in known)


def test_descriptions_are_the_same_at_any_size():
  scene = Scene(0, 0, Background("forest", seed=8), ())
  small, large, wide = (
    exemplars.describe(render(scene, frames=2, height=h, width=w))
    for h, w in ((64, 64), (160, 160), (64, 96))
  )
  for part in range(3):
    np.testing.assert_allclose(small[part], wide[part], atol=1e-4)
  assert np.abs(small[0] - large[0]).mean() < 4 and np.abs(small[1] - large[1]).mean() < 0.25
  assert small[0].shape == (3, 256) and small[2].shape[1] == 16


def test_what_moves_is_left_out():
  still = np.full((5, 64, 64, 3), 90, np.uint8)
  moving = still.copy()
  for t in range(5):
    moving[t, 12 * t : 12 * t + 10, 12 * t : 12 * t + 10] = 250
  for one, other in zip(exemplars.describe(still), exemplars.describe(moving), strict=True):
    assert np.abs(one - other).max() < 1


def test_block_edges_are_counted_by_themselves():
  column = np.repeat(np.arange(-11, 11) % 2 * 80 + 60, 3)[1:65]
  frame = np.broadcast_to(column[None, :, None], (64, 64, 3)).astype(np.float32)
  texture = exemplars.of_pictures(frame[None])[1][0]
  # All steps in x are between blocks.
  np.testing.assert_allclose(texture[5], texture[1], atol=1e-5)
  shifted = exemplars.of_pictures(np.roll(frame, 1, axis=1)[None])[1][0]
  assert shifted[5].mean() < 0.3 * texture[5].mean()
