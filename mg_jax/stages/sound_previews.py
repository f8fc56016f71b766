"""Previews of a codec while it trains: held-out sounds and what it makes of them.

Each writes `<workdir>/previews/step-N-I.wav`, the reconstructions, and `step-N.png`, spectrograms
of originals beside them; the originals stand once, as `original-I.wav`.
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from mg_jax.core.typing import PyTree
from mg_jax.data.media.audio import write_wav
from mg_jax.objectives.wave_autoencoding import FULL_SCALE, WaveAutoencoding
from mg_jax.stages import plots
from mg_jax.stages.previews import FOLDER, surviving
from mg_jax.train.state import TrainState, to_host

TITLES = ("original", "reconstruction")


class SoundReconstructions:
  """Held-out sounds and their reconstructions; a hook of the loop."""

  def __init__(
    self,
    objective: WaveAutoencoding,
    batches: Callable[[], Iterable[Mapping[str, Any]]],
    workdir: str,
    count: int,
  ):
    """Prepares previews of `count` sounds, at most those of the first of the `batches`."""
    self._batches, self._folder, self._count = batches, pathlib.Path(workdir) / FOLDER, count
    self._rate, self._run = objective.model.sample_rate, jax.jit(objective.reconstruct)

  def __call__(self, state: TrainState, step: int) -> None:
    """Writes the preview of a step. Every process has to call it."""
    params = to_host(state.averaged())
    surviving(step, lambda: self._show(params, step))

  def _show(self, params: Mapping[str, PyTree], step: int) -> None:
    self._folder.mkdir(parents=True, exist_ok=True)
    batch = next(iter(self._batches()))
    whole = batch["wave"]
    # The whole batch: it has the shape that the evaluation has compiled for.
    decoded = np.asarray(self._run(params, whole))
    waves, decoded = (x[batch["valid"]][: self._count] for x in (whole / FULL_SCALE, decoded))
    for i, (wave, made) in enumerate(zip(waves, decoded, strict=True)):
      original = self._folder / f"original-{i:02d}.wav"
      if not original.exists():
        write_wav(original, wave, rate=self._rate)
      write_wav(self._folder / f"step-{step:07d}-{i:02d}.wav", made, rate=self._rate)
    rows = list(zip(waves, decoded, strict=True))
    plots.spectrograms(rows, TITLES, self._folder / f"step-{step:07d}.png", rate=self._rate)
