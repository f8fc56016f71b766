"""Clips and images for prompts, as files in a folder, by a text-to-video run.

A clip may start from a given first frame, or continue a given clip.
"""

import dataclasses
import hashlib
import logging
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from mg_jax.core import shipped
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import parse_mesh
from mg_jax.data.condition_section import parse
from mg_jax.data.media import stills
from mg_jax.data.media import video as videos
from mg_jax.inference.load import load_text_to_video
from mg_jax.models.codecs import tiling
from mg_jax.sampling import outputs, prompts
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.sampling.settings import Settings

_log = logging.getLogger(__name__)


def generate(
  workdir: str | os.PathLike[str],
  *,
  texts: list[str],
  file: str | os.PathLike[str] | None = None,
  out: str | os.PathLike[str] | None = None,
  seed: int = 0,
  image: bool = False,
  first_frame: str | None = None,
  condition: Sequence[str] = (),
  video: str | None = None,
  extend: Sequence[float] = (),
  mesh: Sequence[str] = (),
  dtype: str | None = None,
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
    seed: of the first prompt; the next ones count up.
    image: one frame each.
    first_frame: an image file that the clips start from; scaled and cropped to their size.
    condition: values of the model's other conditions, NAME=VALUE each.
    video: a clip that is continued, and is part of the result; read at the size and frame rate of
      the settings.
    extend: by how many seconds.
    mesh: sizes of the four mesh axes over which the work is spread; the first device without it.
    dtype: of the generator's weights, as saved by default.
    tiles: as `tiling.parse` takes them.
    overwrite: makes clips anew that are there already.
    **changes: settings other than the run's own.

  Raises:
    UserError: without a prompt, or if a run, a file or a setting is unusable.
  """
  entries = [(text, None) for text in texts] + (prompts.read(file) if file else [])
  if not entries:
    raise UserError("no prompt given; give --prompt or --prompts")
  if bool(video) != bool(extend):
    raise UserError("--video and --extend go together: the clip, and by how many seconds")
  if first_frame and (video or image):
    raise UserError("--first_frame starts a clip; leave out --video, --extend and --image")
  if condition and video:
    raise UserError("--condition is not for --extend; leave one of them out")
  planned, notices = prompts.plan(entries, seed=seed)
  pipeline = load_text_to_video(
    workdir, tiling=tiling.parse(tiles), mesh=parse_mesh(mesh), dtype=dtype
  )
  settings = pipeline.resolve(**changes | ({"frames": 1} if image else {}))
  notices += prompts.cut(planned, pipeline.text.readers, tags=pipeline.tags(settings))
  for notice in notices:
    _log.warning("%s", notice)
  folder, planned = outputs.place(
    out or shipped.results(workdir) / "generated", planned, settings, overwrite=overwrite
  )
  how: dict[str, Any] = {}
  if first_frame or condition:
    how = _conditioned(pipeline, first_frame, condition, settings)
  elif video:
    how = _continued(pipeline, video, extend, settings)
  new = 0
  for prompt, _ in outputs.generate(
    pipeline, planned, folder, settings, overwrite=overwrite, **how
  ):
    new += 1
    _log.info("%s", outputs.clip_path(folder, prompt, settings))
  if new < len(planned):
    _log.info("%d of %d clips existed already", len(planned) - new, len(planned))
  if len(planned) > 1:
    _log.info("%s", outputs.write_sheet(folder, planned, settings))


def _conditioned(
  pipeline: TextToVideo, first_frame: str | None, condition: Sequence[str], settings: Settings
) -> dict[str, Any]:
  """Arguments of `outputs.generate` for clips that start from an image or have other conditions."""
  values, identity = {}, {}
  if first_frame:
    frame = stills.read(first_frame, size=(settings.height, settings.width))
    values[pipeline.first_frame] = frame
    identity["first_frame"] = _digest(frame)
  for name, value in parse(condition, pipeline.conditions).items():
    values[name], identity[name] = value, _digest(np.asarray(value))

  def make(chunk: Sequence[prompts.Prompt]) -> np.ndarray:
    return pipeline(
      [p.text for p in chunk], seeds=[p.seed for p in chunk], given=[values] * len(chunk),
      **dataclasses.asdict(settings),
    )  # fmt: skip

  return {"make": make, "given": identity}


def _continued(
  pipeline: TextToVideo, path: str, extend: Sequence[float], settings: Settings
) -> dict[str, Any]:
  """Arguments of `outputs.generate` for a clip that goes on."""
  if len(extend) != 1 or not 0 < extend[0] < math.inf:
    raise UserError(f"--extend is {list(extend)}; give one number of seconds above 0")
  info = videos.probe(path)
  count = max(1, int(info.duration_s * settings.fps + 1e-6))
  size = settings.height, settings.width
  clip = videos.read_clip(path, start_s=0.0, fps=settings.fps, frames=count, size=size)
  if info.has_audio:
    _log.warning("%s: its sound is left out; give the result to --task=soundtrack", path)
  frames = max(1, round(extend[0] * settings.fps))

  def make(chunk: Sequence[prompts.Prompt]) -> list[np.ndarray]:
    return [
      pipeline.extend(clip, frames, prompt=p.text, seed=p.seed, **dataclasses.asdict(settings))
      for p in chunk
    ]

  return {"make": make, "given": {"continues": _digest(clip), "extend": frames}}


def _digest(pixels: np.ndarray) -> str:
  return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
