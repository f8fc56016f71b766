"""Grounds under the open sky. Each takes a canvas, the light of time and weather, and a generator
that places its clouds, trees and houses.

Colours are muted: their chroma (largest less smallest channel) stays below 82, and no channel is
above 205, so that the object oracles separate every palette colour from them.
"""

import numpy as np

from mg_jax.world.scene.canvas import Canvas, repeat, scatter
from mg_jax.world.scene.weather import Light

_CLOUD = (198, 200, 198)
_SHADE = (172, 182, 190)


def _wave(rng: np.random.Generator, x: np.ndarray, periods: tuple[float, ...]) -> np.ndarray:
  """A smooth line of about unit height over x."""
  total = np.zeros_like(x)
  for number, period in enumerate(periods):
    phase = rng.uniform(0, 2 * np.pi)
    total += np.sin(2 * np.pi * x / np.float32(period) + np.float32(phase)) * 0.6**number
  return total / 1.4


def _sky(canvas: Canvas, light: Light, rng: np.random.Generator, *, horizon: float) -> None:
  """The sky down to the horizon, with the sun, or the moon and stars."""
  canvas.fill(*light.sky, np.clip((canvas.y + 0.55) / (horizon + 0.55), 0, 1))
  x, y = rng.uniform(0.16, 0.36) * rng.choice((-1, 1)), rng.uniform(-0.4, -0.3)
  turn = int(rng.integers(1 << 20))
  if light.time == "night" and light.clear:
    stars(canvas, turn, below=horizon - 0.08)
    near = canvas.crop(x - 0.09, x + 0.09, y - 0.09, y + 0.09)
    moon = np.maximum(near.disc(x, y, 0.085), -near.disc(x + 0.035, y - 0.02, 0.07))
    near.paint(moon, (192, 188, 168))
  elif light.clear:
    radius, colour = (0.075, (205, 188, 130)) if light.time == "day" else (0.11, (205, 140, 126))
    place = y if light.time == "day" else horizon - 0.1
    distance = canvas.disc(x, place, radius)
    canvas.blend(np.float32(0.4) * np.exp(np.maximum(distance, 0) * np.float32(-14)), colour)
    canvas.paint(distance, colour)


def stars(canvas: Canvas, turn: int, *, below: float = 9.0, period: float = 0.13) -> None:
  """A star of its own size in most cells of a grid."""
  column, row = np.round(canvas.x / period), np.round(canvas.y / period)
  jitter_x = scatter(column, row, seed=turn) - 0.5
  jitter_y = scatter(row, column, seed=turn + 7) - 0.5
  radius = 0.006 + 0.012 * scatter(row, column, seed=turn + 3) ** 2
  dx = repeat(canvas.x, period) - 0.6 * period * jitter_x
  dy = repeat(canvas.y, period) - 0.6 * period * jitter_y
  distance = np.hypot(dx, dy) - radius
  canvas.blend(canvas.cover(distance) * (canvas.y < below), (182, 186, 196))


def _clouds(canvas: Canvas, light: Light, rng: np.random.Generator, rows: tuple) -> None:
  """A cloud for each (y, size), left to right."""
  places = (np.arange(len(rows)) + 0.5) / len(rows) - 0.5
  places = rng.permutation(places) + rng.uniform(-0.08, 0.08, len(rows))
  for x, (y, size) in zip(places, rows, strict=True):
    lean = rng.uniform(-0.2, 0.2)
    puffs = ((-0.85, 0.05, 0.42), (-0.25 + lean, -0.25, 0.6), (0.4 + lean, -0.1, 0.5),
             (0.95, 0.08, 0.36))  # fmt: skip
    near = canvas.crop(x - 1.3 * size, x + 1.35 * size, y - 0.9 * size, y + 0.4 * size)
    body = np.min([near.disc(x + size * a, y + size * b, size * r) for a, b, r in puffs], axis=0)
    near.paint(np.maximum(body, near.y - y - 0.34 * size), light(_SHADE))
    near.paint(np.maximum(body, near.y - y - 0.12 * size), light(_CLOUD))


def _fir(canvas: Canvas, x: float, foot: float, size: float, leaf: np.ndarray) -> Canvas:
  """A fir, and the part of the canvas around it."""
  near = canvas.crop(x - 0.42 * size, x + 0.42 * size, foot - size, foot)
  tiers = ((1.0, 0.26), (0.75, 0.34), (0.5, 0.42))
  tier = [near.peak(x, foot - size * tip, width * size, 0.42 * size) for tip, width in tiers]
  near.paint(np.minimum(np.minimum(*tier[:2]), tier[2]), leaf)
  return near


def sky(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
  _sky(canvas, light, rng, horizon=0.5)
  _clouds(canvas, light, rng, ((-0.3, 0.14), (-0.02, 0.2), (0.2, 0.15), (0.38, 0.22)))


def meadow(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
  _sky(canvas, light, rng, horizon=0.1)
  _clouds(canvas, light, rng, ((-0.34, 0.1), (-0.22, 0.13)))
  hills = ((0.0, 0.05, (134, 158, 116)), (0.12, 0.05, (112, 142, 92)), (0.25, 0.035, (90, 124, 76)))
  for level, amount, green in hills:
    line = level + amount * _wave(rng, canvas.x, (0.9, 0.5))
    canvas.paint(canvas.below(line, 0.3), light.land(green))
  period, turn = 0.125, int(rng.integers(1 << 20))
  column, row = np.round(canvas.x / period), np.round(canvas.y / period)
  dx = repeat(canvas.x, period) - 0.4 * period * (scatter(column, row, seed=turn) - 0.5)
  dy = repeat(canvas.y, period) - 0.4 * period * (scatter(row, column, seed=turn) - 0.5)
  bloom = canvas.cover(np.hypot(dx, dy) - 0.021)
  blooms = bloom * (canvas.y > 0.24) * (scatter(column, row, seed=turn + 9) > 0.3)
  canvas.blend(blooms, light((196, 178, 186)))


def beach(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
  _sky(canvas, light, rng, horizon=-0.05)
  _clouds(canvas, light, rng, ((-0.26, 0.1),))
  canvas.paint(canvas.below(-0.06), light((92, 138, 152)))
  x = rng.uniform(-0.3, 0.3)
  near = canvas.crop(x - 0.1, x + 0.1, -0.22, 0.0)
  near.paint(np.maximum(near.peak(x, -0.2, 0.09, 0.13), x - 0.012 - near.x), light((196, 192, 180)))
  near.paint(near.box(x + 0.015, -0.05, 0.07, 0.018), light((126, 92, 76)))
  swell = 0.012 * np.sin(2 * np.pi * canvas.x / np.float32(0.16) + rng.uniform(0, 6))
  for level in (0.02, 0.1):
    canvas.paint(np.abs(canvas.y - level - swell) - 0.011, light((128, 162, 168)))
  shore = 0.2 + 0.04 * _wave(rng, canvas.x, (0.8, 0.36))
  canvas.paint(canvas.below(shore - 0.035, 0.3), light((194, 200, 194)))
  canvas.paint(canvas.below(shore, 0.3), light.land((172, 148, 112)))
  canvas.paint(canvas.below(shore + 0.05, 0.3), light.land((192, 170, 130)))


def desert(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
  _sky(canvas, light, rng, horizon=0.05)
  dunes = ((-0.02, 0.06, (198, 166, 132)), (0.12, 0.07, (184, 146, 110)),
           (0.3, 0.06, (166, 126, 92)))  # fmt: skip
  for number, (level, amount, sand) in enumerate(dunes):
    offset, period = rng.uniform(0, 1), (0.75, 0.6, 0.95)[number]
    # Dunes are steep on their side of shade.
    way = np.mod(canvas.x / np.float32(period) + np.float32(offset), 1)
    ridge = level - amount * (np.minimum(way / 0.65, (1 - way) / 0.35) * 2 - 1)
    canvas.paint(canvas.below(ridge, 0.3), light.land(sand))
    shade = canvas.cover(canvas.below(ridge, 0.4)) * np.clip((way - 0.65) / 0.02, 0, 1)
    depth = np.clip(1 - (canvas.y - ridge) / 0.2, 0, 1)
    canvas.blend(0.75 * shade * depth, light.land((132, 98, 80)))
  x, foot = rng.uniform(0.2, 0.36) * rng.choice((-1, 1)), 0.38
  near = canvas.crop(x - 0.12, x + 0.12, foot - 0.35, foot + 0.05)
  cactus = near.box(x, foot - 0.12, 0.085, 0.02)
  for dx, low, high, half in ((0, 0, 0.3, 0.035), (-0.085, 0.1, 0.22, 0.024),
                              (0.085, 0.13, 0.26, 0.024)):  # fmt: skip
    beyond = np.maximum(np.abs(near.y - foot + (low + high) / 2) - (high - low) / 2, 0)
    cactus = np.minimum(cactus, np.hypot(near.x - x - dx, beyond) - half)
  near.paint(cactus, light.land((88, 112, 84)))


def snowfield(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
  _sky(canvas, light, rng, horizon=0.1)
  hills = ((-0.02, (164, 178, 194)), (0.14, (178, 188, 200)), (0.3, (188, 195, 203)))
  for number, (level, white) in enumerate(hills):
    line = level + 0.05 * _wave(rng, canvas.x, (1.1, 0.6))
    canvas.paint(canvas.below(line, 0.25), light(white))
    for x in rng.uniform(-0.48, 0.48, 3 if number < 2 else 0):
      foot, size = level + 0.05 + 0.04 * number, 0.17 + 0.09 * number
      trunk = canvas.crop(x - 0.07 * size, x + 0.07 * size, foot - 0.1 * size, foot + 0.04 * size)
      trunk.paint(trunk.box(x, foot - 0.04 * size, 0.07 * size, 0.08 * size), light((98, 82, 76)))
      near = _fir(canvas, x, foot, size, light((84, 112, 116)))
      near.paint(near.peak(x, foot - size, 0.1 * size, 0.2 * size), light((190, 196, 203)))


def city(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
  _sky(canvas, light, rng, horizon=0.35)
  turn = int(rng.integers(1 << 20))
  lit = light.time != "day"
  for layer, (width, low, high, wall) in enumerate(
    ((0.17, 0.02, 0.3, (120, 132, 150)), (0.235, 0.14, 0.36, (84, 90, 112)))
  ):
    x = canvas.x + 0.07 * layer + (turn % 97) / 97
    column = np.round(x / width)
    roof = high - (high - low + 0.18) * scatter(column, seed=turn + 31 * layer)
    gap = np.abs(repeat(x, width)) - width * 0.47
    house = np.maximum(canvas.below(roof), gap if layer else gap - width)
    canvas.paint(house, light(wall))
    pitch_x, pitch_y = width / (2 + layer), 0.105
    row = np.round((canvas.y - roof - 0.07) / pitch_y)
    wide, tall = pitch_x * 0.26, 0.027
    side = repeat(x if layer else x + pitch_x / 2, pitch_x)
    pane = np.maximum(np.abs(side) - wide, np.abs(canvas.y - roof - 0.07 - pitch_y * row) - tall)
    pane = np.maximum(np.maximum(pane, house + 0.02), canvas.below(roof + 0.035))
    on = scatter(np.floor(x / pitch_x), row, column, seed=turn) > 0.42
    canvas.blend(canvas.cover(pane) * on, (192, 170, 132) if lit else light((160, 172, 182)))
    if lit:
      canvas.blend(canvas.cover(pane) * ~on, light((60, 66, 92)))
  canvas.paint(canvas.below(0.44), light((92, 92, 100)))


def forest(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
  _sky(canvas, light, rng, horizon=0.2)
  rows = ((0.16, 0.36, 0.15, (122, 146, 130)), (0.3, 0.42, 0.19, (90, 122, 100)),
          (0.47, 0.5, 0.25, (62, 94, 74)))  # fmt: skip
  for foot, size, pitch, leaf in rows:
    canvas.paint(canvas.below(foot - 0.06), light.land(leaf))
    for place in np.arange(-0.75, 0.76, pitch):
      x, grown = place + rng.uniform(-0.3, 0.3) * pitch, size * rng.uniform(0.8, 1.1)
      _fir(canvas, x, foot, grown, light.land(leaf))
  canvas.paint(canvas.below(0.44), light.land((78, 88, 62)))


def mountains(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
  _sky(canvas, light, rng, horizon=0.2)
  for level, size, rock in ((0.22, 0.46, (136, 144, 164)), (0.26, 0.34, (104, 112, 136))):
    for place in (-0.5, -0.1, 0.32):
      x, high = place + rng.uniform(-0.1, 0.12), size * rng.uniform(0.8, 1.1)
      tip, half = level - high, 0.3 * high / 0.4
      near = canvas.crop(x - half, x + half, tip, level)
      rocks = near.peak(x, tip, half, high)
      near.paint(rocks, light(rock))
      shade = np.maximum(rocks, x + 0.3 * (near.y - tip) - near.x)
      near.paint(shade, light(tuple(0.84 * c for c in rock)))
      zigzag = tip + 0.3 * high + 0.7 * np.abs(repeat(near.x - x, 0.1)) - 0.035
      near.paint(np.maximum(rocks, (near.y - zigzag) * 0.8), light((192, 197, 203)))
  canvas.paint(canvas.below(0.22), light((98, 128, 148)))
  for number, level in enumerate((0.27, 0.33, 0.4)):
    dash = np.abs(repeat(canvas.x + 0.17 * number, 0.38)) - 0.1
    ripple = np.maximum(dash, np.abs(canvas.y - level) - 0.011)
    canvas.paint(ripple, light((140, 164, 176)))
  shore = 0.44 + 0.02 * _wave(rng, canvas.x, (0.7, 0.4))
  canvas.paint(canvas.below(shore, 0.2), light.land((96, 118, 88)))
