"""Clips from a first frame and continued clips, from files to files, by a stand-in pipeline."""

import dataclasses
import json
import types

import numpy as np
import pytest
from PIL import Image

from mg_jax.app import clips
from mg_jax.core.errors import UserError
from mg_jax.data.conditions import ClassId, Latent
from mg_jax.data.media import video
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.sampling.settings import Settings


class Fake(TextToVideo):
  """Repeats the first frame, or the last of the clip."""

  def __init__(self):
    self.batch, self.origin, self.text = 4, "fake", types.SimpleNamespace(readers={})
    self.settings = Settings(frames=4, height=16, width=24, fps=8)

  def resolve(self, **changes):
    return dataclasses.replace(self.settings, **changes)

  def tags(self, settings):
    return {}

  first_frame = "start"
  conditions = {"start": Latent(2), "style": ClassId(9)}

  def __call__(self, prompts, *, seeds, given=(), **settings):
    self.given, frames = given, settings["frames"]
    grey = np.full((16, 24, 3), 90, np.uint8)
    return np.stack([np.repeat(v.get("start", grey)[None], frames, axis=0) for v in given])

  def extend(self, clip, added, *, prompt, seed, **settings):
    return np.concatenate([clip, np.repeat(clip[-1:], added, axis=0)])


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
  class Calls(list):
    fake = None

  calls = Calls()

  def load(workdir, *, tiling, mesh, dtype):
    calls.append((workdir, mesh, dtype))
    calls.fake = Fake()
    return calls.fake

  monkeypatch.setattr(clips, "load_text_to_video", load)
  return calls


def _generate(tmp_path, **options):
  clips.generate("run", **{"texts": ["a star"], "out": tmp_path / "out.mp4"} | options)
  record = json.loads((tmp_path / "out.mp4.json").read_text())
  info = video.probe(tmp_path / "out.mp4")
  frames = video.read_clip(
    tmp_path / "out.mp4", start_s=0, fps=8, frames=round(info.duration_s * 8), size=(16, 24)
  )
  return frames, record


def test_a_picture_of_any_size_is_fitted_and_starts_the_clip(tmp_path):
  Image.new("RGB", (300, 100), (200, 30, 30)).save(tmp_path / "first.png")
  frames, record = _generate(tmp_path, first_frame=str(tmp_path / "first.png"))
  assert frames.shape == (4, 16, 24, 3) and np.abs(frames - [200, 30, 30]).max() < 12
  assert record["first_frame"]
  # The same command is done; another picture is another clip.
  clips.generate("run", texts=["a star"], out=tmp_path / "out.mp4",
                 first_frame=str(tmp_path / "first.png"))  # fmt: skip
  Image.new("RGB", (30, 10), (0, 30, 30)).save(tmp_path / "other.png")
  with pytest.raises(UserError, match="was made by another model or with other settings"):
    _generate(tmp_path, first_frame=str(tmp_path / "other.png"))


def test_values_of_conditions_are_read_by_name(tmp_path, loaded):
  _, record = _generate(tmp_path, condition=["style=4"])
  assert loaded.fake.given == [{"style": 4}] and record["style"]
  with pytest.raises(UserError, match="--condition=look=4 is not NAME=VALUE .*there are style"):
    _generate(tmp_path, condition=["look=4"])
  with pytest.raises(UserError, match="'style' is '4.5'; give the number of a class"):
    _generate(tmp_path, condition=["style=4.5"])
  with pytest.raises(UserError, match="class 9; classes are 0..8"):
    _generate(tmp_path, condition=["style=9"])
  with pytest.raises(UserError, match="--condition is not for --extend"):
    clips.generate("run", texts=["a"], video="x.mp4", extend=[1.0], condition=["style=4"])


def test_a_clip_of_any_rate_is_continued_at_that_of_the_model(tmp_path):
  grey = np.full((12, 32, 48, 3), 90, np.uint8)
  video.write_video(tmp_path / "in.mp4", grey, fps=12)
  frames, record = _generate(tmp_path, video=str(tmp_path / "in.mp4"), extend=[0.5])
  assert len(frames) == 8 + 4 and record["extend"] == 4 and record["continues"]


@pytest.mark.parametrize("options,message", [
  ({"video": "in.mp4"}, "--video and --extend go together"),
  ({"extend": [2.0]}, "--video and --extend go together"),
  ({"first_frame": "a.png", "image": True}, "leave out --video, --extend and --image"),
  ({"first_frame": "missing.png"}, "missing.png"),
  ({"mesh": ["1", "x", "1", "1"]}, "not of whole numbers"),
])
def test_what_does_not_go_together(tmp_path, options, message):
  with pytest.raises(UserError, match=message):
    _generate(tmp_path, **options)


@pytest.mark.parametrize("extend", [[-1.0], [0.0], [1.0, 2.0], [float("inf")]])
def test_a_clip_is_continued_by_one_positive_time(tmp_path, extend):
  video.write_video(tmp_path / "in.mp4", np.zeros((8, 16, 24, 3), np.uint8), fps=8)
  with pytest.raises(UserError, match="give one number of seconds above 0"):
    _generate(tmp_path, video=str(tmp_path / "in.mp4"), extend=extend)


def test_a_mesh_and_a_type_reach_the_loader(tmp_path, loaded):
  Image.new("RGB", (24, 16)).save(tmp_path / "first.png")
  _generate(tmp_path, first_frame=str(tmp_path / "first.png"), mesh=["1", "8", "1", "1"],
            dtype="bfloat16")  # fmt: skip
  [(_, mesh, dtype)] = loaded
  assert dict(mesh.shape) == {"data": 1, "fsdp": 8, "context": 1, "tensor": 1}
  assert dtype == "bfloat16"
