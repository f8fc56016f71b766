import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media.frames import as_rgb

RNG = np.random.default_rng(0)


def test_rgb_bytes_are_left_as_they_are():
  frames = RNG.integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
  np.testing.assert_array_equal(as_rgb(frames), frames)


@pytest.mark.parametrize("trailing", [(), (1,)])
def test_grey_is_repeated(trailing):
  grey = RNG.integers(0, 256, (2, 4, 5, *trailing)).astype(np.uint8)
  rgb = as_rgb(grey)
  assert rgb.shape == (2, 4, 5, 3)
  for channel in range(3):
    np.testing.assert_array_equal(rgb[..., channel], grey.reshape(2, 4, 5))


def test_alpha_is_dropped():
  frames = RNG.integers(0, 256, (2, 4, 5, 4)).astype(np.uint8)
  np.testing.assert_array_equal(as_rgb(frames), frames[..., :3])


def test_sixteen_bits_become_eight():
  levels = np.array([0, 257, 128, 129, 32768, 65535], np.uint16).reshape(6, 1, 1, 1)
  assert as_rgb(levels)[:, 0, 0, 0].tolist() == [0, 1, 0, 1, 128, 255]


def test_floats_are_clipped_to_the_range():
  frames = np.array([-7.0, -1.0, 0.25, 1.0, 1.5]).reshape(5, 1, 1, 1)
  rgb = as_rgb(frames)
  assert rgb.dtype == np.float32 and rgb[:, 0, 0, 0].tolist() == [-1, -1, 0.25, 1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_told(bad):
  frames = np.zeros((2, 4, 5, 3), np.float32)
  frames[1, 2, 3, 0] = bad
  with pytest.raises(UserError, match="not finite; repair"):
    as_rgb(frames)


NO_VIDEO = [(0, 4, 5, 3), (2, 0, 5, 3), (2, 4, 5, 2), (4, 5), (1, 2, 4, 5, 3)]


@pytest.mark.parametrize("shape", NO_VIDEO)
def test_what_is_no_video_is_told(shape):
  with pytest.raises(UserError, match="not a video; give"):
    as_rgb(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.int32, bool])
def test_other_types_are_told(dtype):
  with pytest.raises(UserError, match="are not supported; give uint8, uint16 or floats"):
    as_rgb(np.zeros((1, 4, 5, 3), dtype))
