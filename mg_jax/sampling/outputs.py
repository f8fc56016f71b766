"""Generated clips on disk: one file per prompt, a record beside it, a contact sheet over all.

The record, a small JSON, is written after the clip and says what it was made of. A later run over
the same prompts skips the clips whose record matches, so an interrupted run picks up where it was.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.atomic import write_json
from mg_jax.data.images import contact_sheet, write_png
from mg_jax.data.video import read_clip, write_video
from mg_jax.sampling.pipeline import Settings, TextToVideo
from mg_jax.sampling.prompts import Prompt

SHEET = "contact_sheet.png"
SHEET_ROWS = 64
SHEET_COLUMNS = 8


def clip_path(folder: str | os.PathLike[str], prompt: Prompt, settings: Settings) -> pathlib.Path:
  """Where the clip of a prompt lies: .mp4, or .png when it is one frame."""
  return pathlib.Path(folder) / f"{prompt.name}{'.png' if settings.frames == 1 else '.mp4'}"


def generate(
  pipeline: TextToVideo,
  prompts: Sequence[Prompt],
  folder: str | os.PathLike[str],
  settings: Settings,
  *,
  overwrite: bool = False,
) -> Iterator[tuple[Prompt, np.ndarray]]:
  """Generates and saves the clips that are not there yet, yielding each as it is saved.

  Args:
    pipeline: what generates.
    prompts: all prompts of the run.
    folder: for the outputs, made if missing.
    settings: as resolved by the pipeline.
    overwrite: makes every clip anew.

  Raises:
    UserError: when a clip of the same name was made otherwise, before anything is generated.
  """
  recipe = {"origin": pipeline.origin, "settings": dataclasses.asdict(settings)}
  left = [p for p in prompts if overwrite or not _is_done(folder, p, settings, recipe)]
  for i in range(0, len(left), pipeline.batch):
    chunk = left[i : i + pipeline.batch]
    videos = pipeline(
      [p.text for p in chunk], seeds=[p.seed for p in chunk], **dataclasses.asdict(settings)
    )
    for prompt, video in zip(chunk, videos, strict=True):
      _save(folder, prompt, video, settings, recipe)
      yield prompt, video


def _is_done(
  folder: str | os.PathLike[str], prompt: Prompt, settings: Settings, recipe: Mapping[str, Any]
) -> bool:
  path = clip_path(folder, prompt, settings)
  try:
    written = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return False
  if written != _record(prompt, recipe):
    raise UserError(
      f"{path} was made by another model or with other settings; pass --overwrite or another --out."
    )
  return path.exists()


def _save(
  folder: str | os.PathLike[str],
  prompt: Prompt,
  video: np.ndarray,
  settings: Settings,
  recipe: Mapping[str, Any],
) -> None:
  path = clip_path(folder, prompt, settings)
  # An old record must not vouch for a new clip if this run dies between the two files.
  path.with_suffix(".json").unlink(missing_ok=True)
  if settings.frames == 1:
    write_png(path, video[0])
  else:
    write_video(path, video, fps=settings.fps)
  write_json(path.with_suffix(".json"), _record(prompt, recipe))


def write_sheet(
  folder: str | os.PathLike[str], prompts: Sequence[Prompt], settings: Settings
) -> pathlib.Path:
  """Writes one picture with a row of frames for each of the first saved clips, at most 64."""
  shown = prompts[:SHEET_ROWS]
  videos = [_read(clip_path(folder, prompt, settings), settings) for prompt in shown]
  path = pathlib.Path(folder) / SHEET
  contact_sheet(videos, [prompt.text for prompt in shown], path, columns=SHEET_COLUMNS)
  return path


def _record(prompt: Prompt, recipe: Mapping[str, Any]) -> dict[str, Any]:
  # Through JSON, so that what is compared is what a file can hold.
  text = prompt.text.encode("utf-8", errors="replace").decode("utf-8")
  return json.loads(json.dumps({**recipe, "prompt": text, "seed": prompt.seed}))


def _read(path: pathlib.Path, settings: Settings) -> np.ndarray:
  size = (settings.height, settings.width)
  if settings.frames > 1:
    video = read_clip(path, start_s=0.0, fps=settings.fps, frames=settings.frames, size=size)
    return video[np.linspace(0, len(video) - 1, min(len(video), SHEET_COLUMNS)).round().astype(int)]
  from PIL import Image

  with Image.open(path) as image:
    return np.asarray(image.convert("RGB"))[None]
