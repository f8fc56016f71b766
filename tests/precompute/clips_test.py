"""Caching of latents: what is written, what a restart does, and what it refuses."""

import dataclasses
import json
import shutil
import weakref

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.conditions import ClassId, Constant, Image, Latent, Mask, View
from mg_jax.data.media.video import write_video
from mg_jax.data.records import RecordSource
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.sources.recipe import latent_sources, open_sources
from mg_jax.data.text.readers import Reader, TextConfig
from mg_jax.data.text.tokenizers import open_tokenizer
from mg_jax.models.codecs.tiling import Tiling
from mg_jax.models.encoders.streams import Streams
from mg_jax.precompute import clips as encode_module
from mg_jax.precompute import latents as latent_module
from mg_jax.precompute.clips import encode

TEXT = Streams({"text": Reader(TextConfig(), open_tokenizer("bytes"))})
PARAMS = {"gain": jnp.array([1.0, 2.0, 4.0])}


class Pool(nn.Module):
  """Latents are means over blocks of 2 x 8 x 8 pixels, times a gain for each channel."""

  def encode(self, video):
    gain = self.variables["params"]["gain"]
    b, t, h, w, c = video.shape
    video = jnp.pad(video, ((0, 0), (0, t % 2), (0, 0), (0, 0), (0, 0)), mode="edge")
    blocks = video.reshape(b, -1, 2, h // 8, 8, w // 8, 8, c)
    return blocks.mean((2, 4, 6)) * gain, jnp.zeros(())


def _expected(video):
  video = np.asarray(video, np.float64) / 127.5 - 1
  t, h, w, c = video.shape
  if t % 2:
    video = np.concatenate([video, video[-1:]])
  blocks = video.reshape(-1, 2, h // 8, 8, w // 8, 8, c).mean((1, 3, 5))
  return blocks * np.asarray(PARAMS["gain"])


@pytest.fixture
def data(tmp_path):
  return DataConfig(
    clips=10, held_out=3, frames=4, height=16, width=16, variants=1, image_weight=1,
    cache=str(tmp_path / "toy"),
  )  # fmt: skip


def _run(data, folder, params=PARAMS, **fields):
  return encode(
    data, Pool(), params, folder, origin="runs/tae", step=7, text=TEXT, batch=4, **fields
  )


def _stamps(folder):
  return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_videos_and_images_of_both_splits_are_encoded(data, tmp_path):
  metadata = _run(data, tmp_path / "latents")
  latents = {}
  for split, count in (("train", 10), ("validation", 3)):
    clips = open_sources(data, split)["4x16x16"]
    for kind in ("video", "image"):
      source = latent_sources(tmp_path / "latents", split, kind)["4x16x16"]
      assert len(source) == count
      for index in range(count):
        record, clip = source[index], clips[index]
        assert record["captions"] == [clip.caption, *clip.variants] and len(clip.variants) == 1
        assert record["fps"] == 8.0 and record["latent"].dtype == np.float32
        latents[split, kind, index] = record["latent"]
      if kind == "video":
        np.testing.assert_allclose(record["latent"], _expected(clip.video), atol=1e-5)
      else:
        frames = [_expected(frame[None]) for frame in clip.video]
        assert min(np.abs(record["latent"] - frame).max() for frame in frames) < 1e-5
  train = np.stack([x for key, x in latents.items() if key[:2] == ("train", "video")])
  train = train.astype(np.float64)
  np.testing.assert_allclose(metadata["mean"], train.mean((0, 1, 2, 3)), rtol=1e-6)
  np.testing.assert_allclose(metadata["std"], train.std((0, 1, 2, 3)), rtol=1e-6)
  assert metadata["autoencoder"] == "runs/tae" and metadata["step"] == 7
  manifest = json.loads((tmp_path / "latents" / "manifest.json").read_text())
  assert manifest == {"metadata": metadata}


def test_a_finished_folder_is_left_as_it_is(data, tmp_path, monkeypatch):
  first = _run(data, tmp_path / "latents")
  before = _stamps(tmp_path / "latents")
  monkeypatch.setattr(encode_module, "open_sources", None)  # not even the clips are looked at
  assert _run(data, tmp_path / "latents") == first
  # What does not touch pixels and captions may change.
  free = dataclasses.replace(data, global_batch=4, image_weight=3, cache="moved")
  assert _run(free, tmp_path / "latents") == first
  assert _stamps(tmp_path / "latents") == before


def test_a_killed_run_goes_on_with_the_missing_shards(data, tmp_path, monkeypatch):
  monkeypatch.setattr(latent_module, "SHARD", 4)
  whole = _run(data, tmp_path / "whole")

  class Killed(Exception):
    pass

  read = []

  def opened(config, split, kind, die_at=None):
    class Watched:
      def __init__(self, source):
        self.source = source

      def __len__(self):
        return len(self.source)

      def __getitem__(self, index):
        if (split, index) == die_at:
          raise Killed
        read.append((split, index))
        return self.source[index]

    return {name: Watched(source) for name, source in open_sources(config, split, kind).items()}

  killed = lambda *args: opened(*args, ("train", 6))  # noqa: E731
  monkeypatch.setattr(encode_module, "open_sources", killed)
  with pytest.raises(Killed):
    _run(data, tmp_path / "latents")
  folder = tmp_path / "latents" / "train" / "video" / "4x16x16"
  assert sorted(p.name for p in folder.glob("*.array_record")) == [
    "shard-00000-of-00003.array_record"
  ]
  assert not (tmp_path / "latents" / "manifest.json").exists()
  read.clear()
  monkeypatch.setattr(encode_module, "open_sources", opened)
  assert _run(data, tmp_path / "latents") == whole
  # Videos of the first shard are there already; each other clip is decoded once for each kind.
  train = [index for split, index in read if split == "train"]
  assert sorted(train) == sorted([*range(4, 10), *range(10)])
  a, b = (latent_sources(tmp_path / f, "train", "video")["4x16x16"] for f in ("whole", "latents"))
  for index in range(10):
    np.testing.assert_array_equal(a[index]["latent"], b[index]["latent"])


def test_statistics_are_merged_from_those_of_the_shards(data, tmp_path, monkeypatch):
  """None of the records is read again, but those of shards that an older run left without."""
  monkeypatch.setattr(latent_module, "SHARD", 4)
  read, get = [], RecordSource.__getitem__
  monkeypatch.setattr(RecordSource, "__getitem__", lambda s, i: read.append(i) or get(s, i))
  whole = _run(data, tmp_path / "latents")
  assert not read
  (tmp_path / "latents" / "manifest.json").unlink()
  folder = tmp_path / "latents" / "train" / "video" / "4x16x16"
  (folder / "manifest.json").unlink()
  path = folder / "shard-00001-of-00003.json"
  receipt = json.loads(path.read_text())
  del receipt["moments"]
  path.write_text(json.dumps(receipt))
  again = _run(data, tmp_path / "latents")
  assert read == [4, 5, 6, 7]
  for name in ("mean", "std"):
    np.testing.assert_allclose(again.pop(name), whole.pop(name), rtol=1e-12)
  assert again == whole


def test_clips_are_let_go_of_once_they_are_encoded(data, tmp_path, monkeypatch):
  held = []

  class Counted(list):
    def __getitem__(self, index):
      clip = dataclasses.replace(super().__getitem__(index))  # one that nobody else holds
      held.append(weakref.ref(clip))
      # A batch of four, and the one that is being written.
      assert sum(ref() is not None for ref in held) <= 5
      return clip

  def opened(*args):
    return {n: Counted(s[i] for i in range(len(s))) for n, s in open_sources(*args).items()}

  monkeypatch.setattr(encode_module, "open_sources", opened)
  _run(data, tmp_path / "latents")
  assert len(held) == 2 * 13


def test_latents_of_something_else_are_refused(data, tmp_path):
  folder = tmp_path / "latents"
  _run(data, folder)
  before = _stamps(folder)
  with pytest.raises(UserError, match="encoded with another fingerprint; remove it or use another"):
    _run(data, folder, {"gain": PARAMS["gain"] + 1})
  with pytest.raises(UserError, match="encoded with another data"):
    _run(dataclasses.replace(data, fps=4.0), folder)
  with pytest.raises(UserError, match="encoded with another kinds"):
    _run(dataclasses.replace(data, image_weight=0), folder)
  assert _stamps(folder) == before
  (folder / "manifest.json").unlink()  # as a run leaves it that was interrupted
  with pytest.raises(UserError, match="records of another recipe"):
    _run(data, folder, {"gain": PARAMS["gain"] + 1})
  (folder / "manifest.json").write_text("{")
  with pytest.raises(UserError, match="is malformed"):
    _run(data, folder)


def test_a_folder_that_changed_is_refused_and_one_that_is_gone_is_not_missed(data, tmp_path):
  clips, latents = tmp_path / "clips", tmp_path / "latents"
  clips.mkdir()
  for name in ("a", "b"):
    ramp = np.arange(12, dtype=np.uint8)[:, None, None, None] * 20
    write_video(clips / f"{name}.mp4", np.broadcast_to(ramp, (12, 16, 16, 3)), fps=8)
    (clips / f"{name}.txt").write_text("a ramp")
  data = dataclasses.replace(data, source="folder", path=str(clips), holdout="none")
  metadata = _run(data, latents)
  assert _run(data, latents) == metadata
  (clips / "b.txt").write_text("another ramp")
  with pytest.raises(UserError, match="encoded with another clips; remove it"):
    _run(data, latents)
  clips.rename(tmp_path / "moved")
  assert _run(data, latents) == metadata


@pytest.fixture
def mixed(data, tmp_path):
  """A recipe of clips in one folder and images in another, and of what cannot be read in each."""
  for name in ("a", "b"):
    grey = np.arange(12, dtype=np.uint8)[:, None, None, None] * 20
    write_video(tmp_path / "clips" / f"{name}.mp4", np.broadcast_to(grey, (12, 16, 16, 3)), fps=8)
  (tmp_path / "clips" / "bad.mp4").write_bytes(b"")
  (tmp_path / "images").mkdir()
  for k, name in enumerate(["d.png", "e.jpg", "f.webp"]):
    PIL.Image.new("RGB", (20, 20), (60 * k, 0, 255)).save(tmp_path / "images" / name, quality=100)
    (tmp_path / "images" / name).with_suffix(".txt").write_text(f"image {k}")
  (tmp_path / "images" / "bad.png").write_bytes(b"")
  return dataclasses.replace(
    data, source="folder", path=str(tmp_path / "clips"), images=str(tmp_path / "images"),
    holdout="none", caption_required=False,
  )  # fmt: skip


def test_images_of_their_own_are_encoded_beside_the_clips(mixed, tmp_path):
  latents = tmp_path / "latents"
  (tmp_path / "run").mkdir()
  metadata = encode(
    mixed, Pool(), PARAMS, latents, origin="tae", step=7, text=TEXT, batch=4,
    workdir=str(tmp_path / "run"),
  )  # fmt: skip
  assert metadata["clips"] == {"train": 5, "validation": 5}
  folders = sorted(str(p.relative_to(latents)) for p in latents.glob("*/*/*"))
  assert folders == [f"{split}/{kind}" for split in ("train", "validation")
                     for kind in ("image/1x16x16", "video/4x16x16")]  # fmt: skip
  source = latent_sources(latents, "train", "image")["1x16x16"]
  for k in range(3):
    assert source[k]["captions"] == [f"image {k}"] and source[k]["latent"].shape == (1, 2, 2, 3)
    expected = (np.array([60 * k, 0, 255]) / 127.5 - 1) * np.asarray(PARAMS["gain"])
    assert np.abs(source[k]["latent"] - expected).max() < 0.2
  rows = [json.loads(x) for x in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
  assert {row["file"] for row in rows} == {"bad.mp4", "bad.png"}


def test_a_change_of_either_folder_is_seen_where_it_is_still_there(mixed, tmp_path):
  metadata = _run(mixed, tmp_path / "latents")
  assert _run(mixed, tmp_path / "latents") == metadata
  (tmp_path / "images" / "d.txt").write_text("another caption")
  with pytest.raises(UserError, match="encoded with another images; remove it"):
    _run(mixed, tmp_path / "latents")
  (tmp_path / "images").rename(tmp_path / "moved")
  assert _run(mixed, tmp_path / "latents") == metadata
  with pytest.raises(UserError, match="encoded with another data"):
    _run(dataclasses.replace(mixed, images=""), tmp_path / "latents")


def test_images_alone_need_no_folder_of_clips(mixed, tmp_path):
  alone = dataclasses.replace(mixed, path="", video_weight=0)
  metadata = _run(alone, tmp_path / "latents")
  assert metadata["clips"] == {"train": 3, "validation": 3} and "content" not in metadata
  train = [latent_sources(tmp_path / "latents", "train", "image")["1x16x16"][k] for k in range(3)]
  stacked = np.stack([record["latent"] for record in train]).reshape(-1, 3)
  np.testing.assert_allclose(metadata["mean"], stacked.mean(0), rtol=1e-5)


def test_latents_of_recipes_without_the_newer_fields_stay(data, tmp_path):
  """What decides latents, as a manifest wrote it before there were images in folders."""
  before = {
    "source": "toy", "path": "", "world": "simple", "clips": 10, "held_out": 3, "variants": 1,
    "durations": "single", "frames": 4, "height": 16, "width": 16, "fps": 8.0, "windows": 1,
    "holdout": "file", "caption_required": True, "camera_tags": False, "seed": 0,
  }  # fmt: skip
  assert _run(data, tmp_path / "latents")["data"] == before
  free = dataclasses.replace(data, image_batch=32, bad_limit=0.5)
  assert _run(free, tmp_path / "latents")["data"] == before


def test_the_first_frame_is_encoded_alone_for_a_condition_that_is_a_latent(data, tmp_path):
  """As a sampler has it: the first latent of the clip knows of later frames."""
  conditions = {"first": Latent(channels=3), "mask": Constant(Mask())}
  metadata = _run(data, tmp_path / "latents", conditions=conditions)
  assert metadata["latents"] == {"first": "first_frame"}
  clips = open_sources(data, "train")["4x16x16"]
  for kind in ("video", "image"):
    source = latent_sources(tmp_path / "latents", "train", kind)["4x16x16"]
    for index in range(10):
      record = source[index]
      assert not any("mask" in name for name in record)
      found = record["latent/first"]
      assert found.shape == (1, 2, 2, 3) and found.dtype == np.float32
      if kind == "image":
        np.testing.assert_allclose(found, record["latent"], atol=1e-5)
        continue
      np.testing.assert_allclose(found, _expected(clips[index].video[:1]), atol=1e-5)
      grid = record["latent"].shape[:3]
      row = conditions["first"].row("first", record, View(grid, length=grid[0]))
      np.testing.assert_array_equal(row[:1, ..., :3], found)
  source = latent_sources(tmp_path / "latents", "train", "video")["4x16x16"]
  moving = [np.abs(source[k]["latent"][:1] - source[k]["latent/first"]).max() for k in range(10)]
  assert max(moving) > 1e-3


def _captioned(folder, **given):
  """Two clips, of which the first has values of conditions."""
  for name in "ab":
    write_video(folder / f"{name}.mp4", np.full((4, 16, 16, 3), 90, np.uint8), fps=8.0)
  rows = [{"file": "a.mp4", "caption": "grey", **given}, {"file": "b.mp4", "caption": "grey"}]
  (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return {"source": "folder", "path": str(folder), "frames": 4, "height": 16, "width": 16}


def test_values_of_conditions_are_stored_with_the_clips_that_have_them(tmp_path):
  PIL.Image.new("RGB", (40, 40), (0, 0, 200)).save(tmp_path / "face.png")
  (tmp_path / "clips").mkdir()
  shutil.copy(tmp_path / "face.png", tmp_path / "clips")
  fields = _captioned(tmp_path / "clips", style=3, face="face.png")
  data = DataConfig(**fields, holdout="none")
  conditions = {"style": ClassId(5), "face": Image(8), "mask": Constant(Mask())}
  _run(data, tmp_path / "latents", conditions=conditions)
  first, second = latent_sources(tmp_path / "latents", "train", "video")["4x16x16"]
  assert first["given/style"] == 3 and first["given/face"].shape == (1, 8, 8, 3)
  assert not any(name.startswith("given/") for name in second)
  _captioned(tmp_path / "clips", style=4, face="face.png")
  with pytest.raises(UserError, match="encoded with another clips"):
    _run(data, tmp_path / "latents", conditions=conditions)
  with pytest.raises(UserError, match="'pose' has no source in data; give 'pose' in its captions"):
    _run(data, tmp_path / "other", conditions={"pose": ClassId(2)})


def test_entries_of_a_mixture_share_statistics_and_each_has_its_conditions(data, tmp_path):
  fields = _captioned(tmp_path / "clips", style=3) | {"holdout": "none", "image_weight": 0}
  data = dataclasses.replace(data, image_weight=0, mixture={
    "toy": {"constants": {"style": 1, "first": None}}, "own": fields,
  })  # fmt: skip
  conditions = {"style": ClassId(5), "first": Latent(3)}
  metadata = _run(data, tmp_path / "latents", conditions=conditions)
  assert metadata["clips"] == {"train": 12, "validation": 5} and metadata["step"] == 7
  latents = [
    record["latent"].reshape(-1, 3)
    for name in ("toy", "own")
    for record in latent_sources(tmp_path / "latents" / name, "train", "video")["4x16x16"]
  ]
  np.testing.assert_allclose(metadata["mean"], np.concatenate(latents).mean(0), rtol=1e-5)
  own, toy = (
    latent_sources(tmp_path / "latents" / name, "train", "video")["4x16x16"][0]
    for name in ("own", "toy")
  )
  assert own["given/style"] == 3 and "latent/first" in own
  assert "given/style" not in toy and "latent/first" not in toy, "rows have the constants"
  assert _run(data, tmp_path / "latents", conditions=conditions) == metadata
  without = {name: entry for name, entry in data.mixture.items() if name == "own"}
  with pytest.raises(UserError, match="encoded with another mixture; remove it"):
    _run(dataclasses.replace(data, mixture=without), tmp_path / "latents", conditions=conditions)
  more = data.mixture | {"more": data.mixture["toy"]}
  with pytest.raises(UserError, match="encoded with another mixture"):
    _run(dataclasses.replace(data, mixture=more), tmp_path / "latents", conditions=conditions)
  assert not (tmp_path / "latents" / "more").exists(), "refused before anything is encoded"
  lacking = data.mixture | {"toy": {}}
  with pytest.raises(UserError, match="'style' has no source in data.mixture.toy"):
    _run(dataclasses.replace(data, mixture=lacking), tmp_path / "other", conditions=conditions)


def test_latents_without_those_of_a_condition_are_refused_and_more_do_no_harm(data, tmp_path):
  conditions = {"first": Latent(channels=3)}
  without = _run(data, tmp_path / "without")
  assert "latents" not in without
  assert _run(data, tmp_path / "without", conditions={"mask": Constant(Mask())}) == without
  with pytest.raises(UserError, match="encoded with another latents; remove it"):
    _run(data, tmp_path / "without", conditions=conditions)
  metadata = _run(data, tmp_path / "with", conditions=conditions)
  assert _run(data, tmp_path / "with") == metadata
  with pytest.raises(UserError, match="encoded with another latents; remove it"):
    _run(data, tmp_path / "with", conditions={"start": Latent(channels=3)})


def test_an_autoencoder_that_breaks_is_told_with_the_clip(data, tmp_path):
  with pytest.raises(UserError, match="NaN or Inf for clip 'toy/0'"):
    _run(data, tmp_path / "latents", {"gain": jnp.full((3,), jnp.nan)})
  assert not (tmp_path / "latents" / "manifest.json").exists()


class TiledPool(Pool):
  factors = (2, 8, 8)
  latent = 3

  def latent_shape(self, frames, height, width):
    return -(-frames // 2), height // 8, width // 8, 3


def test_clips_larger_than_a_tile_are_encoded_in_tiles(data, tmp_path):
  """The pool sees no further than its blocks, so tiles give what whole clips give."""
  data = dataclasses.replace(data, frames=6)
  tiling = Tiling(frames=4, overlap=0, side=16, border=8)
  run = lambda folder, **kw: encode(  # noqa: E731
    data, TiledPool(), PARAMS, tmp_path / folder, origin="tae", step=7, text=TEXT, batch=4, **kw
  )
  whole, tiled = run("whole"), run("tiled", tiling=tiling)
  assert "tiling" not in whole and tiled["tiling"] == dataclasses.asdict(tiling)
  for kind in ("video", "image"):
    a, b = (latent_sources(tmp_path / f, "train", kind)["6x16x16"] for f in ("whole", "tiled"))
    for index in range(10):
      np.testing.assert_allclose(a[index]["latent"], b[index]["latent"], atol=1e-5)
      assert a[index]["captions"] == b[index]["captions"]
  assert run("tiled", tiling=tiling) == tiled
  with pytest.raises(UserError, match="encoded with another tiling; remove it"):
    run("tiled", tiling=Tiling(frames=2, overlap=0))
