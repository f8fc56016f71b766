"""A disk that fills up, at every place that writes: one sentence, at the end, and nothing lost."""

import errno
import os
import subprocess
import time

import pytest

from mg_jax.core.errors import UserError, refusal
from mg_jax.data import atomic
from mg_jax.train.workdir import prepare
from mg_jax.train.writer import MetricWriter, read_metrics
from tests.train import toyrun


@pytest.fixture
def small_disk(tmp_path):
  """small_disk(kib, at=): a folder on a disk of its own, of that size."""
  mounted = []

  def make(kib, *, at="disk", options=""):
    folder = tmp_path / at
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k{options}", "tmpfs", str(folder)]
    try:
      done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
      pytest.skip("there is no mount command here")
    if done.returncode:
      pytest.skip(f"small disks cannot be mounted here: {done.stderr.strip()}")
    mounted.append(folder)
    return folder

  yield make
  for folder in mounted:
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _sentence(code, err):
  """The last line of a run that failed as it should."""
  assert code == 2, "\n".join(err)
  assert not any("Traceback" in line or "Error" in line.split(":")[0] for line in err), err
  assert [line for line in err if line.startswith("error: ")] == err[-1:], err
  return err[-1]


def _steps(workdir):
  return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def test_a_disk_that_fills_up_during_a_save_keeps_the_older_step(small_disk):
  disk = small_disk(8192)
  told = {"hidden": 256, "train": {"checkpoint_every": 2, "keep": 9}, "fill": str(disk)}
  full = {"fault_at": 3, "after": str(disk / "run/checkpoints/2"), "leave": 100_000}
  code, err = toyrun.run(disk / "run", **told, **full)
  sentence = _sentence(code, err)
  assert sentence == (
    f"error: step 4 cannot be saved to {disk}/run/checkpoints, the disk is full; the newest good "
    "checkpoint is step 2, free some space and run the same command again"
  )
  rest = [line for line in err if not line.startswith(("toy: ", "step ", "compil"))]
  assert len(rest) < 8, "what the threads said is kept short"
  assert _steps(disk / "run") == [2], "the half-written one is gone, and its space is back"
  (disk / "filler").unlink()
  code, err = toyrun.run(disk / "run", **told)
  assert code == 0 and "step 2 of 6" in err[0] and _steps(disk / "run") == [2, 4, 6]


@pytest.mark.slow
def test_a_full_disk_during_metrics_and_bundles_names_the_file_and_the_step(small_disk):
  disk = small_disk(8192)
  told = {"train": {"checkpoint_every": 2}, "fill": str(disk)}
  full = {"fault_at": 3, "after": str(disk / "run/checkpoints/2")}
  code, err = toyrun.run(disk / "run", **told, **full)
  sentence = _sentence(code, err)
  assert "the disk is full; the newest good checkpoint is step 2, free some space" in sentence
  (disk / "filler").unlink()
  told["train"] = {"checkpoint_every": 100, "log_every": 100}
  code, err = toyrun.run(disk / "run", **told, fault_at=5, poison=[6], steps=8)
  sentence = _sentence(code, err)
  assert "bundles/step_00000007_process_0.json cannot be written, the disk is full; " in sentence
  assert not (disk / "run/bundles").exists() or not list((disk / "run/bundles").iterdir())
  (disk / "filler").unlink()
  assert toyrun.run(disk / "run", train={"checkpoint_every": 2})[0] == 0
  assert [line["step"] for line in read_metrics(disk / "run")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_files_above_a_limit_fail_the_same_way(tmp_path):
  # Where small disks cannot be mounted this still shows that a failed save is told well.
  told = {"hidden": 512, "train": {"checkpoint_every": 2}, "limit": 20_000, "fault_at": 3}
  code, err = toyrun.run(tmp_path / "run", **told, after=str(tmp_path / "run/checkpoints/2"))
  sentence = _sentence(code, err)
  assert "is larger than allowed here; the newest good checkpoint is step 2, raise" in sentence
  assert _steps(tmp_path / "run") == [2]


def test_a_read_only_disk_is_told_before_anything_is_traced(small_disk):
  disk = small_disk(1024, options=",ro")
  with pytest.raises(UserError, match="cannot be written, the file system is read-only; mount it"):
    prepare(disk / "run")


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_is_told_with_the_last_step(small_disk, tmp_path):
  disk = small_disk(8192, at="run/checkpoints")  # the rest of the workdir stays writable
  begin = time.monotonic()
  code, err = toyrun.run(
    tmp_path / "run", train={"checkpoint_every": 2}, fault_at=3, readonly=str(disk),
    after=str(disk / "2"),
  )  # fmt: skip
  assert "is read-only; the newest good checkpoint is step 2, mount it" in _sentence(code, err)
  assert time.monotonic() - begin < 90, "threads that wait for each other do not keep the process"
  subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
  assert toyrun.run(tmp_path / "run")[0] == 0 and _steps(tmp_path / "run") == [2, 6]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_what_disks_refuse_is_understood_in_any_form(code):
  text = os.strerror(code)
  for error in (
    OSError(code, text, "a/b.npy"),
    OSError(f"Failed to write 927 bytes: {text} [os_error_code='{code}']"),
    RuntimeError(f"Error while serializing: I/O error: {text} (os error {code})"),
    ValueError(f"RESOURCE_EXHAUSTED: Error writing local file: {text}"),
  ):
    outer = Exception("save failed")
    outer.__cause__ = error
    for e in (error, outer):
      assert refusal(e).code == code and refusal(e).remedy
  assert refusal(OSError(code, text, "a/b.npy")).file == "a/b.npy"
  assert refusal(ValueError("RESOURCE_EXHAUSTED: out of memory on the device")) is None
  assert refusal(FileNotFoundError(errno.ENOENT, "No such file", "a")) is None


def test_every_writer_names_its_file_and_leaves_none(small_disk):
  disk = small_disk(64)

  def rust(path):
    raise RuntimeError("I/O error: No space left on device (os error 28)")

  for write in (lambda path: path.write_bytes(bytes(100_000)), rust):
    with pytest.raises(OSError) as caught, atomic.replacing(disk / "out/clip.mp4") as partial:
      write(partial)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == f"{disk}/out/clip.mp4"
  assert not list((disk / "out").iterdir())
  with pytest.raises(FileNotFoundError), atomic.replacing(disk / "out/b.mp4"):
    open(disk / "source.mp4")


def test_metrics_name_their_file_and_close_without_a_second_error(tmp_path, monkeypatch):
  writer = MetricWriter(tmp_path)
  writer.write(1, {"a": 1.0})
  os.symlink("/dev/full", tmp_path / "full")
  writer._file.close()
  writer._file = open(tmp_path / "full", "ab", buffering=0)
  with pytest.raises(OSError) as caught:
    writer.write(2, {"a": 2.0})
  assert refusal(caught.value).file == str(tmp_path / "full")
  writer.close()
