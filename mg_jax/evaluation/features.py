"""Features of a folder of images and videos by a frozen vision tower, for `metrics.frechet`.

An image gives one row. A video gives `frames` rows, or fewer if it is shorter: it is divided into
equal parts, and the middle frame of each is taken, so rows of one video are not independent. Images
are scaled to cover the tower's square input and centre-cropped; rows are unit-norm
(`models.encoders.vision`). Contact sheets among generated clips are skipped.

a folder -> NAME.npy, float32 (N, E), and NAME.json {"network", "source", "files", "frames"}
"""

import os
import pathlib

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.progress import track
from mg_jax.data import atomic
from mg_jax.data.media import files as mediafiles
from mg_jax.data.media import stills, video
from mg_jax.models.encoders.vision import FrozenVision
from mg_jax.sampling.outputs import SHEET

FRAMES = 8
_HELD = 256  # approximate number of images in memory at once


def write_features(
  source: str | os.PathLike[str],
  target: str | os.PathLike[str],
  *,
  tower: FrozenVision,
  frames: int = FRAMES,
) -> pathlib.Path:
  """Computes the features of all images and videos of a folder; returns the file of features.

  Args:
    source: the folder; subfolders are not read.
    target: the .npy, overwritten along with its .json.
    tower: the network.
    frames: rows per video.

  Raises:
    UserError: if the folder holds no images or videos, or one of them cannot be read.
  """
  if frames < 1:
    raise UserError(f"{frames} frames per video give no features; take at least 1")
  target, paths = pathlib.Path(target), _files(source)
  if target.suffix != ".npy":
    raise UserError(f"{target} cannot be written: features are saved as .npy")
  rows, held = [], []
  for path in track(paths, "features"):
    held.append(pictures(path, frames=frames, size=(tower.size, tower.size)))
    if sum(map(len, held)) >= _HELD:
      rows.append(tower(np.concatenate(held)))
      held = []
  if held:
    rows.append(tower(np.concatenate(held)))
  record = target.with_suffix(".json")
  record.unlink(missing_ok=True)  # an old one must not describe new features
  with atomic.replacing(target) as partial, open(partial, "wb") as file:
    np.save(file, np.concatenate(rows).astype(np.float32))
  network = f"CLIP vision tower {tower.identity()[:16]}"
  about = {"source": os.fspath(source), "files": len(paths), "frames": frames}
  atomic.write_json(record, about | {"network": network})
  return target


def pictures(path: str | os.PathLike[str], *, frames: int, size: tuple[int, int]) -> np.ndarray:
  """The frames uint8 (N, H, W, 3) of a file: one of an image, at most `frames` of a video."""
  if mediafiles.is_still(os.fspath(path)):
    return stills.read(path, size=size)[None]
  info = video.probe(path)
  count = max(1, min(frames, round(info.duration_s * info.fps)))
  part_s = info.duration_s / count
  return video.read_clip(path, start_s=part_s / 2, fps=1 / part_s, frames=count, size=size)


def _files(source: str | os.PathLike[str]) -> list[pathlib.Path]:
  ends = (*stills.SUFFIXES, *mediafiles.VIDEO_SUFFIXES)
  try:
    paths = sorted(
      path for path in pathlib.Path(source).iterdir()
      if path.name.lower().endswith(ends) and not path.name.startswith(".") and path.name != SHEET
    )  # fmt: skip
  except OSError as error:
    raise UserError(f"{source} cannot be read ({error.strerror}); give another folder") from error
  if not paths:
    raise UserError(f"{source} holds no images or videos; give files ending in {', '.join(ends)}")
  return paths
