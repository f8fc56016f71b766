"""Previews while training: what the model does now, as files a person looks at.

Each preview writes `<workdir>/previews/step-N.png`, a contact sheet, and an mp4 per clip.
"""

import itertools
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.typing import PyTree
from mg_jax.data.media.images import contact_sheet
from mg_jax.data.media.video import write_video
from mg_jax.data.schema import Source
from mg_jax.inference.load import pipeline
from mg_jax.objectives.autoencoding import Autoencoding
from mg_jax.train.state import TrainState, to_host

_log = logging.getLogger(__name__)
FOLDER = "previews"
COLUMNS = 8


def _write(
  workdir: str, step: int, clips: Sequence[np.ndarray], captions: Sequence[str], fps: float
) -> None:
  folder = pathlib.Path(workdir) / FOLDER
  folder.mkdir(parents=True, exist_ok=True)
  contact_sheet(clips, captions, folder / f"step-{step:07d}.png", columns=COLUMNS)
  for i, clip in enumerate(clips):
    if len(clip) > 1:
      write_video(folder / f"step-{step:07d}-{i:02d}.mp4", clip, fps=fps)


def surviving(step: int, show: Callable[[], None]) -> None:
  """Shows a preview, by the first process; one that fails is logged, and training continues."""
  if jax.process_index() != 0:
    return
  try:
    show()
  except (UserError, OSError) as e:
    _log.warning("no preview at step %d: %s", step, e)


class Reconstructions:
  """Held-out clips above their reconstructions."""

  def __init__(
    self,
    objective: Autoencoding,
    batches: Callable[[], Iterable[Mapping[str, Any]]],
    workdir: str,
    count: int,
    *,
    fps: float,
  ):
    """Prepares previews of `count` clips, at most those of the first of the `batches`."""
    self._batches, self._workdir, self._count, self._fps = batches, workdir, count, fps
    self._run = jax.jit(objective.reconstruct)

  def __call__(self, state: TrainState, step: int) -> None:
    """Writes the preview of a step. Every process has to call it."""
    params = to_host(state.averaged())
    surviving(step, lambda: self._show(params, step))

  def _show(self, params: Mapping[str, PyTree], step: int) -> None:
    batch = next(iter(self._batches()))
    video = batch["video"][batch["valid"]][: self._count]
    decoded = np.asarray(self._run(params, video))
    # Each clip stands above its reconstruction.
    clips = [np.concatenate(pair, axis=1) for pair in zip(video, decoded, strict=True)]
    names = ["clip above, reconstruction below"] * len(clips)
    _write(self._workdir, step, clips, names, self._fps)


class Samples:
  """Clips generated for held-out captions, with the weights of the moment."""

  def __init__(
    self,
    config: Mapping[str, Any],
    workdir: str,
    held_out: Sequence[Source],
    count: int,
    *,
    params: PyTree,
  ):
    """Prepares previews of `count` captions.

    Args:
      config: of the run, plain dicts.
      workdir: of the run, with its latents.
      held_out: cached latents, whose captions are used in turn.
      count: most clips of a preview.
      params: of the generator, or their shapes.

    Raises:
      UserError: on settings in "sampling" that the model cannot do.
    """
    turns = itertools.zip_longest(*([(s, i) for i in range(min(count, len(s)))] for s in held_out))
    records = (pair for turn in turns for pair in turn if pair)
    self._captions = [s[i]["captions"][0] for s, i in itertools.islice(records, count)]
    self._workdir = workdir
    self._pipeline = pipeline(config, workdir, params, batch=len(self._captions))
    self._pipeline.resolve()

  def __call__(self, state: TrainState, step: int) -> None:
    """Writes the preview of a step. Every process has to call it."""
    self._pipeline.params = to_host(state.averaged()["model"])
    surviving(step, lambda: self._show(step))

  def _show(self, step: int) -> None:
    clips = self._pipeline(self._captions, seeds=range(len(self._captions)))
    _write(self._workdir, step, list(clips), self._captions, self._pipeline.settings.fps)
