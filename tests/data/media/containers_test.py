"""Files of any name and kind, and processes that run out of memory or of file descriptors."""

import os
import pathlib
import subprocess
import sys
import textwrap

import av
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media import audio, muxing, video
from mg_jax.data.media import containers as media
from mg_jax.data.media.containers import MediaError

ROOT = pathlib.Path(__file__).resolve().parents[3]
NAMES = (
  "12:30 take.mp4", "shot:1.mp4", "-dash.mp4", "a%d.mp4", "a%03d.mp4", "pipe:.mp4", "pipe:1.mp4",
  "concat:a|b.mp4", "|x.mp4", "file:x.mp4", "http:x.mp4", "a?b#c.mp4", "[1] 'é\".mp4", " .mp4",
  os.fsdecode(b"bad\xff.mp4"), 240 * "n" + ".mp4",
)  # fmt: skip


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_file_means_that_file(tmp_path, monkeypatch, ramp, name, relative):
  monkeypatch.chdir(tmp_path)
  path = name if relative else tmp_path / name
  video.write_video(path, np.stack(ramp(6)), fps=10)
  muxing.add_sound(path, np.full(9600, 0.5, np.float32))
  assert os.listdir(tmp_path) == [name]
  assert video.probe(path).duration_s == pytest.approx(0.6)
  assert len(video.read_clip(path, start_s=0.2, fps=10, frames=3, size=(8, 8))) == 3
  assert np.abs(audio.read_audio(path)).max() > 0.3
  wave = str(path).removesuffix(".mp4") + ".wav"
  audio.write_wav(wave, np.ones(9, np.float32))
  assert len(audio.read_audio(wave)) == 9


def test_every_file_is_opened_through_one_place():
  found = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "mg_jax").rglob("*.py") if "av.open(" in path.read_text(encoding="utf-8")
  ]  # fmt: skip
  assert found == ["mg_jax/data/media/containers.py"]


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
  os.mkfifo(tmp_path / "pipe.mp4")
  (tmp_path / "folder.mp4").mkdir()
  (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
  for name, reason in (
    ("pipe.mp4", "unreadable"), ("folder.mp4", "unreadable"), ("gone.mp4", "missing"),
  ):  # fmt: skip
    for call in (video.probe, audio.probe, audio.read_audio):
      with pytest.raises(MediaError) as caught:
        call(tmp_path / name)
      assert caught.value.reason == reason


def test_tags_of_any_bytes_are_no_obstacle(tmp_path, movie):
  path = movie(tmp_path / "a.mp4")
  data = path.read_bytes()
  assert b"VideoHandler" in data
  path.write_bytes(data.replace(b"VideoHandler", b"\xff\xfe\x80eoHandler"))
  assert video.probe(path).duration_s == pytest.approx(2.0)


def test_a_codec_that_is_not_known_is_told(tmp_path, movie):
  path = movie(tmp_path / "a.mkv", sound="flac")
  data = path.read_bytes()
  data = data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/ABC").replace(b"A_FLAC", b"A_FLOP")
  path.write_bytes(data)
  for call in (video.probe, audio.probe, audio.read_audio):
    with pytest.raises(MediaError) as caught:
      call(path)
    assert caught.value.reason == "unreadable"


def test_bad_files_leave_nothing_open(tmp_path, movie):
  good = movie(tmp_path / "good.mp4", sound="aac")
  data = good.read_bytes()
  bad = [tmp_path / f"{k}.mp4" for k in range(4)]
  contents = b"x" * 4000, data[: len(data) // 2], b"", data[:-50]
  for path, content in zip(bad, contents, strict=True):
    path.write_bytes(content)
  bad += [tmp_path / "missing.mp4", tmp_path]
  count = len(os.listdir("/proc/self/fd"))
  failures = 0
  for path in bad * 35:
    for call in (video.probe, lambda p: next(video.read_frames(p)), audio.read_audio):
      try:
        call(path)
      except MediaError:
        failures += 1
  next(video.read_frames(good))  # and one that is left before its end
  assert failures > 200 and len(os.listdir("/proc/self/fd")) == count


@pytest.mark.parametrize("error, words", [
  (MemoryError(), "not enough memory"), (OSError(12, "x"), "not enough memory"),
  (OSError(24, "x"), "too many files"), (av.error.MemoryError(12, "x"), "not enough memory"),
])  # fmt: skip
def test_a_lack_of_the_process_is_no_fault_of_the_file(tmp_path, movie, error, words):
  path = movie(tmp_path / "a.mp4")
  for context, target in ((media.opened, path), (media.created, tmp_path / "b.mp4")):
    with pytest.raises(UserError, match=words) as caught, context(target):
      raise error
    assert not isinstance(caught.value, MediaError)
  assert os.listdir(tmp_path) == ["a.mp4"]


# Writes two shards of the clips of a film, the second under a limit.
_LIMITED = """
import resource, sys
import av, numpy as np
from array_record.python import array_record_module
from mg_jax.core.errors import UserError
from mg_jax.data import records
from mg_jax.data.media import video

limit, path, folder = sys.argv[1:]
writer = records.RecordWriter(folder, shards=2)

def clips(count, open_files=()):
  for k in range(count):
    yield {"video": video.read_clip(path, start_s=0, fps=10, frames=20, size=(720, 1280))}

writer.write_shard(0, clips(1))
held = []
if limit == "memory":
  used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20),) * 2)

def starving():
  yield from clips(0 if limit == "memory" else 1)
  if limit == "files":
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
      while True:
        held.append(open("/dev/null"))
    except OSError:
      pass
  yield from clips(1)

try:
  writer.write_shard(1, starving())
  writer.finish()
except UserError as error:
  held.clear()
  print(error)
  sys.exit(2)
"""


@pytest.mark.parametrize("limit, words", [
  ("memory", "not enough memory"), ("files", "too many files open"),
])  # fmt: skip
def test_a_process_at_its_limit_says_so_and_commits_no_shard(tmp_path, movie, limit, words):
  path = movie(tmp_path / "a.mp4")
  script = tmp_path / "write.py"
  script.write_text(textwrap.dedent(_LIMITED))
  done = subprocess.run(
    [sys.executable, str(script), limit, str(path), str(tmp_path / "records")],
    capture_output=True, text=True, timeout=120,
    env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
  )  # fmt: skip
  assert done.returncode == 2, done.stderr[-2000:]
  assert words in done.stdout and done.stdout.count("\n") == 1
  names = sorted(os.listdir(tmp_path / "records"))
  assert names == ["shard-00000-of-00002.array_record", "shard-00000-of-00002.json"]
