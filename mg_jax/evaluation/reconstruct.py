"""A video encoded and decoded by an autoencoder, measured next to the original [MG 3.1.1].

Everything is a stream: memory does not grow with the length of the video.
"""

import collections
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from mg_jax.core import plotting
from mg_jax.core.errors import UserError
from mg_jax.data import atomic
from mg_jax.data.media import fitting
from mg_jax.data.media.video import write_frames
from mg_jax.metrics.fidelity import WINDOW, Fidelity
from mg_jax.models.codecs.tiling import TiledAutoencoder
from mg_jax.train import profile

_log = logging.getLogger(__name__)
GAIN = 4  # amplifies the shown difference, otherwise too dark to see for a good reconstruction
MARKS = 128  # maximal number of points of the memory curve


def reconstruct(
  autoencoder: TiledAutoencoder,
  path: str | os.PathLike[str],
  out: str | os.PathLike[str],
  *,
  size: int | tuple[int, int] | None = None,
  fps: float | int | None = None,
  seconds: float | int | None = None,
) -> dict[str, Any]:
  """Writes original, reconstruction and their difference side by side, and a `.json` next to it.

  With matplotlib installed also a `.png`: the process's peak memory over the video.

  Args:
    autoencoder: the autoencoder.
    path: the video.
    out: an mp4. The difference is absolute, amplified four times.
    size, fps: as in `data.media.fitting.fit`.
    seconds: stops after this time.

  Returns:
    The contents of the JSON: {"video", "frames", "fps", "height", "width", "psnr", "ssim",
    "notice", "memory": pairs of frames done and the process's peak GiB until then}.

  Raises:
    UserError: if the video cannot be read or `out` cannot be written.
  """
  out, path = pathlib.Path(out), pathlib.Path(path)
  if out.suffix.lower() != ".mp4":
    raise UserError(f"{out} cannot be written: a reconstruction is saved as .mp4")
  if out.exists() and path.exists() and out.samefile(path):
    raise UserError(f"{out} is the video itself; choose another name for the reconstruction")
  for kind in (".mp4", ".json", ".png"):
    atomic.check_writable(out.with_suffix(kind))
  how = fitting.fit(path, multiple=autoencoder.model.factors[1:], size=size, fps=fps)
  if min(how.size) < WINDOW:
    raise UserError(
      f"{path}: frames of {how.size[0]}x{how.size[1]} are smaller than the window of SSIM, "
      f"{WINDOW}x{WINDOW}; give a larger size"
    )
  if how.notice:
    _log.warning("%s", how.notice)
  fidelity, memory = Fidelity(), _Memory()
  pairs = memory.watch(_pairs(autoencoder, fitting.read(path, how, seconds=seconds)))
  write_frames(out, _rows(pairs, fidelity), fps=how.fps)
  report = {
    "video": str(path), "fps": how.fps, "height": how.size[0], "width": how.size[1],
    "notice": how.notice, **fidelity.compute(), "memory": memory.marks,
  }  # fmt: skip
  atomic.write_json(out.with_suffix(".json"), report)
  try:
    _plot(report, out.with_suffix(".png"))
  except UserError as e:
    _log.warning("no plot: %s", e)
  return report


class _Memory:
  """Peak memory of this process while frames pass, at no more than MARKS points."""

  def __init__(self) -> None:
    self.marks: list[list[float]] = []
    self._every = 1

  def watch(self, frames: Iterator[Any]) -> Iterator[Any]:
    for number, frame in enumerate(frames, 1):
      yield frame
      if number % self._every == 0:
        self.marks.append([number, profile.memory_gib()])
        if len(self.marks) > MARKS:
          self.marks, self._every = self.marks[1::2], 2 * self._every


def _plot(report: dict[str, Any], path: pathlib.Path) -> None:
  """Memory over the seconds of the video. Raises UserError without matplotlib."""
  pyplot = plotting.pyplot()
  figure, axis = pyplot.subplots(figsize=(6, 3), layout="constrained")
  frames, gib = zip(*report["memory"], strict=True)
  axis.plot([frame / report["fps"] for frame in frames], gib, marker=".")
  title = f"{report['height']}x{report['width']} at {report['fps']:g} frames per second"
  axis.set(xlabel="seconds of video", ylabel="peak memory, GiB", title=title)
  axis.set_ylim(bottom=0)
  axis.grid(alpha=0.3)
  figure.savefig(path, dpi=80)
  pyplot.close(figure)


def _pairs(
  autoencoder: TiledAutoencoder, frames: Iterator[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(original, reconstruction) of every frame; buffers at most two tiles of originals."""
  waiting: collections.deque[np.ndarray] = collections.deque()

  def buffered() -> Iterator[np.ndarray]:
    for frame in frames:
      waiting.append(frame)
      yield frame[None]

  for part in autoencoder.pixel_stream(autoencoder.encode_stream(buffered())):
    # The last latent may decode to more frames than were encoded into it.
    for decoded in part[: len(waiting)]:
      yield waiting.popleft(), decoded


def _rows(
  pairs: Iterator[tuple[np.ndarray, np.ndarray]], fidelity: Fidelity
) -> Iterator[np.ndarray]:
  for original, decoded in pairs:
    fidelity.add(decoded[None], original[None])
    difference = np.abs(original.astype(np.int16) - decoded)
    shown = np.minimum(GAIN * difference, 255).astype(np.uint8)
    yield np.concatenate([original, decoded, shown], axis=1)
