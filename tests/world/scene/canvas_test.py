"""Canvas: coverage of shapes, crops that paint in place, cells and their random numbers."""

import numpy as np
import pytest

from mg_jax.world.scene.canvas import Canvas, repeat, scatter


def _canvas(height=64, width=64, shifts=(0.0,)):
  canvas = Canvas(
    height=height, width=width, zoom_T=np.ones(len(shifts)), shift_T=np.array(shifts)
  )
  canvas.v_THWC[:] = 0
  return canvas


@pytest.mark.parametrize(
  "shape, area",
  [
    (lambda c: c.disc(0.1, -0.1, 0.2), np.pi * 0.04),
    (lambda c: c.box(0, 0.1, 0.3, 0.1), 0.12),
    (lambda c: c.peak(0, -0.2, 0.3, 0.4), 0.12),
    (lambda c: c.below(0.25) + 0 * c.x, 0.25),
  ],
  ids=["disc", "box", "peak", "below"],
)
def test_shapes_cover_their_area(shape, area):
  canvas = _canvas(128, 128)
  assert canvas.cover(shape(canvas)).mean() == pytest.approx(area, rel=0.03)


def test_a_crop_paints_in_place_what_the_whole_canvas_would():
  whole, part = (_canvas(48, 80, shifts=(0.0, 0.05)) for _ in range(2))
  whole.paint(whole.disc(0.1, -0.1, 0.2), (200, 100, 50))
  near = part.crop(-0.1, 0.3, -0.3, 0.1)
  near.paint(near.disc(0.1, -0.1, 0.2), (200, 100, 50))
  np.testing.assert_allclose(part.v_THWC, whole.v_THWC, atol=1e-4)
  assert near.v_THWC.size < whole.v_THWC.size
  empty = part.crop(3, 4, 0, 1)
  empty.paint(empty.disc(3, 0, 1), (1, 1, 1))
  np.testing.assert_allclose(part.v_THWC, whole.v_THWC, atol=1e-4)


def test_cells_repeat_and_have_random_numbers_of_their_own():
  x = np.linspace(-1, 1, 201, dtype=np.float32)
  assert np.abs(repeat(x, 0.2)).max() <= 0.1001
  column = np.arange(-500, 500)
  value = scatter(column, seed=3)
  assert 0 <= value.min() and value.max() < 1 and abs(value.mean() - 0.5) < 0.05
  np.testing.assert_array_equal(value, scatter(column.astype(float), seed=3))
  assert abs(np.corrcoef(value, scatter(column, seed=4))[0, 1]) < 0.15
  assert abs(np.corrcoef(value, scatter(column, column, seed=3))[0, 1]) < 0.15
