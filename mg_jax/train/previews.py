"""Previews while training: what the model does now, as files a person looks at.

Each preview writes `<workdir>/previews/step-N.png`, a contact sheet, and an mp4 per clip.
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from mg_jax.data.images import contact_sheet
from mg_jax.data.schema import Source
from mg_jax.data.video import write_video
from mg_jax.objectives.autoencoding import Autoencoding
from mg_jax.train.export import pipeline
from mg_jax.train.state import TrainState

FOLDER = "previews"
COLUMNS = 8


def _write(workdir: str, step: int, clips: list[np.ndarray], captions: list[str], fps: float) -> None:
  folder = pathlib.Path(workdir) / FOLDER
  folder.mkdir(parents=True, exist_ok=True)
  contact_sheet(clips, captions, folder / f"step-{step:07d}.png", columns=COLUMNS)
  for i, clip in enumerate(clips):
    if len(clip) > 1:
      write_video(folder / f"step-{step:07d}-{i:02d}.mp4", clip, fps=fps)


class Reconstructions:
  """Held-out clips above their reconstructions."""

  def __init__(
    self, objective: Autoencoding, batches: Callable[[], Iterable[Mapping[str, Any]]], workdir: str,
    count: int, *, fps: float,
  ):
    self._batches, self._workdir, self._count, self._fps = batches, workdir, count, fps
    self._run = jax.jit(objective.reconstruct)

  def __call__(self, state: TrainState, step: int) -> None:
    video = next(iter(self._batches()))["video"][: self._count]
    decoded = np.asarray(self._run(jax.device_get(state.averaged()), video))
    # Each clip stands above its reconstruction.
    clips = [np.concatenate(pair, axis=1) for pair in zip(video, decoded, strict=True)]
    names = ["clip above, reconstruction below"] * len(clips)
    _write(self._workdir, step, clips, names, self._fps)


class Samples:
  """Clips generated for held-out captions, with the weights of the moment."""

  def __init__(
    self, config: Mapping[str, Any], workdir: str, held_out: Mapping[str, Source], count: int
  ):
    source = next(iter(held_out.values()))
    self._captions = [source[i]["captions"][0] for i in range(min(count, len(source)))]
    self._config, self._workdir = config, workdir
    self._pipeline = None

  def __call__(self, state: TrainState, step: int) -> None:
    params = jax.device_get(state.averaged()["model"])
    if self._pipeline is None:
      self._pipeline = pipeline(self._config, self._workdir, params, batch=len(self._captions))
    self._pipeline.params = params
    clips = self._pipeline(self._captions, seeds=range(len(self._captions)))
    _write(self._workdir, step, list(clips), self._captions, self._pipeline.settings.fps)
