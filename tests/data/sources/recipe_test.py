"""Recipes: what a config section says about the data, and the sources and feeds it opens."""

import collections
import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from mg_jax.core.errors import UserError
from mg_jax.data.media.video import write_video
from mg_jax.data.records import RecordWriter
from mg_jax.data.sources import mixture, recipe
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.sources.folder import write_report
from mg_jax.data.text.condition import Text
from mg_jax.data.text.readers import Reader, TextConfig
from mg_jax.data.text.tokenizers import open_tokenizer
from mg_jax.data.transforms import FrameRow, LatentRow

TEXT = {"text": Text(12, reader=Reader(TextConfig(length=12), open_tokenizer("bytes")))}

TOY = DataConfig(clips=6, held_out=3, frames=4, height=16, width=24, global_batch=2)


def _toy(tmp_path, **changes):
  return dataclasses.replace(TOY, cache=str(tmp_path / "cache"), **changes)


@pytest.fixture
def folder(tmp_path):
  """Three files of two seconds; by their names, none is held out."""
  path = tmp_path / "clips"
  for k, name in enumerate("abc"):
    write_video(path / f"{name}.mp4", np.full((16, 32, 32, 3), 60 * k, np.uint8), fps=8.0)
    (path / f"{name}.txt").write_text(f"grey number {k}")
  return path


def _folder(path, **changes):
  fields = {"source": "folder", "path": str(path), "frames": 8, "height": 16, "width": 16}
  return DataConfig(**fields | {"global_batch": 2} | changes)


def _latents(root, split, kind, bucket, count):
  writer = RecordWriter(root / split / kind / bucket, shards=1, compress=False)
  time = 2 if kind == "video" else 1
  writer.write_shard(0, (
    {"latent": np.full((time, 2, 2, 3), 10.0 + k, np.float32), "fps": 8.0, "captions": ["a b"]}
    for k in range(count)
  ))  # fmt: skip
  writer.finish()


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"video_weight": 0}, "leave nothing to train on"),
    ({"image_weight": -1}, "leave nothing to train on"),
    ({"frames": 0}, "data.frames is 0; it must be at least 1"),
    ({"windows": 0}, "data.windows is 0"),
    ({"global_batch": -3}, "data.global_batch is -3"),
    ({"image_batch": 3}, "data.image_batch is 3; give a multiple of data.global_batch .2."),
    ({"image_batch": -2}, "data.image_batch is -2"),
    ({"image_batch": 4, "video_weight": 0, "image_weight": 1}, "needs videos"),
    ({"bad_limit": 1.5}, "data.bad_limit is 1.5; give a fraction from 0 to 1"),
    ({"bad_limit": float("nan")}, "data.bad_limit is nan"),
    ({"short_length": 0}, "data.short_length is 0"),
    ({"fps": 0.0}, "data.fps is 0.0"),
    ({"fps": float("nan")}, "data.fps is nan"),
    ({"seed": -1}, "data.seed is -1"),
    ({"seed": 2**32}, "data.seed is 4294967296"),
    ({"lengths": (2, 5)}, "data.lengths is .2, 5.; give distinct frame counts from 1 to 4"),
    ({"lengths": (2, 2)}, "data.lengths is .2, 2."),
    ({"lengths": (129,), "durations": "paper", "height": 256}, "from 1 to 128"),
    ({"durations": "paper", "height": 250}, "data.height is 250.*multiple of 16"),
    (
      {"durations": "ablation", "aspects": "one", "height": 192, "width": 350},
      "data.width is 350.*multiple of 16",
    ),
  ],
)
def test_a_recipe_that_cannot_be_is_refused(changes, words):
  with pytest.raises(UserError, match=words):
    dataclasses.replace(TOY, **changes)


def test_kinds_are_those_with_a_weight():
  assert TOY.kinds == ("video",)
  joint = dataclasses.replace(TOY, image_weight=1, video_weight=10)
  assert joint.kinds == ("video", "image")
  shares = [("", "video", Fraction(10, 11)), ("", "image", Fraction(1, 11))]
  assert mixture.groups(joint) == shares
  assert dataclasses.replace(TOY, image_weight=2, video_weight=0).kinds == ("image",)


def test_the_toy_world_is_built_once_and_split(tmp_path):
  config = _toy(tmp_path)
  train = recipe.open_sources(config, "train")
  held_out = recipe.open_sources(config, "validation")
  assert list(train) == list(held_out) == ["4x16x24"]
  assert len(train["4x16x24"]) == 6 and len(held_out["4x16x24"]) == 3
  clips = [source["4x16x24"][0] for source in (train, held_out)]
  assert clips[0].video.shape == (4, 16, 24, 3) and clips[0].caption
  assert (clips[0].video != clips[1].video).any(), "a held-out scene is another one"
  before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.array_record*")}
  recipe.open_sources(config, "train")
  after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.array_record*")}
  assert before and before == after


def test_the_feed_mixes_images_and_videos_by_weight(tmp_path):
  stream = recipe.clip_feed(_toy(tmp_path, image_weight=1, video_weight=3)).stream(threads=0)
  shapes = [next(stream)["video"].shape for _ in range(8)]
  assert sorted(shapes) == 2 * [(2, 1, 16, 24, 3)] + 6 * [(2, 4, 16, 24, 3)]
  assert shapes[:4].count((2, 1, 16, 24, 3)) == 1, "every window holds the mix"


def test_lengths_take_turns_and_keep_the_mix(tmp_path):
  config = _toy(tmp_path, image_weight=1, video_weight=3, lengths=(2, 4))
  feed = recipe.clip_feed(config)
  stream = feed.stream(threads=0)
  counts = collections.Counter(next(stream)["video"].shape[1] for _ in range(16))
  assert counts == {1: 4, 2: 6, 4: 6}
  # Shorter ones begin anywhere in the clip.
  source = feed.entries[0].source
  rows = [feed.entries[0].transform(0, source[0], np.random.default_rng(k)) for k in range(20)]
  assert {row["video"].shape[0] for row in rows} == {2} and rows[0]["frames"] == 2
  starts = {next(i for i in range(3) if (source[0].video[i : i + 2] == row["video"]).all())
            for row in rows}  # fmt: skip
  assert starts == {0, 1, 2}


def test_a_folder_is_cut_into_its_bucket(folder):
  config = _folder(folder, windows=2, holdout="tail")
  train = recipe.open_sources(config, "train")["8x16x16"]
  held_out = recipe.open_sources(config, "validation")["8x16x16"]
  assert (len(train), len(held_out)) == (3, 3)
  assert train[2].video.shape == (8, 16, 16, 3) and train[2].caption == "grey number 2"
  assert abs(int(train[2].video.mean()) - 120) < 4
  assert not {clip.key for clip in train.pieces} & {clip.key for clip in held_out.pieces}


@pytest.mark.parametrize("holdout", ["none", "file"])
def test_where_nothing_is_held_out_training_clips_are_shown(folder, holdout, caplog):
  config = _folder(folder, holdout=holdout)
  train, shown = (recipe.open_sources(config, s)["8x16x16"] for s in ("train", "validation"))
  assert [w.key for w in shown.pieces] == [w.key for w in train.pieces] and len(train) == 3
  assert caplog.text.count("no clip is held out") == 1


def test_rejected_files_are_told(folder, caplog):
  (folder / "d.mp4").write_bytes(b"")
  (folder / "d.txt").write_text("nothing")
  assert len(recipe.open_sources(_folder(folder), "train")["8x16x16"]) == 3
  assert "d.mp4 is not used: empty" in caplog.text


@pytest.fixture
def images(tmp_path):
  """Five images of two shapes; by their names, the last is held out."""
  path = tmp_path / "images"
  path.mkdir()
  for k, (name, size) in enumerate(zip("abcde", [(32, 32)] * 3 + [(64, 36)] * 2, strict=True)):
    Image.new("RGB", size, (50 * k, 200, 200)).save(path / f"{name}.png")
    (path / f"{name}.txt").write_text(f"picture number {k}")
  return path


def test_images_come_from_a_folder_of_their_own(folder, images):
  config = _folder(folder, images=str(images), image_weight=1, video_weight=3, holdout="none")
  feed = recipe.clip_feed(config)
  assert [entry.name for entry in feed.entries] == ["video/8x16x16", "image/1x16x16"]
  stream = feed.stream(threads=0)
  batches = [next(stream) for _ in range(8)]
  shapes = collections.Counter(batch["video"].shape for batch in batches)
  assert shapes == {(2, 8, 16, 16, 3): 6, (2, 1, 16, 16, 3): 2}
  for batch in batches:
    # Clips are grey and images are not.
    coloured = np.ptp(batch["video"].astype(int), axis=-1).mean() > 20
    assert coloured == (batch["video"].shape[1] == 1)
  held_out = recipe.open_sources(config, "validation", "image")["1x16x16"]
  assert held_out[0].caption == "picture number 0"
  frames = recipe.open_sources(dataclasses.replace(config, images=""), "train", "image")
  assert list(frames) == ["8x16x16"], "without such a folder images are frames of the clips"


def test_images_alone_need_no_clips(images):
  config = _folder("", images=str(images), image_weight=1, video_weight=0, holdout="none")
  batch = next(recipe.clip_feed(config).stream(threads=0))
  assert batch["video"].shape == (2, 1, 16, 16, 3)
  toy = dataclasses.replace(config, source="toy", cache="/nowhere")
  assert next(recipe.clip_feed(toy).stream(threads=0))["index"].shape == (2,)
  with pytest.raises(UserError, match="data.images is set but data.image_weight is 0"):
    recipe.clip_feed(dataclasses.replace(config, image_weight=0, video_weight=1))
  reader = Reader(TextConfig(length=24), open_tokenizer("bytes"))
  untouched = dataclasses.replace(config, image_weight=0, video_weight=1)
  batch = next(recipe.frame_feed(untouched, FrameRow(reader)).stream(threads=0))
  assert batch["image"].shape == (2, 16, 16, 3) and batch["text"]["mask"].any()


def test_images_go_to_five_shapes_with_paper_durations(images):
  config = _folder(
    "", images=str(images), image_weight=1, video_weight=0, durations="paper", height=32,
    holdout="none",
  )  # fmt: skip
  sources = recipe.open_sources(config, "train", "image")
  assert {name: len(source) for name, source in sources.items()} == {"1x32x32": 3, "1x32x48": 2}
  assert {entry.name: entry.weight for entry in recipe.clip_feed(config).entries} == {
    "image/1x32x32": 3, "image/1x32x48": 2,
  }  # fmt: skip


def test_image_batches_of_their_own_size(folder, images):
  config = _folder(
    folder, images=str(images), image_weight=1, video_weight=3, image_batch=6, holdout="none"
  )
  stream = recipe.clip_feed(config).stream(threads=0)
  shapes = collections.Counter(next(stream)["video"].shape for _ in range(4))
  assert shapes == {(2, 8, 16, 16, 3): 3, (6, 1, 16, 16, 3): 1}


@pytest.mark.parametrize("kind, name", [("video", "b.mp4"), ("image", "b.png")])
def test_how_much_may_be_bad_is_set_by_the_recipe(folder, images, kind, name):
  strict = _folder(folder, images=str(images), image_weight=1, holdout="none", bad_limit=0.0)
  sources = [
    next(iter(recipe.open_sources(config, "train", kind).values()))
    for config in (strict, dataclasses.replace(strict, bad_limit=0.5))
  ]
  ((folder if kind == "video" else images) / name).write_bytes(b"")
  with pytest.raises(UserError, match="1 of . records cannot be read, .* or raise data.bad_limit"):
    sources[0][1]
  assert sources[1][1].video.shape[1:] == (16, 16, 3) and len(sources[1].quarantine) == 1


def test_how_many_latents_may_be_bad_is_set_by_the_recipe(tmp_path):
  _latents(tmp_path, "train", "video", "8x16x16", 2)
  (entry,) = recipe.latent_feed(
    dataclasses.replace(TOY, bad_limit=0.0), tmp_path, {"": LatentRow(TEXT)}
  ).entries
  entry.source._records = [b"damaged"] * 2
  with pytest.raises(UserError, match="1 of 2 records cannot be read.*raise data.bad_limit"):
    entry.source[0]


def test_the_report_holds_both_folders(folder, images, tmp_path):
  (folder / "d.mp4").write_bytes(b"")
  (images / "x.png").write_text("text")
  config = _folder(
    folder, images=str(images), image_weight=1, caption_required=False, holdout="none"
  )
  report = tmp_path / "rejected.jsonl"
  write_report(report, recipe.indices(config))
  rows = [json.loads(line) for line in report.read_text().splitlines()]
  assert [(row["folder"], row["file"]) for row in rows] == [
    (str(folder), "d.mp4"), (str(images), "x.png"),
  ]  # fmt: skip
  assert not recipe.indices(_toy(tmp_path), ("video", "image"))


def test_paper_durations_bucket_a_folder_and_name_what_fits_none(folder):
  with pytest.raises(UserError, match="2.00 s fits no bucket"):
    recipe.open_sources(_folder(folder, durations="paper"), "train")
  with pytest.raises(UserError, match="data.path is empty"):
    recipe.open_sources(_folder(""), "train")


def test_latents_feed_the_generator_normalised(tmp_path):
  for kind in ("video", "image"):
    _latents(tmp_path, "train", kind, "8x16x16", 4)
  config = dataclasses.replace(TOY, image_weight=1, video_weight=1)
  row = LatentRow(TEXT, mean=(10.0,) * 3, std=(2.0,) * 3)
  feed = recipe.latent_feed(config, tmp_path, {"": row})
  assert [entry.name for entry in feed.entries] == ["video/8x16x16", "image/8x16x16"]
  stream = feed.stream(threads=0)
  batches = {batch["latent"].shape[1]: batch for batch in (next(stream), next(stream))}
  assert set(batches) == {1, 2}
  for time, batch in batches.items():
    np.testing.assert_allclose(batch["latent"][:, 0, 0, 0, 0], batch["index"] / 2.0)
    assert batch["text"]["ids"].shape == (2, 12)
    assert batch["text"]["mask"].sum() == 2 * len("a b.") + (time > 1) * 2 * len("FPS-8 ")


def test_buckets_are_drawn_in_proportion_to_their_volume(tmp_path):
  for bucket, count in (("8x16x16", 9), ("8x16x32", 3)):
    _latents(tmp_path, "train", "video", bucket, count)
  _latents(tmp_path, "train", "image", "1x16x16", 5)
  config = dataclasses.replace(TOY, image_weight=1, video_weight=8)
  feed = recipe.latent_feed(config, tmp_path, {"": LatentRow(TEXT)})
  assert {e.name: e.weight for e in feed.entries} == {
    "video/8x16x16": 6, "video/8x16x32": 2, "image/1x16x16": 1
  }  # fmt: skip


MIX = {
  "shapes": {"weight": 3, "world": "pairs"},
  "stills": {"image_weight": 1, "video_weight": 1, "constants": {"style": 2}},
}


def test_entries_of_a_mixture_differ_in_what_they_say():
  config = dataclasses.replace(TOY, mixture=MIX)
  shapes, stills = config.parts.values()
  assert shapes.data == dataclasses.replace(TOY, world="pairs") and shapes.weight == 3
  assert stills.data.image_weight == 1 and stills.constants == {"style": 2}
  assert mixture.groups(config) == [
    ("shapes", "video", Fraction(3, 4)), ("stills", "video", Fraction(1, 8)),
    ("stills", "image", Fraction(1, 8)),
  ]  # fmt: skip
  images = MIX["stills"] | {"video_weight": 0}
  first = dataclasses.replace(TOY, mixture={"a": images, "b": {}})
  assert first.kinds == ("video", "image"), "whatever the order of the entries"
  assert TOY.parts == {"": mixture.Part(TOY)} and hash(config) == hash(TOY)


@pytest.mark.parametrize(
  "entry, words",
  [
    ({"a b": {}}, "data.mixture.a b: an entry is named by"),
    ({"train": {}}, "data.mixture.train: an entry is named by"),
    ({"a": {"weight": 0}}, "data.mixture.a.weight is 0; give a whole number from 1"),
    ({"a": {"weight": 0.5}}, "data.mixture.a.weight is 0.5"),
    ({"a": {"constants": 3}}, "data.mixture.a.constants is 3; give values by condition"),
    ({"a": {"global_batch": 3}}, "data.mixture.a sets global_batch, which all entries share"),
    ({"a": {"wrold": "pairs"}}, "data.mixture.a has no field 'wrold'"),
    ({"a": {"frames": 0}}, "data.frames is 0"),
    ({"a": {"images": "x"}}, "data.images is set but data.image_weight is 0"),
  ],
)
def test_an_entry_that_cannot_be_is_refused(entry, words):
  with pytest.raises(UserError, match=words):
    _ = dataclasses.replace(TOY, mixture=entry).kinds


def test_pictures_of_one_folder_and_clips_of_another_come_as_often_as_they_weigh(folder, images):
  config = _folder("", mixture={
    "clips": {"path": str(folder), "weight": 3},
    "pictures": {"images": str(images), "image_weight": 1, "video_weight": 0},
  })  # fmt: skip
  feed = recipe.clip_feed(config)
  assert {entry.name.split("/")[:2][0]: entry.weight for entry in feed.entries} == {
    "clips": 3, "pictures": 1
  }  # fmt: skip
  stream = feed.stream(threads=0)
  counts = collections.Counter(next(stream)["video"].shape[1] for _ in range(8))
  assert counts == {8: 6, 1: 2}
  assert {index.folder for index in recipe.indices(config)} == {str(folder), str(images)}
  assert mixture.held_out(config) == {"clips": "video", "pictures": "image"}


def test_missing_latents_are_told(tmp_path):
  with pytest.raises(UserError, match="has no latents; encode the data first"):
    recipe.latent_sources(tmp_path, "train", "video")


def test_frames_come_with_the_captions_asked_for(tmp_path):
  config = _toy(tmp_path, world="stills", frames=2, fps=1.0, variants=3)
  reader = Reader(TextConfig(length=256), open_tokenizer("bytes"))
  for captions, long in (("short", {False}), ("long", {True})):
    feed = recipe.frame_feed(config, FrameRow(reader, captions=captions))
    batch = next(feed.stream(threads=0))
    assert batch["image"].shape == (2, 16, 24, 3) and batch["image"].dtype == np.uint8
    assert batch["text"]["ids"].shape == (2, 256) and batch["index"].shape == (2,)
    assert set((batch["text"]["mask"].sum(axis=1) > 77).tolist()) == long
