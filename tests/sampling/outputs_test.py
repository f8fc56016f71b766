import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from mg_jax.core.errors import UserError
from mg_jax.data.media.video import probe
from mg_jax.sampling import outputs, prompts
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.sampling.settings import Settings

SETTINGS = Settings(frames=4, height=16, width=24, fps=8.0)
PROMPTS = prompts.plan([("a", None), ("../b", None), ("🌞", None)], seed=0)[0]


class Painter(TextToVideo):
  """Fills a clip with its seed, and remembers what it was asked for."""

  def __init__(self, origin="weights 1", fail_at=None):
    self.origin, self.batch, self.asked, self.fail_at = origin, 2, [], fail_at

  def __call__(self, texts, *, seeds, **settings):
    if self.fail_at in seeds:
      raise KeyboardInterrupt
    self.asked += zip(texts, seeds, strict=True)
    shape = settings["frames"], settings["height"], settings["width"], 3
    return np.stack([np.full(shape, 40 * seed, np.uint8) for seed in seeds])


def _run(folder, pipeline, settings=SETTINGS, **kw):
  return list(outputs.generate(pipeline, PROMPTS, folder, settings, **kw))


def test_a_clip_goes_to_the_file_that_is_named(tmp_path):
  folder, named = outputs.place(tmp_path / "sub" / "clip.mp4", PROMPTS[:1], SETTINGS)
  assert outputs.clip_path(folder, named[0], SETTINGS) == tmp_path / "sub" / "clip.mp4"
  list(outputs.generate(Painter(), named, folder, SETTINGS))
  assert {p.name for p in folder.iterdir()} == {"clip.mp4", "clip.mp4.json"}
  image = dataclasses.replace(SETTINGS, frames=1)
  folder, named = outputs.place(tmp_path / "x.y.png", PROMPTS[:1], image)
  assert outputs.clip_path(folder, named[0], image) == tmp_path / "x.y.png"
  # The same command goes on: it finds its own clip.
  folder, named = outputs.place(tmp_path / "sub" / "clip.mp4", PROMPTS[:1], SETTINGS)
  assert list(outputs.generate(Painter(), named, folder, SETTINGS)) == []


@pytest.mark.parametrize("name", ["clips", "v1.2", "sub/clips", "there.mp4"])
def test_other_places_are_folders(tmp_path, name):
  (tmp_path / "there.mp4").mkdir()
  assert outputs.place(tmp_path / name, PROMPTS, SETTINGS) == (tmp_path / name, PROMPTS)


@pytest.mark.parametrize(
  "name, count, frames, words",
  [
    ("clip.mp4", 3, 4, "one file but there are 3 prompts; give a folder"),
    ("clip.png", 1, 4, "clip.png cannot be written: a video is saved as .mp4"),
    ("clip.mp4", 1, 1, "an image is saved as .png"),
    ("clip.MP4", 1, 4, "saved as .mp4"),
    ("clip.gif", 1, 4, "saved as .mp4"),
    ("notes", 3, 4, "notes is a file; give a folder"),
    ("mine.mp4", 1, 4, "mine.mp4 is there and not from this command; pass --overwrite"),
    ("data.mp4", 1, 4, "data.mp4.json would be replaced"),
  ],
)
def test_places_that_cannot_be_are_refused_untouched(tmp_path, name, count, frames, words):
  for mine in ("notes", "mine.mp4", "data.mp4.json"):
    (tmp_path / mine).write_text("{}")
  settings = dataclasses.replace(SETTINGS, frames=frames)
  with pytest.raises(UserError, match=words):
    outputs.place(tmp_path / name, PROMPTS[:count], settings)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["data.mp4.json", "mine.mp4", "notes"]


def test_overwriting_takes_a_clip_but_never_a_foreign_json(tmp_path):
  for mine in ("mine.mp4", "data.mp4.json"):
    (tmp_path / mine).write_text("{}")
  outputs.place(tmp_path / "mine.mp4", PROMPTS[:1], SETTINGS, overwrite=True)
  with pytest.raises(UserError, match="data.mp4.json would be replaced"):
    outputs.place(tmp_path / "data.mp4", PROMPTS[:1], SETTINGS, overwrite=True)


def test_clips_are_playable_and_recorded(tmp_path):
  made = _run(tmp_path, Painter())
  assert [prompt for prompt, _ in made] == PROMPTS
  assert {p.suffix for p in tmp_path.iterdir()} == {".mp4", ".json"}
  assert len(list(tmp_path.iterdir())) == 6
  info = probe(outputs.clip_path(tmp_path, PROMPTS[1], SETTINGS))
  assert (info.frames, info.height, info.width, info.fps) == (4, 16, 24, 8.0)
  record = json.loads(next(tmp_path.glob("0001-*.json")).read_text())
  assert record["prompt"] == "../b" and record["seed"] == 1
  assert record["origin"] == "weights 1" and record["settings"] == dataclasses.asdict(SETTINGS)


def test_images_are_exact(tmp_path):
  settings = dataclasses.replace(SETTINGS, frames=1)
  _run(tmp_path, Painter(), settings)
  image = np.asarray(Image.open(outputs.clip_path(tmp_path, PROMPTS[2], settings)))
  assert image.shape == (16, 24, 3) and (image == 80).all()


def test_a_run_continues_where_it_was_interrupted(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path, Painter(fail_at=2))
  second = Painter()
  assert [p for p, _ in _run(tmp_path, second)] == PROMPTS[2:]
  assert second.asked == [("🌞", 2)]
  assert _run(tmp_path, Painter()) == []


def test_unfinished_clips_are_made_again(tmp_path):
  _run(tmp_path, Painter())
  outputs.clip_path(tmp_path, PROMPTS[0], SETTINGS).unlink()
  outputs.clip_path(tmp_path, PROMPTS[1], SETTINGS).with_suffix(".mp4.json").write_text("{broken")
  assert [p for p, _ in _run(tmp_path, Painter())] == PROMPTS[:2]


def test_other_settings_or_weights_are_not_mixed_in_silence(tmp_path):
  _run(tmp_path, Painter())
  other = dataclasses.replace(SETTINGS, guidance=2.0)
  for pipeline, settings in [(Painter(), other), (Painter("weights 2"), SETTINGS)]:
    with pytest.raises(UserError, match="--overwrite"):
      _run(tmp_path, pipeline, settings)
    assert not pipeline.asked
  assert len(_run(tmp_path, Painter(), other, overwrite=True)) == 3
  assert _run(tmp_path, Painter(), other) == []


@pytest.mark.parametrize("frames", [1, 4])
def test_contact_sheet_shows_every_clip(tmp_path, frames):
  settings = dataclasses.replace(SETTINGS, frames=frames)
  _run(tmp_path, Painter(), settings)
  path = outputs.write_sheet(tmp_path, PROMPTS, settings)
  sheet = np.asarray(Image.open(path).convert("L")).astype(int)
  for level in (40, 80):
    # Rows are one clip each, in the order of the prompts; the encoder may shift a level slightly.
    assert (np.abs(sheet - level) <= 4).sum() >= frames * 16 * 24


def test_a_place_that_cannot_be_written_is_told_before_anything_is_made(tmp_path):
  (tmp_path / "file").write_text("x")
  pipeline = Painter()
  with pytest.raises(UserError, match="file cannot be written"):
    _run(tmp_path / "file" / "clips", pipeline)
  assert not pipeline.asked and len(list(tmp_path.iterdir())) == 1


def test_names_that_look_like_protocols_are_names(tmp_path):
  folder, named = outputs.place(tmp_path / "shot:1 %d.mp4", PROMPTS[:1], SETTINGS)
  list(outputs.generate(Painter(), named, folder, SETTINGS))
  assert probe(tmp_path / "shot:1 %d.mp4").frames == 4
