"""Clips in a notebook: shown below a cell, written to a file."""

import base64
import dataclasses
import os
import pathlib
import tempfile

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data import atomic
from mg_jax.data.media.video import write_video


@dataclasses.dataclass(frozen=True)
class Shown:
  """Clips as a notebook displays them, playing in a loop, or an image as a still.

  Attributes:
    pages: HTML of each.
  """

  pages: tuple[str, ...]

  def _repr_html_(self) -> str:
    return "".join(self.pages)


def show(videos: np.ndarray, *, fps: float = 8.0, height: int = 256) -> Shown:
  """Displays clips, as the last expression of a cell.

  Args:
    videos: uint8 (N, T, H, W, 3), as a pipeline returns them, or one of them; T = 1 is an image.
    fps: frames per second.
    height: of each on the page, in pixels.

  Raises:
    UserError: for an array that holds no clips.
  """
  videos = _clips(videos)
  kind, tag = ("png", "img") if videos.shape[1] == 1 else ("mp4", "video")
  pages = []
  with tempfile.TemporaryDirectory() as folder:
    for number, video in enumerate(videos):
      path = pathlib.Path(folder, f"{number}.{kind}")
      save(video, path, fps=fps)
      data = base64.b64encode(path.read_bytes()).decode()
      source = f"data:{'image' if tag == 'img' else 'video'}/{kind};base64,{data}"
      playing = "" if tag == "img" else " autoplay loop muted controls"
      pages.append(f'<{tag} src="{source}" height="{height}"{playing}></{tag}>')
  return Shown(tuple(pages))


def save(video: np.ndarray, path: str | os.PathLike[str], *, fps: float = 8.0) -> None:
  """Writes a clip as mp4, or an image as png.

  Args:
    video: uint8 (T, H, W, 3), or (1, T, H, W, 3); an image has T = 1.
    path: a .mp4 or, for an image, a .png; an existing file is replaced.
    fps: frames per second.

  Raises:
    UserError: for an array that holds no clip, several clips, or a path of another kind.
  """
  clips = _clips(video)
  if len(clips) > 1:
    raise UserError(f"there are {len(clips)} clips for {path}; save one at a time")
  suffix, image = pathlib.Path(path).suffix.lower(), clips.shape[1] == 1
  if suffix != ".mp4" and not (image and suffix == ".png"):
    raise UserError(f"{path}: a clip is saved as .mp4, an image as .png or .mp4")
  if suffix == ".mp4":
    write_video(path, clips[0], fps=fps)
    return
  from PIL import Image

  with atomic.replacing(path) as partial:
    Image.fromarray(clips[0, 0]).save(partial, format="png")


def _clips(videos: np.ndarray) -> np.ndarray:
  """Clips uint8 (N, T, H, W, 3)."""
  array = np.asarray(videos)
  array = array[None] if array.ndim == 4 else array
  if array.dtype != np.uint8 or array.ndim != 5 or array.shape[-1] != 3 or not array.size:
    raise UserError(
      f"{array.dtype} of shape {np.shape(videos)} are no clips; give uint8 (N, T, H, W, 3)"
    )
  return array
