"""Features of folders: which pictures count, what is written, and the command over them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mg_jax.core.errors import UserError
from mg_jax.data.media.containers import MediaError
from mg_jax.data.media.video import read_frames, write_video
from mg_jax.evaluation import features
from mg_jax.evaluation.features import pictures, write_features
from mg_jax.metrics.frechet import Moments, distance, frechet
from mg_jax.models.encoders.vision import FrozenVision
from tests.models.encoders.vision_test import save


class Means:
  """In place of a tower: the mean colour of each picture."""

  size, calls = 8, ()

  def __call__(self, frames):
    assert frames.dtype == np.uint8 and frames.shape[1:] == (8, 8, 3)
    self.calls = (*self.calls, len(frames))
    return frames.mean((1, 2)).astype(np.float16)

  def identity(self):
    return "0123456789abcdef0123"


def ramp(path, frames, fps=10):
  """A video whose frame k has the grey level 40 + 4 k."""
  levels = 40 + 4 * np.arange(frames)
  clip = np.broadcast_to(levels[:, None, None, None], (frames, 16, 24, 3)).astype(np.uint8)
  write_video(path, clip, fps=fps, crf=0)


def still(path, colour, size=(12, 20)):
  Image.fromarray(np.broadcast_to(np.uint8(colour), (*size, 3)).copy()).save(path)


@pytest.mark.parametrize("frames, asked, taken", [
  (40, 4, [5, 15, 25, 35]), (9, 3, [1, 4, 7]), (5, 8, [0, 1, 2, 3, 4]), (1, 8, [0]), (20, 1, [10]),
])  # fmt: skip
def test_frames_are_those_in_the_middle_of_equal_parts(tmp_path, frames, asked, taken):
  ramp(tmp_path / "a.mp4", frames)
  found = pictures(tmp_path / "a.mp4", frames=asked, size=(8, 8))
  every = np.stack(list(read_frames(tmp_path / "a.mp4", size=(8, 8))))
  assert len(np.unique(every.mean((1, 2, 3)))) == frames
  np.testing.assert_array_equal(found, every[taken])


def test_a_folder_becomes_rows_in_the_order_of_its_names(tmp_path):
  source = tmp_path / "in"
  source.mkdir()
  still(source / "b.png", (10, 20, 30))
  still(source / "a.jpg", (200, 100, 50))
  ramp(source / "c.mp4", 8)
  for name in ("contact_sheet.png", ".hidden.png"):
    still(source / name, (255, 255, 255))
  (source / "c.mp4.json").write_text("{}")
  path = write_features(source, tmp_path / "out" / "f.npy", tower=Means(), frames=2)
  rows = np.load(path)
  assert rows.dtype == np.float32
  wanted = [[200, 100, 50], [10, 20, 30], [48, 48, 48], [64, 64, 64]]
  np.testing.assert_allclose(rows, wanted, atol=3)
  assert json.loads(path.with_suffix(".json").read_text()) == {
    "network": "CLIP vision tower 0123456789abcdef", "source": str(source), "files": 3, "frames": 2,
  }  # fmt: skip


def test_many_pictures_are_not_held_at_once(tmp_path, monkeypatch):
  for number in range(3):
    ramp(tmp_path / f"{number}.mp4", 40)
  tower = Means()
  monkeypatch.setattr(features, "_HELD", 50)
  write_features(tmp_path, tmp_path / "f.npy", tower=tower, frames=30)
  assert tower.calls == (60, 30)


def test_what_gives_no_features_is_refused(tmp_path):
  still(tmp_path / "a.png", (1, 2, 3))
  for source, out, frames, words in (
    (tmp_path / "nowhere", "f.npy", 8, "cannot be read"),
    (tmp_path / "a.png", "f.npy", 8, "cannot be read"),
    (tmp_path, "f.npz", 8, "saved as .npy"),
    (tmp_path, "f.npy", 0, "take at least 1"),
  ):
    with pytest.raises(UserError, match=words):
      write_features(source, tmp_path / out, tower=Means(), frames=frames)
  (tmp_path / "a.png").write_bytes(b"no picture")
  with pytest.raises(MediaError, match="a.png"):
    write_features(tmp_path, tmp_path / "f.npy", tower=Means())
  (tmp_path / "a.png").unlink()
  with pytest.raises(UserError, match="holds no images or videos"):
    write_features(tmp_path, tmp_path / "f.npy", tower=Means())
  assert not (tmp_path / "f.npy").exists()


def test_a_stopped_run_leaves_no_record_of_old_features(tmp_path, monkeypatch):
  still(tmp_path / "a.png", (1, 2, 3))
  path = write_features(tmp_path, tmp_path / "f.npy", tower=Means())

  def fail(*_):
    raise OSError

  monkeypatch.setattr(np, "save", fail)
  with pytest.raises(OSError):
    write_features(tmp_path, path, tower=Means())
  assert not path.with_suffix(".json").exists()


def test_the_command_compares_folders_and_files(tmp_path, run_main):
  save(tmp_path / "clip")
  rng = np.random.default_rng(0)
  for name, count, high in (("real", 12, 256), ("made", 9, 90)):
    (tmp_path / name).mkdir()
    for number in range(count):
      still(tmp_path / name / f"{number}.png", rng.integers(0, high, 3))
  real, made, out = (str(tmp_path / name) for name in ("real", "made", "out"))
  tower = f"--features={tmp_path / 'clip'}"
  printed = run_main("frechet", f"--reference={real}", f"--samples={made}", tower, f"--out={out}")
  a, b = (np.load(f"{out}/{name}.npy") for name in ("reference", "samples"))
  assert a.shape == (12, 6) and b.shape == (9, 6)
  moments = Moments(6), Moments(6)
  for one, rows in zip(moments, (a, b), strict=True):
    one.add(rows)
  value = distance(*moments)
  assert printed == f"Frechet distance {value:.6g}: 12 and 9 rows of 6 dimensions\n"
  pixels = pictures(f"{real}/0.png", frames=1, size=(8, 8))
  np.testing.assert_array_equal(FrozenVision(tmp_path / "clip")(pixels)[0], a[0])
  # The features of the reference serve again, and one network is not compared with another.
  files = f"--reference={out}/reference.npy", f"--samples={out}/samples.npy"
  assert run_main("frechet", *files) == printed
  Path(f"{out}/samples.json").write_text('{"network": "another"}')
  with pytest.raises(UserError, match="compute both with one network"):
    run_main("frechet", *files)


def test_the_command_names_the_distance_of_a_published_network(tmp_path, run_main):
  rng = np.random.default_rng(0)
  paths = []
  for name in ("a", "b"):
    paths.append(tmp_path / f"{name}.npy")
    np.save(paths[-1], rng.standard_normal((50, 4)))
    (tmp_path / f"{name}.json").write_text('{"network": "vggish-audioset"}')
  value = frechet(*paths).value
  printed = run_main("frechet", f"--reference={paths[0]}", f"--samples={paths[1]}")
  assert printed == f"FAD {value:.6g}: 50 and 50 rows of 4 dimensions\n"


@pytest.mark.parametrize("arguments, words", [
  ((), "give --reference and --samples"),
  (("--reference=a.npy",), "give --reference and --samples"),
  (("--reference=.", "--samples=a.npy"), "--reference is a folder; give --features"),
  (("--reference=a.npy", "--samples=.", "--features=x"), "--samples is a folder; give --features"),
  (("--reference=a.npy", "--samples=b.npy"), "a.npy is not a valid .npy"),
  (("--reference=a.npy", "--samples=.", "--features=x", "--out=y"), "x"),
])  # fmt: skip
def test_mistakes_of_the_command_are_one_sentence(run_main, arguments, words):
  with pytest.raises(UserError, match=words):
    run_main("frechet", *arguments)
