"""Validation of the oracles: their accuracy on drawn clips, clean and degraded.

All numbers measured on generated clips rely on this table; `launch/oracles.py` prints it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.oracles.pixels import average, compare, measure
from mg_jax.world.scene.facts import Scene, facts
from mg_jax.world.scene.render import render
from mg_jax.world.scene.sampling import WorldConfig, sample

DEGRADATIONS = ("clean", "noise", "blur", "contrast", "compression")
NOISE_SIGMA = 8.0
BLUR_SIGMA = 0.7
CONTRAST = 0.6
QUANTISER = 24.0


def degrade(video: np.ndarray, name: str, *, seed: int = 0) -> np.ndarray:
  """A mildly damaged copy of a uint8 (T, H, W, 3) clip, as a small model might generate it."""
  v_THWC = video.astype(np.float32)
  if name == "noise":
    rng = np.random.default_rng(seed)
    v_THWC = v_THWC + NOISE_SIGMA * rng.standard_normal(v_THWC.shape, np.float32)
  elif name == "blur":
    taps = np.exp(-0.5 * (np.arange(-2, 3) / BLUR_SIGMA) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
      size = v_THWC.shape[axis]
      where = np.clip(np.arange(size)[:, None] + np.arange(-2, 3), 0, size - 1)
      v_THWC = np.moveaxis(np.moveaxis(v_THWC, axis, -1)[..., where] @ taps, -1, axis)
  elif name == "contrast":
    v_THWC = 128 + CONTRAST * (v_THWC - 128)
  elif name == "compression":
    v_THWC = _compress(v_THWC)
  elif name != "clean":
    raise UserError(f"degrade: unknown degradation {name!r}; choose from {DEGRADATIONS}")
  return np.clip(v_THWC + 0.5, 0, 255).astype(np.uint8)


def _compress(v_THWC: np.ndarray) -> np.ndarray:
  """Rounds the cosine transform of 8 x 8 blocks, coarser at high frequencies, as codecs do."""
  _, height, width, _ = v_THWC.shape
  pad = [(0, 0), (0, -height % 8), (0, -width % 8), (0, 0)]
  v = np.pad(v_THWC, pad, mode="edge")
  blocks = v.reshape(len(v), v.shape[1] // 8, 8, v.shape[2] // 8, 8, 3)
  k = np.arange(8)
  dct = np.cos(np.pi * (k[None] + 0.5) * k[:, None] / 8) / 2
  dct[0] *= 0.5**0.5
  step = (QUANTISER * (1 + (k[:, None] + k[None]) / 4))[None, None, :, None, :, None]
  spectrum = np.einsum("ki,tyixjc,lj->tykxlc", dct, blocks, dct, optimize=True)
  spectrum = step * np.round(spectrum / step)
  out = np.einsum("ki,tykxlc,lj->tyixjc", dct, spectrum, dct, optimize=True).reshape(v.shape)
  return out[:, :height, :width]


def measured(
  config: WorldConfig,
  measure: Callable[[np.ndarray], Any],
  *,
  n: int,
  degradations: tuple[str, ...],
  seed: int,
  **size: Any,
) -> tuple[list[Scene], dict[str, list]]:
  """n scenes, each drawn once, and degradation -> what an oracle measures of each of their clips.

  size: of the clips, as in `render`.
  """
  scenes = [sample(seed, index, config) for index in range(n)]
  clips = [render(scene, **size) for scene in scenes]
  return scenes, {
    name: [measure(degrade(clip, name, seed=index)) for index, clip in enumerate(clips)]
    for name in degradations
  }


def validate(
  config: WorldConfig,
  *,
  n: int = 100,
  frames: int = 16,
  height: int = 32,
  width: int = 32,
  fps: float | None = None,
  seed: int = 0,
  degradations: tuple[str, ...] = DEGRADATIONS,
) -> dict[str, dict[str, float]]:
  """Prints and returns degradation -> attribute -> accuracy over n scenes, each drawn once.

  The row "shuffled" compares the clips of the first row with the facts of the next scene: chance
  level.
  """
  scenes, measurements = measured(
    config, measure, n=n, degradations=degradations, seed=seed,
    frames=frames, height=height, width=width, fps=fps,
  )  # fmt: skip
  truth = [facts(scene) for scene in scenes]

  def accuracy(found, wanted):
    return average([compare(m, w) for m, w in zip(found, wanted, strict=True)])

  rows = {name: accuracy(found, truth) for name, found in measurements.items()}
  rows["shuffled"] = accuracy(measurements[degradations[0]], truth[1:] + truth[:1])
  columns = list(rows["shuffled"])
  print(f"{n} scenes, {frames} x {height} x {width}")
  print("".join(f"{c:>12}" for c in ("", *columns)))
  for name, row in rows.items():
    print(f"{name:>12}" + "".join(f"{100 * row[c]:11.1f}%" for c in columns))
  return rows
