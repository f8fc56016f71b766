import json
import os
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from mg_jax.core.errors import UserError
from mg_jax.data import buckets
from mg_jax.data.media import video
from mg_jax.data.sources import clips as module
from mg_jax.data.sources import folder
from mg_jax.data.sources.clips import scan
from mg_jax.data.sources.folder import PieceSource

TINY = buckets.make_buckets([buckets.Duration(0.5, 100, 4, clip_s=0.5)], 16, aspects=("1:1",))


def open_clips(index, bucket, split="train", **kwargs):
  return PieceSource(index, module.read, split, bucket=bucket, **kwargs)


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
  index = scan(clips(a=12, b=24), TINY, holdout="none")
  source = open_clips(index, TINY[0])
  assert len(source) == 2 and not index.rejected
  clip = source[0]
  assert clip.video.shape == (4, 16, 16, 3) and (clip.frames, clip.fps) == (4, 8)
  assert clip.caption == "caption of a" and clip.key == "a.mp4@0.350"
  np.testing.assert_array_equal(clip.video, source[0].video)
  with pytest.raises(IndexError):
    source[2]


def test_windows_are_spread_and_do_not_overlap(clips):
  index = scan(clips(a=24), TINY, windows=3, holdout="none")
  starts = [piece.start_s for piece in index.pieces]
  assert starts == pytest.approx([0.15, 0.95, 1.75])
  many = scan(clips(a=24), TINY, windows=99, holdout="none").pieces
  assert len(many) == 4 and np.diff([w.start_s for w in many]).min() >= 0.5


def test_tail_holds_out_the_end_of_every_file(clips):
  index = scan(clips(a=24, b=7), TINY, windows=9, holdout="tail")
  train = [w for w in index.pieces if w.split == "train"]
  held = [w for w in index.pieces if w.split == "validation"]
  assert [w.file for w in held] == ["a.mp4"], "b is too short for two clips"
  border = min(w.start_s for w in held)
  assert all(w.start_s + 0.5 <= border + 1e-6 for w in train if w.file == "a.mp4")
  assert border >= 24 / 10 * 0.75 - 0.01
  assert open_clips(index, TINY[0], split="validation")[0].caption == "caption of a"


def test_unusable_files_are_listed_with_reasons(clips, tmp_path, audio_only):
  clips(good=12, short=3)
  (tmp_path / "zero.mp4").write_bytes(b"")
  (tmp_path / "noise.webm").write_bytes(b"x" * 3000)
  audio_only(tmp_path / "sound.mp4")
  (tmp_path / "notes.md").write_text("not a video")
  index = scan(tmp_path, TINY, caption_required=False)
  reasons = {item.file: item.reason for item in index.rejected}
  assert reasons == {
    "short.mp4": "no_bucket",
    "zero.mp4": "empty",
    "noise.webm": "unreadable",
    "sound.mp4": "no_video",
  }
  details = {item.file: item.detail for item in index.rejected}
  assert details["short.mp4"] == "0.30 s fits no bucket; the shortest needs 0.500 s"


@pytest.mark.parametrize("suffix, codec", [
  (".avi", "mpeg4"), (".m4v", "libx264"), (".ts", "libx264"), (".m2ts", "libx264"),
  (".wmv", "wmv2"), (".flv", "flv"), (".3gp", "mpeg4"), (".mkv", "libx264"),
])  # fmt: skip
def test_containers_that_ffmpeg_reads(tmp_path, encode, ramp, suffix, codec):
  """Frame k is grey of the level 10 * (k + 1); those of the middle half second are asked for."""
  encode(tmp_path / f"a{suffix}", ramp(12), codec=codec)
  (tmp_path / "a.txt").write_text("a ramp")
  index = scan(tmp_path, TINY, holdout="none")
  assert not index.rejected, index.rejected
  clip = open_clips(index, TINY[0])[0]
  begin = float(clip.key.split("@")[1])
  expected = [10 * (1 + int((begin + k / 8) * 10 + 1e-3)) for k in range(4)]
  assert np.abs(clip.video.mean((1, 2, 3)) - expected).max() <= 1.5 * 10


@pytest.mark.parametrize("suffix", [".mpg", ".mpeg"])
def test_program_streams_of_mpeg(tmp_path, suffix):
  """These tell their length by the times of their packs, of which a flat picture has one."""
  noise = np.random.default_rng(0).integers(0, 256, (25, 96, 128, 3), dtype=np.uint8)
  with av.open(str(tmp_path / f"a{suffix}"), "w") as container:
    stream = container.add_stream("mpeg2video", rate=25)
    stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
    for rgb in noise:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
    container.mux(stream.encode(None))
  index = scan(tmp_path, TINY, caption_required=False, holdout="none")
  assert open_clips(index, TINY[0])[0].video.shape == (4, 16, 16, 3)


def test_what_is_no_file_is_rejected_by_name(clips, tmp_path):
  clips(good=12)
  (tmp_path / "link.mp4").symlink_to(tmp_path / "nowhere.mp4")
  (tmp_path / "folder.mp4").mkdir()
  index = scan(tmp_path, TINY)
  assert {item.file: item.reason for item in index.rejected} == {
    "link.mp4": "missing", "folder.mp4": "unreadable",
  }  # fmt: skip
  assert [w.file for w in index.pieces] == ["good.mp4"]
  before = folder.content(tmp_path)
  (tmp_path / "link.mp4").unlink()
  assert folder.content(tmp_path) == before, "what gives no clip does not count"


def test_what_is_passed_over_is_counted_once(clips, tmp_path, caplog):
  clips(a=12)
  for name in ("a.png", "b.GIF", "c.gif", "orphan.txt", "rejected.jsonl", ".hidden"):
    (tmp_path / name).write_bytes(b"x")
  (tmp_path / "more").mkdir()
  scan(tmp_path, TINY)
  assert caplog.text.count("skipped") == 1
  assert "skipped 2 .gif, 1 .png, 1 .txt, 1 subfolders" in caplog.text
  (tmp_path / "a.mp4").unlink()
  with pytest.raises(UserError, match="has no video; .* it has 2 .gif, 1 .png"):
    scan(tmp_path, TINY)


RATES = [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25)]


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_clip_of_exactly_the_frames_asked_for_fits(tmp_path, ramp, rate, suffix):
  """Whether the rate is asked for exactly or in two decimals, as people write it."""
  with av.open(str(tmp_path / f"a{suffix}"), "w") as container:
    stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
    stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
    for rgb in ramp(16):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
    container.mux(stream.encode(None))
  for asked in (float(rate), round(float(rate), 2), round(float(rate))):
    choices = [_bucket(16, asked)]
    index = scan(tmp_path, choices, caption_required=False, holdout="none")
    assert [w.start_s for w in index.pieces] == pytest.approx([0.0], abs=1e-3)
    clip = open_clips(index, choices[0])[0]
    assert np.abs(clip.video.mean((1, 2, 3)) - 10 * (np.arange(16) + 1)).max() <= 12
  with pytest.raises(UserError, match=r"\d s fits no bucket; the shortest needs 0\.\d{3} s"):
    scan(tmp_path, [_bucket(17, float(rate))], caption_required=False)


def _bucket(frames, fps):
  return buckets.Bucket(buckets.Duration(frames / fps, 100, frames, clip_s=frames / fps), 16, 16)


def test_two_clips_of_exactly_half_a_file_share_no_frame(tmp_path, encode, ramp):
  """Asked for at 23.976, the halves of 16 frames at 24 a second are half a frame too short."""
  encode(tmp_path / "a.mp4", ramp(16), fps=24, pts=[k / 24 for k in range(16)])
  choices = [_bucket(8, 23.976)]
  index = scan(tmp_path, choices, windows=9, caption_required=False, holdout="tail")
  assert [w.split for w in index.pieces] == ["train", "validation"]
  (train,), (held,) = (
    open_clips(index, choices[0], split).pieces for split in ("train", "validation")
  )
  assert held.start_s >= train.start_s + 8 / 23.976
  levels = [
    set(np.rint(open_clips(index, choices[0], s)[0].video.mean((1, 2, 3)) / 10).tolist())
    for s in ("train", "validation")
  ]
  assert not levels[0] & levels[1]
  whole = scan(tmp_path, choices, windows=9, caption_required=False, holdout="none")
  assert np.diff([w.start_s for w in whole.pieces]) == pytest.approx([8 / 23.976])


IMAGES = buckets.make_buckets(buckets.IMAGE_DURATIONS, 32)


@pytest.fixture
def stills(tmp_path):
  """Images of three shapes with captions, one of them too small."""
  for k, (name, size) in enumerate({
    "square.png": (40, 40), "wide.jpg": (64, 36), "tall.webp": (36, 64), "icon.png": (8, 8),
  }.items()):  # fmt: skip
    Image.new("RGB", size, (50 * k, 100, 100)).save(tmp_path / name, quality=100)
    (tmp_path / name).with_suffix(".txt").write_text(f"caption of {name}")
  return tmp_path


def test_images_go_to_the_bucket_of_their_shape(stills):
  (stills / "text.png").write_text("not an image")
  index = scan(stills, IMAGES, kind="image", caption_required=False, holdout="none")
  assert {w.file: w.bucket.name for w in index.pieces} == {
    "square.png": "1x32x32", "tall.webp": "1x48x32", "wide.jpg": "1x32x48",
  }  # fmt: skip
  reasons = {item.file: (item.reason, item.detail) for item in index.rejected}
  assert reasons["icon.png"] == ("too_small", "8x8 pixels would be enlarged 4.0 times for 32x32")
  assert reasons["text.png"][0] == "unreadable"
  clip = open_clips(index, IMAGES[0])[0]
  assert clip.video.shape == (1, 32, 32, 3) and (clip.frames, clip.fps) == (1, 1.0)
  assert (clip.caption, clip.key) == ("caption of square.png", "square.png")
  assert clip.video[0, 0, 0].tolist() == [0, 100, 100]


def test_images_are_held_out_by_file_and_never_in_both_splits(stills):
  for k in range(30):
    Image.new("RGB", (32, 32)).save(stills / f"more{k}.png")
  for holdout in ("file", "tail"):
    index = scan(stills, IMAGES, kind="image", caption_required=False, holdout=holdout)
    held = {w.file for w in index.pieces if w.split == "validation"}
    assert held and held == {w.file for w in index.pieces if folder.held_out(w.file)}
  index = scan(stills, IMAGES, kind="image", caption_required=False, holdout="none")
  assert all(w.split == "train" for w in index.pieces)


def test_an_image_that_breaks_after_the_scan_is_replaced(stills):
  Image.new("RGB", (32, 32), (9, 9, 9)).save(stills / "other.png")
  (stills / "other.txt").write_text("other")
  index = scan(stills, IMAGES, kind="image", holdout="none")
  source = open_clips(index, IMAGES[0])
  broken = next(k for k, w in enumerate(source.pieces) if w.file == "square.png")
  (stills / "square.png").write_bytes((stills / "square.png").read_bytes()[:60])
  assert source[broken].caption == "other"
  assert [bad.name for bad in source.quarantine.records] == ["square.png"]


def test_a_folder_of_both_is_read_by_kind(stills, ramp):
  video.write_video(stills / "clip.mp4", np.stack(ramp(12)), fps=10)
  (stills / "clip.txt").write_text("a clip")
  rows = [json.dumps({"file": f, "caption": f"row {f}"}) for f in ("clip.mp4", "wide.jpg")]
  (stills / "captions.jsonl").write_text("\n".join(rows))
  clips = scan(stills, TINY, holdout="none")
  images = scan(stills, IMAGES, kind="image", holdout="none")
  assert {w.file: w.caption.text for w in clips.pieces} == {"clip.mp4": "row clip.mp4"}
  assert len(images.pieces) == 3 and "row wide.jpg" in {w.caption.text for w in images.pieces}
  assert folder.content(stills) != folder.content(stills, kind="image")


def test_images_of_a_folder_that_has_none(clips, tmp_path):
  with pytest.raises(UserError, match=r"has no image; .*\.webp there; it has 1 \.mp4"):
    scan(clips(a=6), IMAGES, kind="image")


def test_bombs_make_no_noise_but_a_row(stills, recwarn):
  data = bytearray((stills / "square.png").read_bytes())
  data[16:24] = (12_000).to_bytes(4, "big") * 2
  data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
  (stills / "bomb.png").write_bytes(bytes(data))
  index = scan(stills, IMAGES, kind="image", caption_required=False, holdout="none")
  assert {"bomb.png": "too_large"}.items() <= {i.file: i.reason for i in index.rejected}.items()
  assert not recwarn.list


def test_captions_from_one_file(clips, tmp_path):
  clips(a=6, b=6)
  (tmp_path / "a.txt").unlink()
  rows = [{"file": "a.mp4", "caption": "from the table 🐕"}, {"file": "../../x", "caption": "odd"}]
  text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
  (tmp_path / "captions.jsonl").write_text(text)
  captions = {w.file: w.caption.text for w in scan(tmp_path, TINY).pieces}
  assert captions == {"a.mp4": "from the table 🐕", "b.mp4": "caption of b"}
  for line in ("{", "[]", '{"file": "a.mp4"}', '{"file": 1, "caption": "x"}'):
    (tmp_path / "captions.jsonl").write_text(text + line)
    with pytest.raises(UserError, match="line 4"):
      scan(tmp_path, TINY)


def test_missing_caption_says_how_to_give_it(clips, tmp_path):
  clips(a=6, b=6)
  (tmp_path / "b.txt").unlink()
  with pytest.raises(UserError, match=r"b\.mp4 has no caption.*b\.txt.*captions\.jsonl"):
    scan(tmp_path, TINY)
  loose = scan(tmp_path, TINY, caption_required=False)
  assert [w.caption.text for w in loose.pieces] == ["caption of a", ""]


def test_folders_that_cannot_serve(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="no such folder"):
    scan(tmp_path / "nothing", TINY)
  with pytest.raises(UserError, match="has no video"):
    scan(tmp_path, TINY)
  (tmp_path / "a.mp4").write_bytes(b"")
  with pytest.raises(UserError, match=r"none of 1 videos.*a\.mp4"):
    scan(tmp_path, TINY, caption_required=False)
  with pytest.raises(UserError, match="cannot be read"):
    scan(tmp_path / "a.mp4", TINY)

  def denied(path):
    raise PermissionError(13, "Permission denied", path)

  monkeypatch.setattr(os, "listdir", denied)
  with pytest.raises(UserError, match="Permission denied"):
    scan(tmp_path, TINY)


def test_bucket_without_clips_names_those_that_have(clips):
  index = scan(clips(a=6), TINY, holdout="none")
  other = buckets.make_buckets(buckets.TINY_DURATIONS, 32)[0]
  with pytest.raises(UserError, match=r"16x32x32.*4x16x16"):
    open_clips(index, other)
  with pytest.raises(UserError, match="validation"):
    open_clips(index, TINY[0], split="validation")


def test_real_clips_into_tiny_buckets(media):
  choices = buckets.make_buckets(buckets.TINY_DURATIONS, 32)
  index = scan(media / "video", choices, windows=4, caption_required=False, holdout="tail")
  assert not index.rejected
  bucket = next(iter(index.buckets()))
  assert bucket.name == "16x32x48"
  clip = open_clips(index, bucket)[0]
  assert clip.video.shape == (16, 32, 48, 3) and clip.fps == 8
