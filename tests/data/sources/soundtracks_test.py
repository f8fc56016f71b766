"""Soundtracks: frames beside latents, rows, files of a folder, what is refused."""

import dataclasses
import json
import os

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.conditions import Frames, nearest_frames
from mg_jax.data.media import audio, muxing, video
from mg_jax.data.records import RecordWriter
from mg_jax.data.sources import soundtracks
from mg_jax.data.sources.folder import content
from mg_jax.data.sources.soundtracks import SoundtrackConfig
from mg_jax.data.sources.toy import ToySource
from mg_jax.data.text.condition import Text
from mg_jax.data.text.readers import Reader, TextConfig
from mg_jax.data.text.tokenizers import open_tokenizer
from mg_jax.data.transforms import LatentRow

TEXT = Text(8, reader=Reader(TextConfig(tokenizer="words", length=8), open_tokenizer("words")))
RNG = np.random.default_rng


@pytest.mark.parametrize("fps", [8.0, 12.5, 23.976, 25.0, 60.0])
@pytest.mark.parametrize("start", [0, 7])
def test_no_other_frame_is_nearer(fps, start):
  count = 30
  at = nearest_frames(count, fps, 50, 25.0, start=start)
  wanted = (start + np.arange(50)) / 25
  away = np.abs(np.arange(count)[None] / fps - wanted[:, None])
  np.testing.assert_allclose(away[np.arange(50), at], away.min(1), atol=1e-9)
  shown = wanted <= (count - 1) / fps
  assert away[np.arange(50), at][shown].max() <= 0.5 / fps + 1e-9
  assert at.dtype == np.int32 and (np.diff(at) >= 0).all()
  if fps == 25:
    np.testing.assert_array_equal(at[shown], (start + np.arange(50))[shown])


def _record(latents=50, fps=25.0, frames=None, **extra):
  frames = int(latents / 25 * fps) if frames is None else frames
  levels = np.arange(1, frames + 1, dtype=np.uint8)
  image = np.broadcast_to(levels[:, None, None, None], (frames, 4, 4, 3))
  latent = np.arange(latents, dtype=np.float32)[:, None] * [[1.0, -1.0]]
  return {"latent": latent, "fps": fps, "captions": ["one", "two"], "image": image} | extra


def _row(latents=20, fps=25.0, features=0, text=TEXT, **fields):
  conditions = {"text": text, "video": Frames(25.0, fps, 4, features)}
  return LatentRow(conditions, latents=latents, **fields)


@pytest.mark.parametrize("fps", [8.0, 12.5, 23.976, 25.0, 60.0])
def test_a_chunk_sees_the_frames_of_its_own_time(fps):
  row, record, starts = _row(fps=fps), _record(fps=fps), set()
  for seed in range(20):
    out = row(3, record, RNG(seed))
    start = int(out["latent"][0, 0, 0, 0])
    starts.add(start)
    np.testing.assert_array_equal(out["latent"][:, 0, 0, 0], start + np.arange(20))
    seen = out["video"]["image"][out["video"]["at"], 0, 0, 0]
    at = nearest_frames(len(record["image"]), fps, 20, 25.0, start=start)
    np.testing.assert_array_equal(seen, record["image"][at, 0, 0, 0])
    assert out["video"]["mask"].all() and out["length"] == 20 and out["index"] == 3
    assert out["video"]["image"].shape == (row.conditions["video"].frames(20), 4, 4, 3)
  assert len(starts) > 5
  still = dataclasses.replace(row, shift=False)
  assert {int(still(0, record, RNG(s))["latent"][0, 0, 0, 0]) for s in range(5)} == {0}


def test_both_wordings_are_read_and_latents_are_normalised():
  row = _row(mean=(1.0, 2.0), std=(2.0, 4.0), shift=False)
  rows = [row(0, _record(), RNG(seed)) for seed in range(10)]
  assert len({out["text"]["ids"].tobytes() for out in rows}) == 2
  np.testing.assert_allclose(rows[0]["latent"][5, 0, 0], [(5 - 1) / 2, (-5 - 2) / 4])
  with pytest.raises(ValueError, match="positive"):
    _row(mean=(0.0,), std=(0.0,))


def test_what_is_missing_is_zero():
  short = _row(mean=(9.0, 9.0), std=(1.0, 1.0))(0, _record(latents=12), RNG(0))
  assert short["length"] == 12 and not short["latent"][12:].any() and short["latent"][:12].any()
  np.testing.assert_array_equal(short["video"]["mask"], np.arange(20) < 12)
  blind = {name: value for name, value in _record().items() if name != "image"}
  out = _row()(0, blind, RNG(0))
  assert not any(a.any() for a in out["video"].values())
  seeing = _row(features=3)
  assert not seeing(0, blind, RNG(0))["video"].any()
  # A picture that ends before the sound stands still.
  still = _row(shift=False)(0, _record(frames=10), RNG(0))["video"]
  np.testing.assert_array_equal(still["image"][still["at"], 0, 0, 0], [*range(1, 11), *[10] * 10])
  assert still["mask"].all()


def test_cached_features_lie_beside_their_latents():
  features = np.arange(1, 51, dtype=np.float16)[:, None] * np.ones((1, 3), np.float16)
  out = _row(features=3)(0, _record(features=features), RNG(1))
  assert out["video"].dtype == np.float16
  np.testing.assert_array_equal(out["video"][:, 0], out["latent"][:, 0, 0, 0] + 1)
  text = {"text/text/0": np.ones((2, 6), np.float32), "text/text/1": np.ones((2, 6), np.float32)}
  out = _row(text=Text(8, features=6, cached=True))(0, _record(**text), RNG(1))["text"]
  assert out["features"].shape == (8, 6) and out["mask"].sum() == 2


def _toy(**fields):
  return SoundtrackConfig(
    **{"source": "toy", "clips": 3, "held_out": 2, "chunks": ((1.5, 1),), "size": 16} | fields
  )


def test_toy_samples_are_scenes_as_long_as_the_longest_chunk():
  config = _toy(chunks=((1.0, 5), (1.5, 1)))
  for split, count in (("train", 3), ("validation", 2)):
    source = soundtracks.open_sources(config, split, rate=audio.RATE)["video"]
    clips = ToySource(soundtracks.toy_recipe(config), split)
    assert len(source) == count
    take, clip = source[1], clips[1]
    np.testing.assert_array_equal(take.video, clip.video)
    np.testing.assert_array_equal(take.wave, clip.wave)
    assert take.video.shape == (37, 16, 16, 3) and take.wave.shape == (1.48 * audio.RATE,)
    assert take.sound_caption == clip.sound_caption and "Music likelihood" in take.sound_caption
    assert clips.scene(1).duration_s == 1.5
  with pytest.raises(UserError, match="the codec has 16000 Hz"):
    soundtracks.open_sources(config, "train", rate=16_000)


def _wave(seconds, hz):
  time = np.arange(round(seconds * audio.RATE)) / audio.RATE
  return (0.3 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


@pytest.fixture
def media(tmp_path):
  """A video of 5.5 s with sound, one without, a sound of 2.5 s, a broken file, their captions."""
  root = tmp_path / "media"
  root.mkdir()
  frames = np.zeros((55, 16, 24, 3), np.uint8)
  frames[:] = (4 * np.arange(55, dtype=np.uint8))[:, None, None, None]
  muxing.write_clip(root / "a.mp4", frames, _wave(5.5, 440), fps=10)
  video.write_video(root / "mute.mp4", frames, fps=10)
  audio.write_wav(root / "b.wav", _wave(2.5, 880))
  (root / "broken.mp3").write_bytes(b"nothing")
  rows = [{"file": "a.mp4", "caption": "seen", "sound_caption": "heard"}]
  (root / "captions.jsonl").write_text(json.dumps(rows[0]))
  for name in ("mute", "b", "broken"):
    (root / f"{name}.txt").write_text(f"caption of {name}")
  return root


def _folder(root, **fields):
  return SoundtrackConfig(
    **{"path": str(root), "chunks": ((1.0, 1), (2.0, 1)), "fps": 5.0, "size": 8, "holdout": "none"}
    | fields
  )


def test_files_become_pieces_of_the_longest_chunk(media):
  index = soundtracks.scan(_folder(media))
  found = [
    (p.file, p.kind, p.start_s, round(p.seconds, 1), p.caption.sound or p.caption.text)
    for p in index.pieces if p.split == "train"
  ]  # fmt: skip
  # The last half second of the sound is left out, that of the picture's 1.5 s are not.
  assert found == [
    ("a.mp4", "video", 0.0, 2.0, "heard"), ("a.mp4", "video", 2.0, 2.0, "heard"),
    ("a.mp4", "video", 4.0, 1.5, "heard"), ("b.wav", "sound", 0.0, 2.0, "caption of b"),
  ]  # fmt: skip
  assert {(r.file, r.reason) for r in index.rejected} == {
    ("mute.mp4", "no_audio"), ("broken.mp3", "unreadable"),
  }  # fmt: skip
  assert len(index.pieces) == 8, "nothing is held out, so all are shown"


def test_pieces_are_read_with_their_picture(media):
  sources = soundtracks.open_sources(_folder(media), "train", rate=audio.RATE)
  assert set(sources) == {"video", "sound"}
  take = sources["video"][1]
  assert take.video.shape == (10, 8, 8, 3) and take.fps == 5 and take.key == "a.mp4@2.000"
  # Frame k is that of 2 + k / 5 s, where the grey level is 40 a second.
  np.testing.assert_allclose(take.video.mean((1, 2, 3)), 80 + 8 * np.arange(10), atol=4)
  np.testing.assert_allclose(np.abs(take.wave[4800:-4800]).max(), 0.3, atol=0.02)
  assert [len(sources["video"][i].wave) for i in range(3)] == [96_000, 96_000, 72_000]
  sound = sources["sound"][0]
  assert sound.video is None and len(sound.wave) == 96_000
  np.testing.assert_allclose(sound.wave, _wave(2.5, 880)[:96_000], atol=1e-4)
  only = soundtracks.open_sources(_folder(media, sound_weight=0), "train", rate=audio.RATE)
  assert set(only) == {"video"}
  (media / "a.mp4").write_bytes(b"")
  with pytest.raises(UserError):
    sources["video"][0]


def test_splits_share_no_time(media, monkeypatch):
  monkeypatch.setattr(soundtracks.folder, "held_out", lambda name: name == "b.wav")
  for holdout in ("tail", "file"):
    pieces = soundtracks.scan(_folder(media, holdout=holdout)).pieces
    for name in ("a.mp4", "b.wav"):
      spans = [(p.start_s, p.start_s + p.seconds, p.split) for p in pieces if p.file == name]
      for low, high, split in spans:
        assert all(high <= a + 1e-6 or b <= low + 1e-6 for a, b, s in spans if s != split)
  tail = soundtracks.scan(_folder(media, holdout="tail")).pieces
  assert [p.start_s for p in tail if p.split == "validation"] == [pytest.approx(4.4)]
  by_file = soundtracks.scan(_folder(media, holdout="file")).pieces
  assert {(p.file, p.split) for p in by_file} == {("a.mp4", "train"), ("b.wav", "validation")}
  with pytest.raises(UserError, match="no file of the validation split has a weight"):
    config = _folder(media, holdout="file", sound_weight=0)
    soundtracks.open_sources(config, "validation", rate=audio.RATE)


def test_content_is_names_sizes_and_captions(media):
  config = _folder(media)
  before = content(config.path, kind="sound")
  assert before == content(config.path, kind="sound")
  row = {"file": "a.mp4", "caption": "seen", "sound_caption": "heard again"}
  (media / "captions.jsonl").write_text(json.dumps(row))
  assert content(config.path, kind="sound") != before


def test_folders_that_cannot_be_used_are_told(media, tmp_path):
  (tmp_path / "empty").mkdir()
  told = {"": "path is empty", "nowhere": "no such folder", "empty": "has no sound"}
  for path, words in told.items():
    with pytest.raises(UserError, match=words):
      soundtracks.scan(_folder(tmp_path / path if path else ""))
  (media / "b.txt").unlink()
  with pytest.raises(UserError, match="b.wav has no caption"):
    soundtracks.scan(_folder(media))
  loose = soundtracks.scan(_folder(media, caption_required=False))
  assert {p.caption.text for p in loose.pieces if p.file == "b.wav"} == {""}
  for name in ("a.mp4", "b.wav"):
    (media / name).unlink()
  with pytest.raises(UserError, match="none of 2 files is usable"):
    soundtracks.scan(_folder(media, caption_required=False, fps=6.0))


def test_entries_of_a_mixture_come_as_often_as_they_weigh(tmp_path):
  for name, kinds in (("films", ("video", "sound")), ("effects", ("sound",))):
    for kind in kinds:
      writer = RecordWriter(tmp_path / name / "train" / kind, shards=1)
      record = _record(latents=75)
      writer.write_shard(0, [record] * 4)
      writer.finish()
  config = SoundtrackConfig(
    chunks=((1.0, 3), (3.0, 1)), video_weight=2, sound_weight=1, global_batch=2,
    mixture={"films": {"path": "x", "weight": 2}, "effects": {"path": "y"}},
  )  # fmt: skip
  rows = dict.fromkeys(config.mixture, _row(latents=75))
  feed = soundtracks.soundtrack_feed(config, tmp_path, rows, rate=25.0)
  # A kind without files leaves its batches to the others of its entry.
  assert {e.name: e.weight for e in feed.entries} == {
    "effects/sound/1s": 9, "effects/sound/3s": 3, "films/sound/1s": 6, "films/sound/3s": 2,
    "films/video/1s": 12, "films/video/3s": 4,
  }  # fmt: skip
  with pytest.raises(UserError, match="data.mixture.a sets chunks, which all entries share"):
    dataclasses.replace(config, mixture={"a": {"chunks": ((1.0, 1),)}})


def test_batches_are_of_one_kind_and_length_as_often_as_told(tmp_path):
  for kind in ("video", "sound"):
    writer = RecordWriter(tmp_path / "train" / kind, shards=1)
    record = _record(latents=75)
    if kind == "sound":
      del record["image"]
    writer.write_shard(0, [record] * 4)
    writer.finish()
  config = SoundtrackConfig(
    path="x", chunks=((1.0, 5), (3.0, 1)), video_weight=2, sound_weight=1, global_batch=2
  )
  feed = soundtracks.soundtrack_feed(config, tmp_path, {"": _row(latents=75)}, rate=25.0)
  assert {e.name: e.weight for e in feed.entries} == {
    "video/1s": 10, "video/3s": 2, "sound/1s": 5, "sound/3s": 1,
  }  # fmt: skip
  stream = feed.stream()
  found = [next(stream) for _ in range(18)]
  stream.close()
  kinds = [(b["latent"].shape[1], bool(b["video"]["mask"].all())) for b in found]
  assert {kind: kinds.count(kind) for kind in set(kinds)} == {
    (25, True): 10, (75, True): 2, (25, False): 5, (75, False): 1,
  }  # fmt: skip
  assert found[0]["latent"].shape[0] == 2
  with pytest.raises(UserError, match="has no latents"):
    soundtracks.record_sources(tmp_path, "validation")


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"fps": 0.0}, "data.fps is 0"),
    ({"chunks": ()}, "data.chunks is"),
    ({"chunks": ((1.0, 1), (1.0, 2))}, "distinct seconds"),
    ({"chunks": ((1.0, 0),)}, "whole weights"),
    ({"video_weight": 0, "sound_weight": 0}, "one must be positive"),
    ({"sound_weight": -1}, "neither may be negative"),
    ({"seed": -1}, "data.seed"),
  ],
)
def test_numbers_that_make_no_sense_are_told(fields, words):
  with pytest.raises(UserError, match=words):
    SoundtrackConfig(**fields)


def test_what_lies_in_a_folder_is_known_by_content(tmp_path, movie, caplog):
  root = tmp_path / "media"
  root.mkdir()
  live = {"codec": "libvpx-vp9", "sound": "libopus", "options": {"live": "1"}}
  movie(root / "live.webm", container="webm", **live)
  movie(root / "music.mp4", codec=None, sound="aac", cover=True)
  movie(root / "clip.avi", sound="mp3")
  movie(root / "book.m4b", codec=None, sound="aac")
  movie(root / "cover.mp4", codec=None, cover=True)
  os.mkfifo(root / "pipe.mp4")
  (root / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
  (root / "folder.mkv").mkdir()
  (root / "song.mid").write_bytes(b"MThd")
  config = SoundtrackConfig(
    path=str(root), chunks=((2.0, 1),), fps=10.0, size=16, caption_required=False
  )
  assert content(config.path, kind="sound") == content(config.path, kind="sound")
  with caplog.at_level("WARNING"):
    index = soundtracks.scan(config)
  kinds = {p.file: (p.kind, round(p.seconds)) for p in index.pieces}
  assert kinds == {
    "live.webm": ("video", 2), "music.mp4": ("sound", 2), "clip.avi": ("video", 2),
    "book.m4b": ("sound", 2),
  }  # fmt: skip
  assert {r.file: r.reason for r in index.rejected} == {
    "cover.mp4": "no_audio", "pipe.mp4": "unreadable", "gone.wav": "missing",
    "folder.mkv": "unreadable",
  }  # fmt: skip
  assert "skipped unknown extensions (1): song.mid" in caplog.text
  for source in soundtracks.open_sources(config, "train", rate=48_000).values():
    for take in (source[k] for k in range(len(source))):
      assert np.abs(take.wave[9600:]).max() > 0.3
    assert not len(source.quarantine)


def test_a_config_sets_how_much_may_be_bad(tmp_path, movie):
  for k in range(4):
    movie(tmp_path / f"{k}.mp4", sound="aac")
  base = SoundtrackConfig(
    path=str(tmp_path), chunks=((2.0, 1),), fps=10.0, size=16, caption_required=False,
    holdout="none",
  )  # fmt: skip
  for limit, fails in ((0.0, True), (0.5, False)):
    config = dataclasses.replace(base, bad_limit=limit)
    source = soundtracks.open_sources(config, "train", rate=48_000)["video"]
    assert config.identity() == base.identity()
    (tmp_path / "2.mp4").rename(tmp_path / "away")
    if fails:
      with pytest.raises(UserError, match="cannot be read"):
        source[2]
    else:
      assert source[2].key != "2.mp4@0.000" and source.quarantine.records[0].index == 2
    (tmp_path / "away").rename(tmp_path / "2.mp4")
  with pytest.raises(UserError, match="bad_limit is -1"):
    dataclasses.replace(base, bad_limit=-1)
