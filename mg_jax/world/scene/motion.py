"""Motions of the toy world: a registry from name to law of movement.

A law maps a `facts.Motion` and the scene phase u = time / duration, an array (T,), to a `Pose` of
arrays (T,). Everything is paced by the scene: a thing that moves left covers its distance once in
scene.duration_s, however long that is, so the label holds for the whole clip. Beyond the end of the
scene one-way motions run back (u is reflected), cyclic ones continue.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from mg_jax.world.scene.facts import Motion


@dataclasses.dataclass(frozen=True)
class Pose:
  """Displacement (shorter sides), size factor and added angle (radians), each (T,)."""

  dx: np.ndarray
  dy: np.ndarray
  scale: np.ndarray
  angle: np.ndarray


def _pose(u_T: np.ndarray, *, dx=0.0, dy=0.0, scale=1.0, angle=0.0) -> Pose:
  values = (np.asarray(value, np.float64) for value in (dx, dy, scale, angle))
  return Pose(*(np.broadcast_to(value, u_T.shape) for value in values))


def _once(u_T: np.ndarray) -> np.ndarray:
  """Triangle wave: 0..1 within the scene, back again afterwards."""
  return 1 - np.abs(1 - np.mod(u_T, 2.0))


def _travel(x: int, y: int) -> Callable[[Motion, np.ndarray], Pose]:
  def law(m: Motion, u_T: np.ndarray) -> Pose:
    way = m.amount * (_once(u_T) - 0.5)
    return _pose(u_T, dx=x * way, dy=y * way)

  return law


def _rebound(m: Motion, u_T: np.ndarray) -> np.ndarray:
  """Distance in 0..|amount| from the floor or the wall, 0 at every hit."""
  if not m.hits:
    # |sin| falls and rebounds like a ball.
    return np.abs(m.amount * np.sin(np.pi * (m.cycles * u_T + m.phase)))
  hits_N = np.asarray(m.hits)
  # A parabola between two hits, the higher the further apart they are.
  u_T = np.clip(_once(u_T), hits_N[0], hits_N[-1])
  after_T = np.clip(np.searchsorted(hits_N, u_T, side="right"), 1, len(hits_N) - 1)
  gaps_N = np.diff(hits_N)
  way_T = (u_T - hits_N[after_T - 1]) / gaps_N[after_T - 1]
  return np.abs(m.amount) * (gaps_N / gaps_N.max())[after_T - 1] * 4 * way_T * (1 - way_T)


def _bounce(m: Motion, u_T: np.ndarray) -> Pose:
  # y points down, so the floor is at +amount / 2.
  return _pose(u_T, dy=m.amount / 2 - _rebound(m, u_T))


def _knock(m: Motion, u_T: np.ndarray) -> Pose:
  # The wall is on the right for a positive amount and on the left for a negative one.
  return _pose(u_T, dx=m.amount / 2 - np.sign(m.amount) * _rebound(m, u_T))


def _orbit(m: Motion, u_T: np.ndarray) -> Pose:
  theta = 2 * np.pi * (m.cycles * u_T + m.phase)
  return _pose(u_T, dx=m.amount * np.cos(theta), dy=m.amount * np.sin(theta))


def _spin(m: Motion, u_T: np.ndarray) -> Pose:
  return _pose(u_T, angle=2 * np.pi * (m.cycles * u_T + m.phase))


def _resize(sign: int) -> Callable[[Motion, np.ndarray], Pose]:
  def law(m: Motion, u_T: np.ndarray) -> Pose:
    return _pose(u_T, scale=m.amount ** (sign * (_once(u_T) - 0.5)))

  return law


MOTIONS: dict[str, Callable[[Motion, np.ndarray], Pose]] = {
  "left": _travel(-1, 0),
  "right": _travel(1, 0),
  "up": _travel(0, -1),
  "down": _travel(0, 1),
  "bounce": _bounce,
  "knock": _knock,
  "orbit": _orbit,
  "spin": _spin,
  "grow": _resize(1),
  "shrink": _resize(-1),
  "still": lambda m, u_T: _pose(u_T),
}
