import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data import pipeline, transforms
from mg_jax.data.sources import toy, toy_records
from mg_jax.data.sources.toy import ToyRecipe, ToySource
from mg_jax.data.text.readers import Reader, TextConfig
from mg_jax.data.text.tokenizers import open_tokenizer
from mg_jax.world.scene import render
from mg_jax.world.scene.sampling import WorldConfig
from mg_jax.world.sound import synthesis as sound

SMALL = ToyRecipe(frames=4, height=16, width=24, train=6, validation=3, variants=2)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  folder = tmp_path_factory.mktemp("toy")
  toy_records.build(SMALL, folder, processes=1)
  return folder


def test_clips_are_pure_in_their_index():
  clip = ToySource(SMALL)[3]
  assert clip.video.shape == (4, 16, 24, 3) and (clip.frames, clip.fps) == (4, 8)
  again = pickle.loads(pickle.dumps(ToySource(SMALL)))[3]
  np.testing.assert_array_equal(clip.video, again.video)
  assert clip.caption and len(clip.variants) == 2 and again.variants == clip.variants
  with pytest.raises(IndexError):
    ToySource(SMALL)[6]


def test_splits_share_no_scene_and_sizes_do_not_move_them():
  train, held = ToySource(SMALL), ToySource(SMALL, "validation")
  assert len(train) == 6 and len(held) == 3
  scenes = {train.scene(i).index for i in range(6)} | {held.scene(i).index for i in range(3)}
  assert len(scenes) == 9
  larger = ToySource(ToyRecipe(frames=4, height=16, width=24, train=9), "validation")
  np.testing.assert_array_equal(larger[1].video, held[1].video)
  with pytest.raises(UserError, match="unknown split"):
    ToySource(SMALL, "test")


def test_signs_are_clips_with_words():
  recipe = ToyRecipe(frames=1, height=32, width=32, train=3, variants=1, world=toy.world("signs"))
  source = ToySource(recipe)
  example = source.example(1)
  word = source.scene(1).sign.word
  assert json.loads(example["facts"])["word"] == word
  assert f'"{word}"' in example["caption"] and f'"{word}"' in json.loads(example["variants"])[0]


def test_frames_spread_over_scenes_of_any_length():
  recipe = ToyRecipe(frames=4, height=16, width=16, fps=None, world=WorldConfig.full())
  source = ToySource(recipe)
  for index in range(4):
    assert source[index].fps == pytest.approx(4 / source.scene(index).duration_s)
  assert source[0].fps != source[1].fps


def test_stored_clips_are_the_rendered_ones(built):
  for split in toy.SPLITS:
    stored, drawn = toy_records.ToyRecords(SMALL, built, split), ToySource(SMALL, split)
    assert len(stored) == len(drawn)
    for index in range(len(drawn)):
      a, b = stored[index], drawn[index]
      np.testing.assert_array_equal(a.video, b.video)
      assert (a.caption, a.variants, a.fps) == (b.caption, b.variants, b.fps)
      assert stored.facts(index)["colour"] == drawn.scene(index).objects[0].colour
  np.testing.assert_array_equal(pickle.loads(pickle.dumps(stored))[index].video, b.video)


def test_more_than_tfds_holds_in_memory_is_stored_without_tensorflow(tmp_path, monkeypatch):
  """Beyond its buffer TFDS goes on with TensorFlow, which is not installed."""
  clip = 4 * 16 * 24 * 3
  monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 5 * clip)
  monkeypatch.setattr(toy_records, "PART_BYTES", 2 * clip)
  recipe = dataclasses.replace(SMALL, train=7)
  toy_records.build(recipe, tmp_path, processes=1)
  stored, drawn = toy_records.ToyRecords(recipe, tmp_path, "train"), ToySource(recipe)
  assert len(stored) == 7
  for index in range(7):
    np.testing.assert_array_equal(stored[index].video, drawn[index].video)
    assert stored.facts(index)["colour"] == drawn.scene(index).objects[0].colour
  with pytest.raises(IndexError):
    stored[7]


def test_building_again_keeps_what_is_there(built):
  files = {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file()}
  toy_records.build(SMALL, built, processes=1)
  assert files == {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file()}


def test_what_another_process_has_built_first_is_taken(tmp_path, monkeypatch):
  generate = toy_records.ToyWorld._split_generators

  def slow(self, dl_manager):
    monkeypatch.setattr(toy_records.ToyWorld, "_split_generators", generate)
    toy_records.build(SMALL, tmp_path, processes=1)
    return generate(self, dl_manager)

  monkeypatch.setattr(toy_records.ToyWorld, "_split_generators", slow)
  toy_records.build(SMALL, tmp_path, processes=1)
  assert len(toy_records.ToyRecords(SMALL, tmp_path)) == 6


def test_other_recipe_is_not_taken_for_this_one(built):
  other = ToyRecipe(frames=4, height=16, width=24, train=6, validation=3, seed=1)
  assert other.name != SMALL.name
  with pytest.raises(UserError, match="build it first"):
    toy_records.ToyRecords(other, built)


BARE = """
import sys
from mg_jax.data.sources import toy, toy_records
recipe = toy.ToyRecipe(frames=2, height=8, width=8, train=2, validation=1)
toy_records.build(recipe, sys.argv[1], processes=1)
print(toy_records.ToyRecords(recipe, sys.argv[1])[0].video.shape, "tensorflow" in sys.modules)
"""


def test_no_tensorflow_is_needed(tmp_path):
  command = [sys.executable, "-c", BARE, str(tmp_path)]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.stdout == "(2, 8, 8, 3) False\n", done.stderr


@pytest.mark.slow
def test_processes_change_nothing(monkeypatch):
  source = ToySource(ToyRecipe(frames=2, height=8, width=8, train=70))
  monkeypatch.setattr(toy, "_WORTH_PIXELS", 1)
  parallel = list(toy.examples(source, processes=2))
  assert [example["index"] for example in parallel] == list(range(70))
  for index, example in enumerate(parallel):
    np.testing.assert_array_equal(example["video"], source[index].video)


def test_stored_clips_feed_images_and_videos(built):
  clips = toy_records.ToyRecords(SMALL, built)
  entries = (
    pipeline.Entry("video", clips, transforms.VideoRow(), weight=2),
    pipeline.Entry("image", clips, transforms.VideoRow(frames=1), weight=1),
  )
  stream = pipeline.Feed(entries, global_batch=4).stream()
  shapes = [next(stream)["video"].shape for _ in range(6)]
  assert shapes.count((4, 4, 16, 24, 3)) == 4 and shapes.count((4, 1, 16, 24, 3)) == 2
  stream.close()


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"fps": 0.0}, {"train": 0}, {"seed": -1}])
def test_impossible_recipes_are_refused(wrong):
  with pytest.raises(UserError, match="toy recipe"):
    ToyRecipe(**wrong)


def test_stills_show_their_middle_and_tell_no_motion():
  """The frame that `FrameRow` takes lies one second into scenes of two."""
  recipe = ToyRecipe(
    frames=2, height=32, width=32, fps=1.0, variants=3, train=40, world=toy.world("stills")
  )
  source, reader = ToySource(recipe), Reader(TextConfig(length=77), open_tokenizer("bytes"))
  for index in range(40):
    clip, scene = source[index], source.scene(index)
    assert scene.duration_s == 2.0 and len(clip.variants) == 3
    assert [len(text) > 76 for text in (clip.caption, *clip.variants)] == [False, True] * 2
    row = transforms.FrameRow(reader, captions="short")(index, clip, np.random.default_rng(0))
    middle = render.render(scene, frames=1, height=32, width=32, fps=1.0, start_s=1.0)
    np.testing.assert_array_equal(row["image"], middle[0])


@pytest.mark.parametrize("fps", [8.0, None])
def test_stored_sound_is_the_drawn_one(tmp_path, fps):
  world = toy.world("orchestra") if fps is None else toy.world("sounds")
  recipe = ToyRecipe(frames=8, height=16, width=16, fps=fps, train=6, validation=1, world=world)
  toy_records.build(recipe, tmp_path, processes=1)
  stored, drawn = toy_records.ToyRecords(recipe, tmp_path), ToySource(recipe)
  heard = 0
  for index in range(6):
    a, b = stored[index], drawn[index]
    assert a.wave.dtype == b.wave.dtype == np.float32
    np.testing.assert_array_equal(a.wave, b.wave)
    assert a.sound_caption == b.sound_caption and '"' in a.sound_caption
    assert len(b.wave) == round(len(b.video) / b.fps * 48_000)
    truth = sound.soundtrack(drawn.scene(index))
    np.testing.assert_allclose(b.wave, truth.mix[: len(b.wave)], atol=2**-15)
    told = stored.facts(index)["sound"]
    assert told["times_s"] == [hit.time_s for hit in truth.events]
    heard += bool(b.wave.any())
  assert heard >= 4


def test_worlds_without_sound_keep_their_names_records_and_clips():
  names = {"simple": "70efa3b721f4", "signs": "63a9d9fe4c6c", "full": "6f30847e5213"}
  for world, name in names.items():
    recipe = ToyRecipe(world=toy.world(world))
    assert recipe.name == f"16x32x32_{name}"
    assert "wave" not in ToySource(recipe).example(0)
    assert ToySource(recipe)[0].wave is None
  assert ToyRecipe(world=toy.world("sounds")).name != ToyRecipe(world=toy.world("orchestra")).name


def test_clips_longer_than_their_sound_are_refused():
  with pytest.raises(UserError, match="outlast"):
    ToyRecipe(frames=17, world=toy.world("sounds"))
