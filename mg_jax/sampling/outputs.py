"""Generated clips on disk: one file per prompt, a record beside it, a contact sheet over all.

The record, a small JSON, is written after the clip and says what it was made of. A later run over
the same prompts skips the clips whose record matches, so an interrupted run picks up where it was.
Of several processes the first decides which clips are left, and writes.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mg_jax.core import distributed
from mg_jax.core.errors import UserError
from mg_jax.data.atomic import check_writable, write_json
from mg_jax.data.media.images import contact_sheet, write_png
from mg_jax.data.media.video import read_clip, write_video
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.sampling.prompts import Prompt
from mg_jax.sampling.settings import Settings

SHEET = "contact_sheet.png"
SHEET_ROWS = 64
SHEET_COLUMNS = 8
# Endings by which a path means a file; only mp4 and png are written.
_FORMATS = {
  ".mp4", ".png", ".gif", ".webm", ".mov", ".mkv", ".avi", ".m4v", ".jpg", ".jpeg", ".webp",
}


def place(
  out: str | os.PathLike[str],
  prompts: Sequence[Prompt],
  settings: Settings,
  *,
  overwrite: bool = False,
) -> tuple[pathlib.Path, list[Prompt]]:
  """The folder of the clips, and the prompts under the names that their files get there.

  Args:
    out: a folder, or with one prompt the file of its clip, which then is named exactly so.
    prompts: all prompts of the run.
    settings: as resolved by the pipeline.
    overwrite: whether a file that no run of this command has made may be replaced.

  Raises:
    UserError: when `out` names one file for several clips, a format other than mp4 and png, or
      something that is there and not ours.
  """
  out = pathlib.Path(out)
  if out.suffix.lower() not in _FORMATS or out.is_dir():
    if out.is_file():
      raise UserError(f"{out} is a file; give a folder, or a file ending in .mp4 or .png.")
    return out, list(prompts)
  if len(prompts) != 1:
    raise UserError(f"{out} is one file but there are {len(prompts)} prompts; give a folder.")
  named = [dataclasses.replace(prompts[0], name=out.stem)]
  path = clip_path(out.parent, named[0], settings)
  if path.suffix != out.suffix:
    what = "an image" if settings.frames == 1 else "a video"
    raise UserError(f"{out} cannot be written: {what} is saved as {path.suffix}.")
  distributed.on_main(_check_ours, path, overwrite=overwrite)
  return out.parent, named


def _check_ours(path: pathlib.Path, *, overwrite: bool) -> None:
  record = record_path(path)
  if record.exists() and not _is_record(record):
    raise UserError(f"{record} would be replaced by the record of the clip; give another --out.")
  if path.exists() and not record.exists() and not overwrite:
    raise UserError(
      f"{path} is there and not from this command; pass --overwrite or another --out."
    )


def clip_path(folder: str | os.PathLike[str], prompt: Prompt, settings: Settings) -> pathlib.Path:
  """Where the clip of a prompt lies: .mp4, or .png when it is one frame."""
  return pathlib.Path(folder) / f"{prompt.name}{'.png' if settings.frames == 1 else '.mp4'}"


def record_path(clip: pathlib.Path) -> pathlib.Path:
  """Where the record of a clip lies: beside it, as clip.mp4.json."""
  return clip.with_name(f"{clip.name}.json")


def generate(
  pipeline: TextToVideo,
  prompts: Sequence[Prompt],
  folder: str | os.PathLike[str],
  settings: Settings,
  *,
  overwrite: bool = False,
  make: Callable[[Sequence[Prompt]], Sequence[np.ndarray]] | None = None,
  given: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Prompt, np.ndarray]]:
  """Generates and saves the clips that are not there yet, yielding each as it is saved.

  Args:
    pipeline: what generates.
    prompts: all prompts of the run.
    folder: for the outputs, made if missing.
    settings: as resolved by the pipeline.
    overwrite: makes every clip anew.
    make: the clips of at most `pipeline.batch` prompts; by default those of their text alone.
    given: what else decides the clips, for their records.

  Raises:
    UserError: when a clip of the same name was made otherwise, or one cannot be written, before
      anything is generated.
  """
  recipe = {"origin": pipeline.origin, "settings": dataclasses.asdict(settings), **(given or {})}

  def from_text(chunk: Sequence[Prompt]) -> np.ndarray:
    return pipeline(
      [p.text for p in chunk], seeds=[p.seed for p in chunk], **dataclasses.asdict(settings)
    )

  def missing() -> list[int]:
    left = [
      i for i, p in enumerate(prompts) if overwrite or not _is_done(folder, p, settings, recipe)
    ]
    for i in left:
      check_writable(record_path(clip_path(folder, prompts[i], settings)))
    return left

  left = [prompts[i] for i in distributed.on_main(missing)]
  for i in range(0, len(left), pipeline.batch):
    chunk = left[i : i + pipeline.batch]
    for prompt, video in zip(chunk, (make or from_text)(chunk), strict=True):
      distributed.on_main(_save, folder, prompt, video, settings, recipe)
      yield prompt, video


def _is_done(
  folder: str | os.PathLike[str], prompt: Prompt, settings: Settings, recipe: Mapping[str, Any]
) -> bool:
  path = clip_path(folder, prompt, settings)
  try:
    written = json.loads(record_path(path).read_text(encoding="utf-8"))
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
  record_path(path).unlink(missing_ok=True)
  if settings.frames == 1:
    write_png(path, video[0])
  else:
    write_video(path, video, fps=settings.fps)
  write_json(record_path(path), _record(prompt, recipe))


def _is_record(path: pathlib.Path) -> bool:
  try:
    written = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return False
  return isinstance(written, dict) and {"origin", "settings", "prompt", "seed"} <= written.keys()


def write_sheet(
  folder: str | os.PathLike[str], prompts: Sequence[Prompt], settings: Settings
) -> pathlib.Path:
  """Writes one picture with a row of frames for each of the first saved clips, at most 64."""
  path = pathlib.Path(folder) / SHEET

  def write() -> None:
    shown = prompts[:SHEET_ROWS]
    videos = [_read(clip_path(folder, prompt, settings), settings) for prompt in shown]
    contact_sheet(videos, [prompt.text for prompt in shown], path, columns=SHEET_COLUMNS)

  distributed.on_main(write)
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
