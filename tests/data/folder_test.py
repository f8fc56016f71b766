import json
import os

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data import buckets, folder, video

TINY = buckets.make_buckets([buckets.Duration(0.5, 100, 4, clip_s=0.5)], 16, aspects=("1:1",))


@pytest.fixture
def clips(tmp_path, ramp):
  """clips(a=12, ...): videos at 10 fps of so many frames with captions beside."""

  def run(**counts):
    for name, count in counts.items():
      video.write_video(tmp_path / f"{name}.mp4", np.stack(ramp(count)), fps=10)
      (tmp_path / f"{name}.txt").write_text(f"caption of {name}\n")
    return tmp_path

  return run


def test_clips_come_with_caption_shape_and_rate(clips):
  index = folder.scan(clips(a=12, b=24), TINY, holdout="none")
  source = folder.FolderSource(index, TINY[0])
  assert len(source) == 2 and not index.rejected
  clip = source[0]
  assert clip.video.shape == (4, 16, 16, 3) and (clip.frames, clip.fps) == (4, 8)
  assert clip.caption == "caption of a" and clip.key == "a.mp4@0.350"
  np.testing.assert_array_equal(clip.video, source[0].video)
  with pytest.raises(IndexError):
    source[2]


def test_windows_are_spread_and_do_not_overlap(clips):
  index = folder.scan(clips(a=24), TINY, windows=3, holdout="none")
  starts = [window.start_s for window in index.windows]
  assert starts == pytest.approx([0.15, 0.95, 1.75])
  many = folder.scan(clips(a=24), TINY, windows=99, holdout="none").windows
  assert len(many) == 4 and np.diff([w.start_s for w in many]).min() >= 0.5


def test_tail_holds_out_the_end_of_every_file(clips):
  index = folder.scan(clips(a=24, b=7), TINY, windows=9, holdout="tail")
  train = [w for w in index.windows if w.split == "train"]
  held = [w for w in index.windows if w.split == "validation"]
  assert [w.file for w in held] == ["a.mp4"], "b is too short for two clips"
  border = min(w.start_s for w in held)
  assert all(w.start_s + 0.5 <= border + 1e-6 for w in train if w.file == "a.mp4")
  assert border >= 24 / 10 * 0.75 - 0.01
  assert folder.FolderSource(index, TINY[0], split="validation")[0].caption == "caption of a"


def test_hold_out_by_file_is_a_property_of_the_name(clips):
  names = {f"clip{k}": 6 for k in range(20)}
  index = folder.scan(clips(**names), TINY)
  held = {w.file for w in index.windows if w.split == "validation"}
  assert 1 <= len(held) <= 9
  for name in list(names)[:10]:
    (clips() / f"{name}.mp4").unlink()
  fewer = folder.scan(clips(), TINY)
  left = {w.file for w in fewer.windows}
  assert {w.file for w in fewer.windows if w.split == "validation"} == held & left


def test_a_single_file_always_trains(clips, monkeypatch):
  monkeypatch.setattr(folder, "HELD_OUT", 1.0)
  index = folder.scan(clips(a=6), TINY)
  assert [w.split for w in index.windows] == ["train"]


def test_unusable_files_are_listed_with_reasons(clips, tmp_path, audio_only):
  clips(good=12, short=3)
  (tmp_path / "zero.mp4").write_bytes(b"")
  (tmp_path / "noise.webm").write_bytes(b"x" * 3000)
  audio_only(tmp_path / "sound.mp4")
  (tmp_path / "notes.md").write_text("not a video")
  index = folder.scan(tmp_path, TINY, caption_required=False)
  reasons = {item.file: item.reason for item in index.rejected}
  assert reasons == {
    "short.mp4": "no_bucket",
    "zero.mp4": "empty",
    "noise.webm": "unreadable",
    "sound.mp4": "no_video",
  }
  index.write_report(tmp_path / "report.jsonl")
  rows = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
  assert {row["file"]: row["reason"] for row in rows} == reasons
  assert "0.30 s" in next(row["detail"] for row in rows if row["file"] == "short.mp4")


def test_file_that_breaks_after_the_scan_is_replaced(clips):
  index = folder.scan(clips(a=12, b=12, c=12), TINY, holdout="none")
  (clips() / "b.mp4").write_bytes(b"")
  source = folder.FolderSource(index, TINY[0])
  assert source[1].caption in ("caption of a", "caption of c")
  assert [bad.name for bad in source.quarantine.records] == ["b.mp4@0.350"]


def test_captions_from_one_file(clips, tmp_path):
  clips(a=6, b=6)
  (tmp_path / "a.txt").unlink()
  rows = [{"file": "a.mp4", "caption": "from the table 🐕"}, {"file": "../../x", "caption": "odd"}]
  text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
  (tmp_path / "captions.jsonl").write_text(text)
  captions = {w.file: w.caption for w in folder.scan(tmp_path, TINY).windows}
  assert captions == {"a.mp4": "from the table 🐕", "b.mp4": "caption of b"}
  for line in ("{", "[]", '{"file": "a.mp4"}', '{"file": 1, "caption": "x"}'):
    (tmp_path / "captions.jsonl").write_text(text + line)
    with pytest.raises(UserError, match="line 4"):
      folder.scan(tmp_path, TINY)


def test_missing_caption_says_how_to_give_it(clips, tmp_path):
  clips(a=6, b=6)
  (tmp_path / "b.txt").unlink()
  with pytest.raises(UserError, match=r"b\.mp4 has no caption.*b\.txt.*captions\.jsonl"):
    folder.scan(tmp_path, TINY)
  loose = folder.scan(tmp_path, TINY, caption_required=False)
  assert [w.caption for w in loose.windows] == ["caption of a", ""]


def test_folders_that_cannot_serve(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="no such folder"):
    folder.scan(tmp_path / "nothing", TINY)
  with pytest.raises(UserError, match="holds no video"):
    folder.scan(tmp_path, TINY)
  (tmp_path / "a.mp4").write_bytes(b"")
  with pytest.raises(UserError, match=r"none of 1 videos.*a\.mp4"):
    folder.scan(tmp_path, TINY, caption_required=False)
  with pytest.raises(UserError, match="cannot be read"):
    folder.scan(tmp_path / "a.mp4", TINY)

  def denied(path):
    raise PermissionError(13, "Permission denied", path)

  monkeypatch.setattr(os, "listdir", denied)
  with pytest.raises(UserError, match="Permission denied"):
    folder.scan(tmp_path, TINY)


def test_bucket_without_clips_names_those_that_have(clips):
  index = folder.scan(clips(a=6), TINY, holdout="none")
  other = buckets.make_buckets(buckets.TINY_DURATIONS, 32)[0]
  with pytest.raises(UserError, match=r"16x32x32.*4x16x16"):
    folder.FolderSource(index, other)
  with pytest.raises(UserError, match="validation"):
    folder.FolderSource(index, TINY[0], split="validation")


def test_real_clips_into_tiny_buckets(media):
  choices = buckets.make_buckets(buckets.TINY_DURATIONS, 32)
  index = folder.scan(media / "video", choices, windows=4, caption_required=False, holdout="tail")
  assert not index.rejected
  bucket = next(iter(index.buckets()))
  assert bucket.name == "16x32x48"
  clip = folder.FolderSource(index, bucket)[0]
  assert clip.video.shape == (16, 32, 48, 3) and clip.fps == 8
