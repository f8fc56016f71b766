import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media.fitting import fit, parse_size, read
from mg_jax.data.media.video import write_video


def video(path, height, width, frames=3, fps=10):
  rows = np.linspace(20, 230, height)[:, None] * np.ones(width)
  clip = np.broadcast_to(rows[None, ..., None], (frames, height, width, 3))
  write_video(path, clip.astype(np.uint8), fps=fps)
  return path


def test_frames_that_fit_are_not_touched(tmp_path):
  path = video(tmp_path / "a.mp4", 32, 48)
  how = fit(path, multiple=(8, 8))
  assert (how.fps, how.scaled, how.size, how.notice) == (10, (32, 48), (32, 48), "")
  assert [frame.shape for frame in read(path, how)] == [(32, 48, 3)] * 3


def test_sides_are_cut_at_the_centre_and_that_is_said(tmp_path):
  path = video(tmp_path / "a.mp4", 38, 50)
  how = fit(path, multiple=(8, 16))
  assert how.scaled == (38, 50) and how.size == (32, 48)
  assert "cropped from 38x50 to 32x48, as sides must be multiples of 8 and 16" in how.notice
  whole = next(read(path, fit(path, multiple=(1, 1))))
  np.testing.assert_array_equal(next(read(path, how)), whole[3:35, 1:49])


@pytest.mark.parametrize("size, scaled, kept", [
  (16, (16, 32), (16, 32)), (20, (20, 40), (16, 40)), ((24, 24), (24, 24), (24, 24)),
])  # fmt: skip
def test_an_asked_size_is_scaled_to(tmp_path, size, scaled, kept):
  path = video(tmp_path / "a.mp4", 32, 64)
  how = fit(path, multiple=(8, 8), size=size)
  assert (how.scaled, how.size) == (scaled, kept) and "scaled from 32x64" in how.notice
  assert next(read(path, how)).shape == (*kept, 3)


def test_rate_and_time_are_kept_to(tmp_path):
  path = video(tmp_path / "a.mp4", 16, 16, frames=20)
  assert len(list(read(path, fit(path, multiple=(8, 8), fps=5)))) == 10
  assert len(list(read(path, fit(path, multiple=(8, 8)), seconds=0.7))) == 7


def test_what_cannot_be_fitted_is_told(tmp_path):
  path = video(tmp_path / "a.mp4", 6, 32)
  with pytest.raises(UserError, match="6x32 are smaller than the 8x8 pixels"):
    fit(path, multiple=(8, 8))
  assert fit(path, multiple=(8, 8), size=8).size == (8, 40)
  with pytest.raises(UserError, match="frame rate of 0"):
    fit(path, multiple=(1, 1), fps=0.0)
  with pytest.raises(UserError, match="seconds is invalid"):
    next(read(path, fit(path, multiple=(1, 1)), seconds=-1.0))


def test_sizes_come_from_text():
  assert parse_size([]) is None
  assert parse_size(["96"]) == 96 and parse_size(["96", "128"]) == (96, 128)
  for wrong in (["0"], ["-8"], ["8", "x"], ["8", "8", "8"], ["8.5"]):
    with pytest.raises(UserError, match="SHORTER_SIDE or HEIGHT,WIDTH"):
      parse_size(wrong)
