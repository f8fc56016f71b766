"""Drawn examples of every look, and what their cells have in common.

Like the templates of letters, examples are drawn once per process: every ground, in every weather
and at every time of day that it has, in every style, without anything in front. A picture is
reduced to cells with their mean colours and their texture, and a look to the mean and the standard
deviation of each cell over examples with other layouts.
"""

import functools
import itertools

import numpy as np

from mg_jax.world.scene.facts import BACKGROUNDS, Background, Scene
from mg_jax.world.scene.grounds import GROUNDS
from mg_jax.world.scene.render import render
from mg_jax.world.scene.styles import STYLES
from mg_jax.world.scene.weather import TIMES, WEATHERS

SIDE = 64  # pixels of a picture; others are reduced to its central square
FRAMES = 5  # of a clip, evenly spaced, of whose descriptions the median is taken
BLOCK = 3  # side of a block of pixel art
CELLS, COARSE = 16, 8  # cells per side for colour and for texture
EXAMPLES = 6  # per look
SPREADS = (4.0, 0.25, 0.15)  # what standard deviations of each description have at least
_SEED = 1 << 40
_LUMA = np.float32((0.299, 0.587, 0.114))

Look = tuple[str, str, str, str]  # style, ground, weather, time


def looks() -> list[Look]:
  """Every look that is sampled: grounds without weather and time, and styles that hide them, have
  those of a clear day."""
  out = []
  for style, hides in ((name, style.hides) for name, style in STYLES.items()):
    weathers = ("clear",) if "weather" in hides else WEATHERS
    times = ("day",) if "time" in hides else TIMES
    for name in (*BACKGROUNDS, *GROUNDS):
      outdoor = name in GROUNDS and GROUNDS[name].outdoor
      skies = itertools.product(weathers, times) if outdoor else (("clear", "day"),)
      out += [(style, name, *sky) for sky in skies]
  return out


def describe(video: np.ndarray) -> tuple[np.ndarray, ...]:
  """Colours (3, CELLS**2) and texture (K, COARSE**2) of the cells of a clip (T, H, W, 3), and its
  texture in bands at the sides and in the middle (K, 2 * COARSE): medians over frames, which leave
  out most of what moves in front of a ground."""
  frames, height, width, _ = video.shape
  some = np.unique(np.linspace(0, frames - 1, min(frames, FRAMES)).round().astype(int))
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  v = video[some, top : top + side, left : left + side].astype(np.float32)
  if side != SIDE:
    edges, k = np.linspace(0, side, SIDE + 1), np.arange(side)
    overlap = np.minimum(edges[1:, None], k + 1) - np.maximum(edges[:-1, None], k)
    area = np.maximum(overlap, 0)
    area = (area / area.sum(axis=1, keepdims=True)).astype(np.float32)
    v = np.einsum("yh,xw,thwc->tyxc", area, area, v, optimize=True)
  return tuple(np.median(part, axis=0) for part in of_pictures(v))


def of_pictures(v_NHWC: np.ndarray) -> tuple[np.ndarray, ...]:
  """The same of each of N pictures of SIDE pixels."""
  colour = _cells(np.moveaxis(v_NHWC, -1, 1), CELLS)
  grey = v_NHWC @ _LUMA
  dy, dx, bend, across, down = (np.zeros_like(grey) for _ in range(5))
  dy[:, 1:], dx[:, :, 1:] = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=2))
  inner = grey[:, 1:-1, 1:-1]
  bend[:, 1:-1, 1:-1] = np.abs(2 * inner - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1])
  # Thin lines: how far a pixel is below, and above, both of its neighbours two pixels away.
  sides = np.stack([grey[:, 2:-2, :-4], grey[:, 2:-2, 4:], grey[:, :-4, 2:-2], grey[:, 4:, 2:-2]])
  low = np.maximum(sides[:2].min(axis=0), sides[2:].min(axis=0)) - grey[:, 2:-2, 2:-2]
  high = grey[:, 2:-2, 2:-2] - np.minimum(sides[:2].max(axis=0), sides[2:].max(axis=0))
  dark, bright = (np.pad(a.clip(0), ((0, 0), (2, 2), (2, 2))) for a in (low, high))
  # Steps between blocks of pixels, whose edges are counted from the middle of the frame.
  edge = (np.arange(SIDE) - SIDE // 2) % BLOCK == 0
  across[:, :, edge], down[:, edge] = dx[:, :, edge], dy[:, edge]
  parts = np.stack([dy, dx, bend, dark, bright, across, down], axis=1)
  texture = _cells(parts, COARSE)
  # Grounds vary from top to bottom more than from side to side; objects cover the middle.
  rows = texture.reshape(*texture.shape[:2], COARSE, COARSE)
  sides = COARSE // 4
  outer = np.concatenate([rows[..., :sides], rows[..., -sides:]], axis=-1).mean(axis=-1)
  bands = np.concatenate([outer, rows[..., sides:-sides].mean(axis=-1)], axis=-1)
  return colour, np.log(texture + 1), np.log(bands + 1)


def _cells(a: np.ndarray, cells: int) -> np.ndarray:
  """Means over cells of the last two axes, which are joined."""
  step = SIDE // cells
  return a.reshape(*a.shape[:-2], cells, step, cells, step).mean(axis=(-3, -1)).reshape(
    *a.shape[:-2], -1
  )


@functools.cache
def models() -> tuple[list[Look], list[tuple[np.ndarray, np.ndarray]]]:
  """All K looks, and for each description their means and standard deviations (K, C, cells)."""
  known = looks()
  pictures = {place: _examples(*place) for place in dict.fromkeys(look[1:] for look in known)}
  groups = []
  for style, *place in known:
    groups.append(of_pictures(STYLES[style].apply(pictures[tuple(place)])))
  out = []
  for part, least in enumerate(SPREADS):
    mean = np.stack([group[part].mean(axis=0) for group in groups]).astype(np.float32)
    spread = np.stack([group[part].std(axis=0) for group in groups]).astype(np.float32)
    out.append((mean, np.sqrt(spread**2 + np.float32(least) ** 2)))
  return known, out


def _examples(name: str, weather: str, time: str) -> np.ndarray:
  """Natural pictures (EXAMPLES, SIDE, SIDE, 3) of a ground."""
  out = []
  for number in range(EXAMPLES):
    rng = np.random.default_rng([_SEED, number, sum(name.encode())])
    period, angle = float(rng.uniform(0.25, 0.45)), float(rng.uniform(0, 2 * np.pi))
    background = Background(name, period, angle, seed=int(rng.integers(1 << 30)))
    # Some cameras are somewhere in a move.
    camera = ("static", "pan left", "static", "zoom in")[number % 4]
    scene = Scene(0, 0, background, (), camera=camera, weather=weather, time=time)
    start_s = float(rng.uniform(0, 2))
    out += [*render(scene, frames=1, height=SIDE, width=SIDE, fps=8.0, start_s=start_s)]
  return np.stack(out).astype(np.float32)
