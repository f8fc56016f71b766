"""Pictures of measurements."""

import pathlib
from collections.abc import Sequence

import numpy as np

from mg_jax.core.plotting import pyplot

_WINDOW = 1024  # of spectrograms, in samples
_SILENT = 1e-9
_DEPTH_DB = 100.0  # below full scale, what is drawn black


def spectrograms(
  rows: Sequence[Sequence[np.ndarray]],
  titles: Sequence[str],
  path: str | pathlib.Path,
  *,
  rate: int,
) -> None:
  """A PNG of sounds (T,) in [-1, 1] as a table, each in dB over time and kHz.

  Args:
    rows: of sounds, as many in each as there are `titles`.
    titles: of the columns.
    path: of the PNG.
    rate: of the sounds in Hz.

  Raises:
    UserError: without matplotlib.
  """
  figure, axes = pyplot().subplots(
    len(rows), len(titles), figsize=(6 * len(titles), 2.4 * len(rows)), layout="constrained",
    squeeze=False, sharex="row", sharey=True,
  )  # fmt: skip
  for line, row in zip(axes, rows, strict=True):
    for axis, wave in zip(line, row, strict=True):
      # Noise far below what is drawn, as digital silence has no logarithm.
      padded = np.pad(wave, (0, max(0, _WINDOW - len(wave)))) + np.float64(_SILENT) * (
        np.random.default_rng(0).standard_normal(max(_WINDOW, len(wave)))
      )
      *_, image = axis.specgram(
        padded, NFFT=_WINDOW, Fs=rate / 1000, noverlap=_WINDOW * 3 // 4, mode="magnitude",
        scale="dB", vmin=-_DEPTH_DB, vmax=0,
      )  # fmt: skip
      axis.set_ylabel("kHz")
  for axis, title in zip(axes[0], titles, strict=True):
    axis.set_title(title)
  for axis in axes[-1]:
    axis.set_xlabel("ms")
  figure.colorbar(image, ax=axes, label="dB")
  figure.savefig(path, dpi=80)
  pyplot().close(figure)
