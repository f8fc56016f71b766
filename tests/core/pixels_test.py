import numpy as np

from mg_jax.core.pixels import from_uint8, to_uint8


def test_every_pixel_comes_back_and_what_is_beyond_is_clipped():
  pixels = np.arange(256, dtype=np.uint8)
  values = from_uint8(pixels)
  assert values.dtype == np.float32 and (values.min(), values.max()) == (-1, 1)
  np.testing.assert_array_equal(to_uint8(values), pixels)
  np.testing.assert_array_equal(to_uint8(np.float32([-3, 0, 7])), [0, 128, 255])
