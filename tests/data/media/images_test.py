import numpy as np
import pytest
from PIL import Image

from mg_jax.data.media import images


def test_png_is_lossless(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
  images.write_png(tmp_path / "a.png", image[:, ::-1])
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), image[:, ::-1])


def test_float_image_is_refused(tmp_path):
  with pytest.raises(ValueError, match="uint8"):
    images.write_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.float32))
  assert not list(tmp_path.iterdir())


def test_contact_sheet_shows_first_and_last_frame_of_every_clip(tmp_path):
  red = np.zeros((5, 16, 16, 3), np.uint8)
  red[0], red[-1] = (250, 0, 0), (120, 0, 0)
  blue = np.zeros((1, 24, 16, 3), np.uint8)
  blue[:] = (0, 0, 250)
  path = tmp_path / "sheet.png"
  images.contact_sheet([red, blue], ["a \ud800 red 🐕\0", "word " * 200], path, columns=2)
  sheet = np.asarray(Image.open(path)).reshape(-1, 3)
  for colour, count in (((250, 0, 0), 256), ((120, 0, 0), 256), ((0, 0, 250), 384)):
    assert (sheet == colour).all(-1).sum() == count
  written = (sheet.min(-1) > 100).sum()  # only letters are nearly white
  assert written > 500, "the captions are not drawn"


def test_contact_sheet_needs_a_caption_per_clip(tmp_path):
  with pytest.raises(ValueError, match="captions"):
    images.contact_sheet([np.zeros((1, 4, 4, 3), np.uint8)], [], tmp_path / "a.png")
