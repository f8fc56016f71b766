import base64
import re

import numpy as np
import pytest
from PIL import Image

from mg_jax.core.errors import UserError
from mg_jax.data.media.video import probe
from mg_jax.inference import notebook


def _clips(count, frames):
  return np.random.default_rng(0).integers(0, 256, (count, frames, 16, 24, 3), np.uint8)


def test_clips_are_shown_as_videos_that_play(tmp_path):
  page = notebook.show(_clips(2, 5), fps=5)._repr_html_()
  found = re.findall(r'<video src="data:video/mp4;base64,([^"]+)" height="256" autoplay', page)
  assert len(found) == 2 and found[0] != ""
  (tmp_path / "shown.mp4").write_bytes(base64.b64decode(found[1]))
  info = probe(tmp_path / "shown.mp4")
  assert (info.frames, info.height, info.width, info.fps) == (5, 16, 24, 5)


def test_images_are_shown_and_saved_without_loss(tmp_path):
  image = _clips(1, 1)
  page = notebook.show(image, height=64)._repr_html_()
  assert page.startswith('<img src="data:image/png;base64,') and 'height="64"' in page
  notebook.save(image, tmp_path / "image.png")
  np.testing.assert_array_equal(Image.open(tmp_path / "image.png"), image[0, 0])


def test_a_clip_is_saved_at_its_rate(tmp_path):
  notebook.save(_clips(1, 6), tmp_path / "clip.mp4", fps=12)
  assert (probe(tmp_path / "clip.mp4").frames, probe(tmp_path / "clip.mp4").fps) == (6, 12)


def test_what_is_no_clip_is_refused(tmp_path):
  for video, name, words in (
    (_clips(2, 3), "a.mp4", "there are 2 clips for .*a.mp4; save one at a time"),
    (_clips(1, 3), "a.png", "a clip is saved as .mp4"),
    (_clips(1, 3), "a.gif", "a clip is saved as .mp4"),
    (_clips(1, 3).astype(np.float32), "a.mp4", r"float32 of shape \(1, 3, 16, 24, 3\) are no"),
    (_clips(1, 3)[0, 0, 0], "a.mp4", "are no clips; give uint8"),
  ):
    with pytest.raises(UserError, match=words):
      notebook.save(video, tmp_path / name)
  assert not list(tmp_path.iterdir())
