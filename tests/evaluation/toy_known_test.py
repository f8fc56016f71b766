"""First frames and continued clips, measured with a generator that does or does not follow them."""

import json
import types

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.evaluation.toy_known import score_known
from mg_jax.sampling.settings import Settings

DATA = DataConfig(frames=16, height=32, width=32, clips=2, held_out=3)


class Fake:
  """Latents are the frames; a clip is its first frame and what `move` makes of it."""

  batch, origin = 2, "fake"
  autoencoder = types.SimpleNamespace(factors=(8, 8, 8))
  settings = Settings(frames=16, height=32, width=32, fps=8.0)

  def __init__(self, clips, *, faithful, jump=0):
    self._clips = {clip[0].tobytes(): clip for clip in clips}
    self._faithful, self._jump = faithful, jump

  def resolve(self, **changes):
    assert not changes
    return self.settings

  first_frame = "start"

  def __call__(self, texts, *, seeds, given=()):
    if not (given and self._faithful):
      return np.zeros((len(texts), 16, 32, 32, 3), np.uint8)
    return np.stack([self._clips[values["start"].tobytes()] for values in given])

  def encode(self, video):
    return np.repeat(video, 16, axis=1)[:, :16] if video.shape[1] == 1 else video

  def decode(self, latents, settings):
    return latents[:, :16]

  def extend(self, video, frames, *, prompt, seed):
    clip = self._clips[video[0].tobytes()].astype(int)
    clip[len(video) :] += self._jump
    return clip.clip(0, 255).astype(np.uint8)


@pytest.fixture
def clips():
  from mg_jax.data.sources import toy
  from mg_jax.data.sources.recipe import toy_recipe

  source = toy.ToySource(toy_recipe(DATA), "validation")
  return [source[i].video for i in range(3)]


def test_a_model_that_follows_its_first_frame_scores_and_another_does_not(clips, tmp_path):
  good = score_known(Fake(clips, faithful=True), DATA, tmp_path / "a", count=3)
  rows = good.rates["first_frame"]
  assert rows["first_frame"]["psnr"] > 90 > 30 > rows["text"]["psnr"]
  assert rows["first_frame"]["motion"] == rows["reconstruction"]["motion"]
  bad = score_known(Fake(clips, faithful=False), DATA, tmp_path / "b", count=3).rates
  assert bad["first_frame"]["first_frame"]["psnr"] < 30
  saved = json.loads((tmp_path / "a" / "known.json").read_text())
  assert saved["count"] == 3 and saved["first_frame"] == json.loads(json.dumps(rows))
  assert {p.name for p in (tmp_path / "a").iterdir()} >= {"first_frame.png", "extension.png"}


def test_a_jump_at_the_seam_is_seen(clips, tmp_path):
  smooth, jumping = (
    score_known(Fake(clips, faithful=True, jump=jump), DATA, tmp_path, count=3).rates["extension"]
    for jump in (0, 40)
  )
  assert smooth["made"]["ratio"] == pytest.approx(smooth["true"]["ratio"])
  assert jumping["made"]["ratio"] > 3 * smooth["made"]["ratio"]
  assert jumping["true"] == smooth["true"]


def test_data_of_a_folder_are_refused(clips, tmp_path):
  data = DataConfig(source="folder", path="clips")
  with pytest.raises(UserError, match="runs on the toy world"):
    score_known(Fake(clips, faithful=True), data, tmp_path, count=1)
