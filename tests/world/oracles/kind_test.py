"""Kind oracle: every kind at every angle and size, blurred or not, and the angle it reports."""

import numpy as np
import pytest

from mg_jax.world.oracles.kind import match
from mg_jax.world.oracles.mask import foreground, parts
from mg_jax.world.oracles.validation import degrade
from mg_jax.world.scene.facts import Background, Motion, Scene, Thing
from mg_jax.world.scene.render import render
from mg_jax.world.scene.shapes import SHAPES

STILL = Motion()


def _match(kind, *, size="large", pixels=32, angle=0.0, motion=STILL, how="clean"):
  scene = Scene(0, 0, Background("dark"), (Thing(kind, "cyan", size, 0.03, -0.02, angle, motion),))
  video = degrade(render(scene, frames=8, height=pixels, width=pixels), how)
  alpha, _, _ = foreground(video.astype(np.float32))
  return match(alpha, *parts(alpha))


@pytest.mark.parametrize("how", ["clean", "blur"])
@pytest.mark.parametrize("size, pixels", [("large", 32), ("medium", 32), ("small", 48)])
@pytest.mark.parametrize("kind", list(SHAPES))
def test_kind_at_several_angles(kind, size, pixels, how):
  for angle in (0.0, 0.3, 0.75):
    name, margin, _ = _match(kind, size=size, pixels=pixels, angle=angle, how=how)
    assert name == kind and margin > 0


@pytest.mark.parametrize("kind", ["square", "triangle", "star", "cross"])
def test_angle_follows_the_rotation(kind):
  turn = 0.5 / SHAPES[kind].symmetry
  _, _, angles = _match(kind, motion=Motion("spin", cycles=turn), pixels=64)
  phase = np.unwrap(SHAPES[kind].symmetry * angles) / SHAPES[kind].symmetry
  expected = 2 * np.pi * turn * np.arange(8) / 8
  np.testing.assert_allclose(phase - phase[0], expected, atol=0.12)
