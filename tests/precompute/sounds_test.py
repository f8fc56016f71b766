"""Caching of soundtracks: what is written, what a restart does, what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.data.conditions import ClassId, Frames, Latent
from mg_jax.data.media import audio
from mg_jax.data.sources import soundtracks
from mg_jax.data.sources.soundtracks import SoundtrackConfig, record_sources
from mg_jax.data.text.readers import Reader, TextConfig
from mg_jax.data.text.tokenizers import open_tokenizer
from mg_jax.models.codecs.chunking import ChunkedCodec
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.encoders.streams import Streams
from mg_jax.models.encoders.vision import FrozenVision
from mg_jax.precompute import sounds as module
from mg_jax.precompute.latents import pinned_step
from mg_jax.precompute.sounds import check_vision, encode_sound
from tests.models.encoders import vision_test

TEXT = Streams({"text": Reader(TextConfig(tokenizer="words"), open_tokenizer("words"))})


def codec(seed=0):
  """A codec of 25 latents a second with random weights."""
  model = DACVAE(channels=2, hidden=4, decoder_channels=16, latent=3)
  params = unbox(jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, model.hop)))["params"])
  return ChunkedCodec(model, params)


@pytest.fixture(scope="module")
def coder():
  return codec()


DATA = SoundtrackConfig(
  source="toy", clips=5, held_out=2, chunks=((1.0, 1),), fps=5.0, size=8
)  # fmt: skip


def _run(coder, folder, data=DATA, vision=None):
  return encode_sound(data, coder, folder, origin="runs/codec", step=7, text=TEXT, vision=vision)


def test_both_splits_are_encoded(coder, tmp_path):
  metadata = _run(coder, tmp_path / "latents")
  latents = []
  for split, count in (("train", 5), ("validation", 2)):
    source = record_sources(tmp_path / "latents", split)["video"]
    takes = soundtracks.open_sources(DATA, split, rate=audio.RATE)["video"]
    assert len(source) == count
    for index in range(count):
      record, take = source[index], takes[index]
      np.testing.assert_allclose(record["latent"], coder.encode(take.wave), atol=1e-5)
      assert record["latent"].shape == (25, 3) and record["fps"] == 5.0
      np.testing.assert_array_equal(record["image"], take.video)
      assert record["captions"] == [take.sound_caption]
      latents += [record["latent"]] if split == "train" else []
  train = np.concatenate(latents).astype(np.float64)
  np.testing.assert_allclose(metadata["mean"], train.mean(0), rtol=1e-6)
  np.testing.assert_allclose(metadata["std"], train.std(0), rtol=1e-6)
  assert metadata["rate"] == 25 and metadata["clips"] == {"train": 5, "validation": 2}
  assert metadata["fingerprint"] == coder.fingerprint and metadata["vision"] == ""
  manifest = json.loads((tmp_path / "latents" / "manifest.json").read_text())
  assert manifest == {"metadata": metadata}
  assert pinned_step(tmp_path / "latents", "runs/codec", name="codec") == 7
  assert pinned_step(tmp_path / "latents", "runs/other", name="codec") is None


def test_a_frozen_tower_leaves_its_features(coder, tmp_path):
  vision_test.save(tmp_path / "clip")
  vision = FrozenVision(tmp_path / "clip")
  metadata = _run(coder, tmp_path / "latents", vision=vision)
  assert metadata["vision"] == vision.identity()
  source = record_sources(tmp_path / "latents", "train")["video"]
  take = soundtracks.open_sources(DATA, "train", rate=audio.RATE)["video"][4]
  np.testing.assert_array_equal(source[4]["features"], vision(take.video))
  assert "image" not in source[4]


def test_a_killed_run_goes_on_with_the_missing_shards(coder, tmp_path, monkeypatch):
  monkeypatch.setattr(module, "SHARD", 2)
  whole = _run(coder, tmp_path / "whole")
  read, open_sources, die = [], soundtracks.open_sources, [True]

  class Killed(Exception):
    pass

  class Watched(list):
    def __getitem__(self, index):
      if die[0] and index == 3:
        raise Killed
      read.append(index)
      return super().__getitem__(index)

  def opened(config, split, *, rate):
    [(kind, source)] = open_sources(config, split, rate=rate).items()
    return {kind: Watched(source[i] for i in range(len(source)))}

  monkeypatch.setattr(soundtracks, "open_sources", opened)
  with pytest.raises(Killed):
    _run(coder, tmp_path / "latents")
  assert not (tmp_path / "latents" / "manifest.json").exists()
  die[0] = False
  read.clear()
  assert _run(coder, tmp_path / "latents") == whole
  assert read == [2, 3, 4, 0, 1], "the first shard was there"
  read.clear()
  assert _run(coder, tmp_path / "latents") == whole
  assert not read, "and then all was"


def test_latents_of_something_else_are_refused(coder, tmp_path):
  folder = tmp_path / "latents"
  _run(coder, folder)
  with pytest.raises(UserError, match="encoded with another fingerprint; remove it"):
    _run(codec(1), folder)
  with pytest.raises(UserError, match="encoded with another data"):
    _run(coder, folder, dataclasses.replace(DATA, fps=4.0))
  free = dataclasses.replace(DATA, chunks=((0.5, 2), (1.0, 1)), global_batch=4, sound_weight=0)
  _run(coder, folder, free)
  vision_test.save(tmp_path / "clip")
  with pytest.raises(UserError, match="encoded with another vision"):
    _run(coder, folder, vision=FrozenVision(tmp_path / "clip"))


def test_files_that_changed_are_told_and_sound_alone_has_no_picture(coder, tmp_path):
  (tmp_path / "media").mkdir()
  for name, hz in (("a", 300), ("b", 500)):
    wave = 0.3 * np.sin(np.arange(60_000) / audio.RATE * 2 * np.pi * hz)
    audio.write_wav(tmp_path / "media" / f"{name}.wav", wave)
    (tmp_path / "media" / f"{name}.txt").write_text(f"a tone of {hz} Hz")
  data = dataclasses.replace(
    DATA, source="folder", path=str(tmp_path / "media"), holdout="none", chunks=((2.0, 1),)
  )
  (tmp_path / "media" / "c.mp3").write_bytes(b"")
  (tmp_path / "run").mkdir()
  metadata = encode_sound(
    data, coder, tmp_path / "latents", origin="runs/codec", step=7, text=TEXT,
    workdir=str(tmp_path / "run"),
  )  # fmt: skip
  rejected = [json.loads(x) for x in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
  assert [(row["file"], row["reason"]) for row in rejected] == [("c.mp3", "empty")]
  source = record_sources(tmp_path / "latents", "train")["sound"]
  assert set(source[0]) == {"latent", "fps", "captions", "key"}
  assert source[1]["latent"].shape == (32, 3) and source[1]["captions"] == ["a tone of 500 Hz"]
  (tmp_path / "media" / "a.txt").write_text("something else")
  with pytest.raises(UserError, match="encoded with another clips"):
    _run(coder, tmp_path / "latents", data)
  # Files that are gone are no longer needed.
  (tmp_path / "media").rename(tmp_path / "moved")
  assert _run(coder, tmp_path / "latents", data) == metadata


def test_entries_of_a_mixture_share_statistics(coder, tmp_path):
  data = dataclasses.replace(DATA, mixture={
    "few": {"clips": 3}, "others": {"clips": 2, "seed": 5, "constants": {"video": None}},
  })  # fmt: skip
  conditions = {"video": Frames(25.0, 5.0, 8)}
  metadata = encode_sound(
    data, coder, tmp_path / "latents", origin="runs/codec", step=7, text=TEXT,
    conditions=conditions,
  )  # fmt: skip
  assert metadata["clips"] == {"train": 5, "validation": 4} and metadata["rate"] == 25
  latents = [
    record["latent"]
    for name in data.mixture
    for record in record_sources(tmp_path / "latents" / name, "train")["video"]
  ]
  np.testing.assert_allclose(metadata["mean"], np.concatenate(latents).mean(0), rtol=1e-5)
  with pytest.raises(UserError, match="data.mixture.few.constants names 'look'; the conditions"):
    wrong = {"few": {"clips": 3, "constants": {"look": None}}, "others": data.mixture["others"]}
    encode_sound(
      dataclasses.replace(data, mixture=wrong), coder, tmp_path / "latents", origin="runs/codec",
      step=7, text=TEXT, conditions=conditions,
    )  # fmt: skip


def test_values_of_conditions_are_stored(coder, tmp_path):
  (tmp_path / "media").mkdir()
  audio.write_wav(tmp_path / "media" / "a.wav", 0.3 * np.sin(np.arange(60_000) / 20))
  row = {"file": "a.wav", "caption": "a tone", "style": 1}
  (tmp_path / "media" / "captions.jsonl").write_text(json.dumps(row))
  data = dataclasses.replace(
    DATA, source="folder", path=str(tmp_path / "media"), holdout="none", chunks=((2.0, 1),)
  )

  def run(**conditions):
    return encode_sound(
      data, coder, tmp_path / "latents", origin="runs/codec", step=7, text=TEXT,
      conditions=conditions,
    )  # fmt: skip

  with pytest.raises(UserError, match="'mood' has no source in data; give 'mood' in its captions"):
    run(mood=ClassId(2))
  with pytest.raises(UserError, match="'first' is the latent of a first frame, which sound lacks"):
    run(first=Latent(3))
  metadata = run(style=ClassId(2))
  assert record_sources(tmp_path / "latents", "train")["sound"][0]["given/style"] == 1
  assert metadata["conditions"] == {"style": {"classes": 2}}
  with pytest.raises(UserError, match="encoded with another conditions"):
    run(style=ClassId(3))


def test_one_tower_fits_data_and_generator(tmp_path):
  vision_test.save(tmp_path / "clip")
  vision, tower = FrozenVision(tmp_path / "clip"), {"size": 8, "projection": 6}
  check_vision(vision, {}, 6, 8)
  check_vision(None, tower, 6, 8)
  for args, words in (
    ((vision, tower, 6, 8), "keep one of them"),
    ((None, {}, 6, 8), "config vision is empty"),
    ((vision, {}, 6, 16), "takes frames of 8 pixels, but data.size is 16"),
    ((None, tower, 5, 8), "has 6 features, but model.dit.routes.video takes 5"),
  ):
    with pytest.raises(UserError, match=words):
      check_vision(*args)
