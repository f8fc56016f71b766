"""A look at sound: an mp4 to play and a PNG of waveform, spectrogram and marked events.

For scenes of the toy world and for whatever was generated: wave (T,) floats in [-1, 1].
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from mg_jax.core import plotting
from mg_jax.core.errors import UserError
from mg_jax.data.atomic import write_json
from mg_jax.data.media.muxing import write_clip
from mg_jax.world.scene.facts import Scene
from mg_jax.world.scene.render import render
from mg_jax.world.sound.captions import short_sound_caption
from mg_jax.world.sound.facts import Impact
from mg_jax.world.sound.synthesis import RATE, soundtrack

FLOOR_DB = -90.0  # of the spectrogram's colours, below its loudest point


def write_scene(
  scene: Scene,
  folder: str | os.PathLike[str],
  *,
  name: str | None = None,
  fps: float = 24.0,
  size: int = 256,
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes NAME.mp4 with sound, NAME.json of what is in it (`Scene.to_dict`) and NAME.png, a plot
  of the sound; returns the paths of clip and plot.

  name: by default seed and index of the scene. size: of the square picture, in pixels.

  Raises:
    UserError: without matplotlib; the clip and what is in it are written by then.
  """
  name = name or f"scene_{scene.seed}_{scene.index}"
  clip, picture = (pathlib.Path(folder) / f"{name}{end}" for end in (".mp4", ".png"))
  track = soundtrack(scene)
  count = max(1, round(scene.duration_s * fps))
  frames = render(scene, frames=count, height=size, width=size, fps=fps)
  write_clip(clip, frames, track.mix, fps=fps)
  write_json(clip.with_suffix(".json"), scene.to_dict())
  plot(picture, track.mix, events=track.events, title=short_sound_caption(scene))
  return clip, picture


def plot(
  path: str | os.PathLike[str],
  wave: np.ndarray,
  *,
  rate: int = RATE,
  events: Sequence[Impact] = (),
  heard: Sequence[Impact] = (),
  title: str = "",
) -> None:
  """A PNG: waveform over spectrogram.

  Args:
    path: the file; its folder is created.
    wave: (T,) floats.
    rate: in Hz.
    events: true impacts, solid lines named by their material.
    heard: impacts of an oracle, dashed lines.
    title: such as the caption.

  Raises:
    UserError: without matplotlib, or for a wave of another shape or type.
  """
  wave = np.asarray(wave)
  if wave.ndim != 1 or wave.dtype.kind != "f" or not len(wave):
    raise UserError(f"plot: got {wave.dtype} of shape {wave.shape}; pass floats (T,)")
  pyplot = plotting.pyplot()
  figure, (above, below) = pyplot.subplots(
    2, 1, figsize=(10, 6), sharex=True, layout="constrained", height_ratios=(1, 2)
  )
  above.plot(np.arange(len(wave)) / rate, wave, linewidth=0.4)
  above.set(ylim=(-1, 1), ylabel="amplitude", xlim=(0, len(wave) / rate))
  decibels, extent = _spectrogram(wave, rate)
  top = decibels.max()
  below.imshow(
    decibels, origin="lower", aspect="auto", extent=extent, vmin=top + FLOOR_DB, vmax=top
  )
  # Most of what there is lies below 2 kHz.
  below.set_yscale("symlog", linthresh=1000.0)
  below.set(xlabel="seconds", ylabel="Hz", ylim=(0, rate / 2))
  for axis in (above, below):
    for marks, style in ((events, "-"), (heard, "--")):
      for mark in marks:
        axis.axvline(mark.time_s, linestyle=style, color="tab:red", linewidth=0.8, alpha=0.7)
  for mark in events:
    above.text(mark.time_s, 0.98, f" {mark.material}", va="top", fontsize="small")
  figure.suptitle(title, fontsize="small", wrap=True)
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=100)
  pyplot.close(figure)


def _spectrogram(wave: np.ndarray, rate: int) -> tuple[np.ndarray, tuple[float, ...]]:
  """Decibels (bins, frames) and their extent in seconds and Hz."""
  window, hop = 1024, 256
  padded = np.pad(wave.astype(np.float64), window // 2)
  frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
  size = np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)).T
  return 20 * np.log10(np.maximum(size, 1e-6)), (0.0, len(wave) / rate, 0.0, rate / 2)
