"""Grounds without sky, weather and time of day: walls, cloth, paper and deep space.

Muted like those of `outdoors`. `period` and `angle` of the scene's background are not used: these
grounds have a scale and an orientation of their own by which they are recognised.
"""

import numpy as np

from mg_jax.world.scene.canvas import Canvas, repeat, scatter
from mg_jax.world.scene.outdoors import stars


def brick(canvas: Canvas, rng: np.random.Generator) -> None:
  wide, tall, turn = 0.25, 0.125, int(rng.integers(1 << 20))
  x, y = canvas.x + rng.uniform(0, wide), canvas.y + rng.uniform(0, tall)
  row = np.round(y / tall)
  x = x + np.where(row % 2 == 0, 0, wide / 2).astype(np.float32)
  column = np.round(x / wide)
  canvas.fill((128, 76, 66), (160, 104, 88), scatter(column, row, seed=turn))
  joint = np.maximum(np.abs(repeat(x, wide)) - wide / 2, np.abs(repeat(y, tall)) - tall / 2)
  canvas.paint(-joint - 0.015, (172, 162, 150))


def wood(canvas: Canvas, rng: np.random.Generator) -> None:
  wide, turn = 0.22, int(rng.integers(1 << 20))
  x = canvas.x + rng.uniform(0, wide)
  board = np.round(x / wide)
  tone = scatter(board, seed=turn)
  canvas.fill((146, 112, 80), (116, 84, 58), tone + 0 * canvas.y)
  bend = 0.025 * np.sin(5 * canvas.y + 20 * tone) + 0.06 * np.exp(
    -(((canvas.y - tone + 0.5) / 0.12) ** 2)
  ) * repeat(x, wide) / wide
  grain = np.sin(2 * np.pi * (x + bend) / np.float32(0.055) + 9 * tone)
  canvas.blend(0.35 * np.clip(grain, 0, 1), (86, 58, 40))
  canvas.paint(wide / 2 - 0.012 - np.abs(repeat(x, wide)), (62, 42, 32))


def space(canvas: Canvas, rng: np.random.Generator) -> None:
  angle = rng.uniform(0, 2 * np.pi)
  drift = np.cos(angle) * canvas.x + np.sin(angle) * canvas.y
  canvas.fill((16, 16, 42), (62, 40, 88), np.exp(-((drift / 0.22) ** 2)))
  stars(canvas, int(rng.integers(1 << 20)))
  x, y = rng.choice((-0.32, 0.32)), rng.choice((-0.32, 0.3))
  near = canvas.crop(x - 0.25, x + 0.25, y - 0.16, y + 0.16)
  dx, dy, globe = near.x - x, near.y - y, near.disc(x, y, 0.12)
  near.paint(globe, (150, 116, 106))
  near.paint(np.maximum(globe, -near.disc(x - 0.04, y - 0.04, 0.13)), (104, 74, 92))
  ring = np.abs(np.hypot(dx * 0.9 + dy * 0.3, 3 * (dy - 0.25 * dx)) - 0.19) - 0.028
  near.paint(np.maximum(ring, np.where(dy < 0, -globe, -1)), (176, 160, 132))


def dots(canvas: Canvas, rng: np.random.Generator) -> None:
  pitch = 0.22
  x, y = canvas.x + rng.uniform(0, pitch), canvas.y + rng.uniform(0, pitch)
  canvas.fill((164, 112, 128), (164, 112, 128), 0 * canvas.y + 0 * canvas.x)
  for shift in (0, pitch / 2):
    distance = np.hypot(repeat(x + shift, pitch), repeat(y + shift, pitch)) - 0.048
    canvas.paint(distance, (200, 184, 180))


def grid(canvas: Canvas, rng: np.random.Generator) -> None:
  pitch = 0.125
  x, y = canvas.x + rng.uniform(0, pitch), canvas.y + rng.uniform(0, pitch)
  canvas.fill((202, 190, 158), (202, 190, 158), 0 * canvas.y + 0 * canvas.x)
  line = np.minimum(np.abs(repeat(x, pitch)), np.abs(repeat(y, pitch))) - 0.013
  canvas.paint(line, (112, 140, 172))


def waves(canvas: Canvas, rng: np.random.Generator) -> None:
  pitch = 0.17
  crest = 0.032 * np.sin(2 * np.pi * (canvas.x + rng.uniform()) / np.float32(0.3))
  y = canvas.y + crest.astype(np.float32) + rng.uniform(0, pitch)
  canvas.fill((64, 112, 124), (64, 112, 124), 0 * canvas.y + 0 * canvas.x)
  canvas.paint((np.abs(repeat(y, pitch)) - pitch / 4) * 0.85, (120, 164, 168))
  canvas.paint((np.abs(repeat(y - pitch / 4, pitch)) - 0.013) * 0.85, (184, 198, 190))


def curtain(canvas: Canvas, rng: np.random.Generator) -> None:
  phase, pitch = rng.uniform(), 0.19
  x = canvas.x + 0.012 * np.sin(7 * canvas.y + 6 * phase) + phase
  fold = 0.5 + 0.5 * np.cos(2 * np.pi * x / np.float32(pitch))
  canvas.fill((72, 28, 42), (146, 72, 78), fold**1.3)
  swag = 0.07 * np.sqrt(np.clip(1 - (repeat(canvas.x + phase, 0.33) / 0.165) ** 2, 0, 1))
  hem = -0.42 + swag
  canvas.paint(canvas.y - hem - 0.026, (190, 158, 112))
  canvas.paint(canvas.y - hem, (118, 50, 62))
