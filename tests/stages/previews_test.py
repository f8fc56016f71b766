"""Previews: the files that appear, what they show, and what a failure does to training."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mg_jax.core.errors import UserError
from mg_jax.data.media.video import read_clip
from mg_jax.sampling.settings import Settings
from mg_jax.stages import previews

RED, BLUE = np.array([230, 20, 20], np.uint8), np.array([20, 20, 230], np.uint8)


class Painter:
  """An objective whose reconstruction of anything is one colour, a parameter."""

  def reconstruct(self, params, video):
    return jnp.broadcast_to(params["autoencoder"]["colour"].astype(jnp.uint8), video.shape)


def _state(**params):
  return SimpleNamespace(averaged=lambda: params)


def _batches(frames, valid=(True, True, True)):
  video = np.broadcast_to(RED, (len(valid), frames, 16, 24, 3))
  return lambda: iter([{"video": video, "valid": np.array(valid)}])


def _near(picture, colour):
  return np.abs(picture.astype(int) - colour).max(-1) < 30


@pytest.mark.parametrize("frames", [1, 4])
def test_clips_stand_above_their_reconstructions(tmp_path, frames):
  show = previews.Reconstructions(Painter(), _batches(frames), str(tmp_path), 2, fps=8.0)
  show(_state(autoencoder={"colour": jnp.asarray(BLUE)}), 7)
  names = sorted(path.name for path in (tmp_path / "previews").iterdir())
  clips = [f"step-0000007-{i:02d}.mp4" for i in range(2)]
  assert names == sorted(["step-0000007.png"] + (clips if frames > 1 else []))
  sheet = np.asarray(Image.open(tmp_path / "previews" / "step-0000007.png"))
  red, blue = _near(sheet, RED), _near(sheet, BLUE)
  assert red.sum() == blue.sum() == 2 * frames * 16 * 24
  for column in np.flatnonzero(red.any(0)):
    assert (np.flatnonzero(blue[:, column])[0] - np.flatnonzero(red[:, column])[0]) == 16
  if frames > 1:
    path = tmp_path / "previews" / clips[1]
    video = read_clip(path, start_s=0, fps=8.0, frames=frames, size=(32, 24))
    assert _near(video[:, :14], RED).all() and _near(video[:, 18:], BLUE).all()


def test_rows_that_only_fill_up_a_batch_are_not_shown(tmp_path):
  batches = _batches(4, valid=(True, False, False))
  show = previews.Reconstructions(Painter(), batches, str(tmp_path), 8, fps=8.0)
  show(_state(autoencoder={"colour": jnp.asarray(BLUE)}), 0)
  assert len(list((tmp_path / "previews").glob("*.mp4"))) == 1


class Pipeline:
  """Paints clip i of seed i with its parameter; refuses when told to."""

  def __init__(self, frames=4, refuse=()):
    self.settings = Settings(frames=frames, height=16, width=16, fps=8.0)
    self.params, self.asked, self.refuse = None, [], refuse

  def resolve(self):
    if "settings" in self.refuse:
      raise UserError("the model cannot make 4 frames")

  def __call__(self, texts, *, seeds):
    self.asked.append((list(texts), list(seeds)))
    if "call" in self.refuse:
      raise UserError("the model produced values that are not finite")
    shape = (self.settings.frames, 16, 16, 3)
    return np.stack([np.full(shape, self.params + 50 * seed, np.uint8) for seed in seeds])


def _samples(tmp_path, monkeypatch, made, count=2):
  def make(config, workdir, params, *, batch):
    assert (config, workdir, params, batch) == ({"a": 1}, str(tmp_path), "shapes", min(count, 3))
    return made

  monkeypatch.setattr(previews, "pipeline", make)
  source = [{"captions": [f"clip {i}", "other words"]} for i in range(3)]
  return previews.Samples({"a": 1}, str(tmp_path), [source], count, params="shapes")


def test_samples_are_of_held_out_captions_with_the_weights_of_the_moment(tmp_path, monkeypatch):
  made = Pipeline()
  show = _samples(tmp_path, monkeypatch, made)
  for step, params in ((500, np.uint8(60)), (1000, np.uint8(100))):
    show(_state(model=params), step)
    path = tmp_path / "previews" / f"step-{step:07d}-01.mp4"
    video = read_clip(path, start_s=0, fps=8.0, frames=4, size=(16, 16))
    assert abs(video.mean() - int(params) - 50) < 3
  assert made.asked == 2 * [(["clip 0", "clip 1"], [0, 1])]
  assert len(list((tmp_path / "previews").glob("*.png"))) == 2


def test_a_short_held_out_split_shows_what_it_has(tmp_path, monkeypatch):
  made = Pipeline(frames=1)
  _samples(tmp_path, monkeypatch, made, count=8)(_state(model=np.uint8(9)), 1)
  assert made.asked == [(["clip 0", "clip 1", "clip 2"], [0, 1, 2])]
  assert [path.suffix for path in (tmp_path / "previews").iterdir()] == [".png"]


def test_settings_the_model_cannot_do_are_told_before_training(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="cannot make 4 frames"):
    _samples(tmp_path, monkeypatch, Pipeline(refuse=("settings",)))


def test_a_failed_preview_does_not_end_training(tmp_path, monkeypatch, caplog):
  _samples(tmp_path, monkeypatch, Pipeline(refuse=("call",)))(_state(model=1), 3)
  assert "no preview at step 3: the model produced values" in caplog.text
  (tmp_path / "file").write_text(json.dumps({}))
  show = previews.Reconstructions(Painter(), _batches(1), str(tmp_path / "file"), 2, fps=8.0)
  show(_state(autoencoder={"colour": jnp.asarray(BLUE)}), 4)
  assert "no preview at step 4" in caplog.text
