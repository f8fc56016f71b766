"""Clips and images for prompts, as files in a folder, by a text-to-video run."""

import logging
import os
import pathlib
from typing import Any

from mg_jax.core.errors import UserError
from mg_jax.inference.load import load_text_to_video
from mg_jax.models.codecs import tiling
from mg_jax.sampling import outputs, prompts

_log = logging.getLogger(__name__)


def generate(
  workdir: str | os.PathLike[str],
  *,
  texts: list[str],
  file: str | os.PathLike[str] | None = None,
  out: str | os.PathLike[str] | None = None,
  seed: int = 0,
  image: bool = False,
  tiles: list[str] | tuple[str, ...] = (),
  overwrite: bool = False,
  **changes: Any,
) -> None:
  """Generates a clip per prompt, and a contact sheet if there are several; logs the paths.

  Args:
    workdir: workdir of a trained text-to-video run.
    texts: prompts.
    file: file of more prompts, see `prompts.read`.
    out: folder, or for one prompt a file; by default `<workdir>/generated`.
    seed: seed of the first prompt; the next ones count up.
    image: generates one frame each.
    tiles: as in `tiling.parse`.
    overwrite: regenerates existing clips.
    **changes: settings that differ from the run's.

  Raises:
    UserError: without a prompt, or if a run, a file or a setting is unusable.
  """
  entries = [(text, None) for text in texts] + (prompts.read(file) if file else [])
  if not entries:
    raise UserError("no prompt given; give --prompt or --prompts")
  planned, notices = prompts.plan(entries, seed=seed)
  pipeline = load_text_to_video(workdir, tiling=tiling.parse(tiles))
  settings = pipeline.resolve(**changes | ({"frames": 1} if image else {}))
  notices += prompts.cut(planned, pipeline.text.readers, tags=pipeline.tags(settings))
  for notice in notices:
    _log.warning("%s", notice)
  folder, planned = outputs.place(
    out or pathlib.Path(workdir) / "generated", planned, settings, overwrite=overwrite
  )
  new = 0
  for prompt, _ in outputs.generate(pipeline, planned, folder, settings, overwrite=overwrite):
    new += 1
    _log.info("%s", outputs.clip_path(folder, prompt, settings))
  if new < len(planned):
    _log.info("%d of %d clips existed already", len(planned) - new, len(planned))
  if len(planned) > 1:
    _log.info("%s", outputs.write_sheet(folder, planned, settings))
