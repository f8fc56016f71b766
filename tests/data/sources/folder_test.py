"""What folders of clips, stills, sounds and soundtracks have in common, each held to one rule."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from mg_jax.core.errors import UserError
from mg_jax.data import buckets
from mg_jax.data.media import audio, video
from mg_jax.data.sources import clips, folder, sounds, soundtracks
from mg_jax.data.sources.folder import Index, PieceSource, write_report
from mg_jax.data.sources.soundtracks import SoundtrackConfig

RATE = 8000
CLIPS = buckets.make_buckets([buckets.Duration(0.5, 100, 4, clip_s=0.5)], 16, aspects=("1:1",))
STILLS = buckets.make_buckets(buckets.IMAGE_DURATIONS, 16, aspects=("1:1",))


@dataclasses.dataclass
class Medium:
  """A folder of `count` files of a medium: a.*, b.* and so on."""

  root: pathlib.Path
  ending: str
  noun: str
  scan: Callable[..., Index]
  read: Callable

  def source(self, index, split="train", **kwargs):
    return PieceSource(index, self.read, split, **kwargs)


def _write(path, level):
  if path.suffix == ".mp4":
    video.write_video(path, np.full((8, 16, 16, 3), 15 * level, np.uint8), fps=10)
  elif path.suffix == ".png":
    Image.new("RGB", (16, 16), (15 * level, 0, 0)).save(path)
  else:
    audio.write_wav(path, np.full(RATE, 0.05 * (1 + level), np.float32), rate=RATE)
  path.with_suffix(".txt").write_text(f"caption of {path.stem}")


def _soundtracks(path, *, holdout="file"):
  soundtracks.scan.cache_clear()
  config = SoundtrackConfig(path=str(path), chunks=((9.0, 1),), holdout=holdout)
  return soundtracks.scan(config)


@pytest.fixture(params=["clips", "stills", "sounds", "soundtracks"])
def medium(request, tmp_path):
  """medium("abc"): the medium, with files of these names."""
  root = tmp_path / "media"
  root.mkdir()
  take = functools.partial(
    soundtracks._read, config=SoundtrackConfig(path="x", size=16), rate=RATE
  )
  made = {
    "clips": (".mp4", "clip", lambda p, **kw: clips.scan(p, CLIPS, **kw), clips.read),
    "stills": (
      ".png", "image", lambda p, **kw: clips.scan(p, STILLS, kind="image", **kw), clips.read
    ),
    "sounds": (
      ".wav", "sound",
      lambda p, **kw: sounds.scan(p, cache=tmp_path / "cache", samples=RATE, rate=RATE, **kw),
      functools.partial(sounds.read, rate=RATE),
    ),
    "soundtracks": (".wav", "sound", _soundtracks, take),
  }[request.param]  # fmt: skip

  def make(names):
    for level, name in enumerate(names):
      _write(root / f"{name}{made[0]}", level)
    return Medium(root, *made)

  return make


def _files(index, split):
  return [piece.file for piece in index.pieces if piece.split == split]


def test_files_are_held_out_by_their_names_whatever_else_there_is(medium):
  names = [f"clip{k}" for k in range(12)]
  made = medium(names)
  index = made.scan(made.root)
  held = {name + made.ending for name in names if folder.held_out(name + made.ending)}
  assert set(_files(index, "validation")) == held and 0 < len(held) < 12
  (made.root / min(held)).unlink()
  assert set(_files(made.scan(made.root), "validation")) == held - {min(held)}


def test_a_handful_of_files_that_the_hash_holds_out_is_trained_on(medium, monkeypatch):
  monkeypatch.setattr(folder, "HELD_OUT", 1.0)
  made = medium("ab")
  assert len(_files(made.scan(made.root), "train")) == 2


def test_where_nothing_is_held_out_the_first_pieces_are_shown(medium, monkeypatch, caplog):
  monkeypatch.setattr(folder, "SHOWN", 2)
  made = medium("abc")
  index = made.scan(made.root, holdout="none").shown()
  assert _files(index, "train") == [f"{name}{made.ending}" for name in "abc"]
  assert _files(index, "validation") == _files(index, "train")[:2]
  assert caplog.text.count(f"no {made.noun} is held out, so evaluations") == 1
  assert ("data.holdout=tail" in caplog.text) == (made.noun != "image"), "which have no tail"
  assert index.shown() is index


def test_what_is_no_file_is_rejected_by_name_and_reported(medium, tmp_path, caplog):
  made, report = medium("a"), tmp_path / "run" / "rejected.jsonl"
  write_report(report, [made.scan(made.root)])
  assert not report.exists(), "of nothing"
  (made.root / f"empty{made.ending}").write_bytes(b"")
  (made.root / f"link{made.ending}").symlink_to(tmp_path / "nowhere")
  os.mkfifo(made.root / f"pipe{made.ending}")
  index = made.scan(made.root)  # nor do they need a caption
  reasons = {pathlib.Path(item.file).stem: item.reason for item in index.rejected}
  assert reasons.pop("empty") in ("empty", "unreadable")
  assert reasons == {"link": "missing", "pipe": "unreadable"}
  assert "a dangling link" in index.rejected[1].detail
  assert f"link{made.ending} is not used: missing (it is a dangling link" in caplog.text
  write_report(report, [index])
  rows = [json.loads(line) for line in report.read_text().splitlines()]
  assert [row.pop("folder") for row in rows] == 3 * [str(made.root)]
  assert rows == [dataclasses.asdict(item) for item in index.rejected]
  for name in ("empty", "link", "pipe"):
    (made.root / f"{name}{made.ending}").unlink()
  write_report(report, [made.scan(made.root)])
  assert report.read_text() == "", "emptied once all is well"


def test_a_folder_with_nothing_to_use_says_why(medium):
  made = medium("")
  with pytest.raises(UserError, match=rf"has no .*; put files ending in .*{made.ending}"):
    made.scan(made.root)
  with pytest.raises(UserError, match="no such folder"):
    made.scan(made.root / "nothing")
  (made.root / f"a{made.ending}").write_bytes(b"x" * 999)
  with pytest.raises(UserError, match=rf"none of 1 \w+ is usable, the first being a{made.ending}"):
    made.scan(made.root)


@pytest.mark.parametrize("gone", [True, False], ids=["vanishes", "breaks"])
def test_a_piece_that_breaks_after_the_scan_is_replaced_and_counted(medium, gone):
  made = medium("abc")
  index = made.scan(made.root, holdout="none")
  source, strict = made.source(index, limit=0.5), made.source(index, limit=0.0)
  path = pathlib.Path(source.pieces[1].path)
  path.unlink() if gone else path.write_bytes(b"")
  assert source[1].key in (source.pieces[0].key, source.pieces[2].key)
  assert [bad.name for bad in source.quarantine.records] == [source.pieces[1].key]
  with pytest.raises(UserError, match="1 of 3 records cannot be read, .* raise data.bad_limit"):
    strict[1]
  with pytest.raises(IndexError):
    source[3]


def test_sources_go_to_worker_processes(medium):
  made = medium("ab")
  source = made.source(made.scan(made.root, holdout="none"))
  sample, again = source[1], pickle.loads(pickle.dumps(source))[1]
  assert sample.key == again.key
  for one, other in ((sample.video, again.video), (sample.wave, again.wave)):
    np.testing.assert_array_equal(one, other)


def test_a_source_of_nothing_is_refused(medium):
  made = medium("a")
  index = dataclasses.replace(made.scan(made.root, holdout="none"), pieces=())
  with pytest.raises(UserError, match=f"the validation split has no {made.noun}; add files"):
    made.source(index, "validation")


def _digest(rows):
  return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_digests_are_those_that_earlier_runs_named_their_latents_by(tmp_path):
  (tmp_path / "b.mp4").write_bytes(b"123")
  (tmp_path / "a.png").write_bytes(b"1")
  (tmp_path / "c.wav").symlink_to(tmp_path / "nowhere")
  (tmp_path / "d.mp4").symlink_to(tmp_path / "nowhere")
  row = {"file": "b.mp4", "caption": "seen", "camera": "pan left", "sound_caption": "heard"}
  (tmp_path / "captions.jsonl").write_text(json.dumps(row))
  assert folder.content(tmp_path) == _digest([["b.mp4", 3, "seen", "pan left"]])
  assert folder.content(tmp_path, kind="image") == _digest([["a.png", 1, "", ""]])
  assert folder.content(tmp_path, kind="sound") == _digest([
    ["b.mp4", 3, "seen", "pan left", "heard"], ["c.wav", None, "", "", ""],
    ["d.mp4", None, "", "", ""],
  ])  # fmt: skip
