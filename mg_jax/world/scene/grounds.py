"""Grounds of the toy world besides the plain ones of `facts.BACKGROUNDS`: a registry from name to
how it is painted.

The layout of a ground (its clouds, its bricks) follows `Background.seed` alone, so another weather,
time of day or camera leaves every cloud in its place.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.scene import indoors, outdoors, weather
from mg_jax.world.scene.canvas import Canvas

_STREAM = 0x6E0


@dataclasses.dataclass(frozen=True)
class Ground:
  """paint: covers a canvas; an outdoor one takes the light of weather and time too."""

  paint: Callable[..., None]
  outdoor: bool


GROUNDS: dict[str, Ground] = {
  "sky": Ground(outdoors.sky, outdoor=True),
  "meadow": Ground(outdoors.meadow, outdoor=True),
  "beach": Ground(outdoors.beach, outdoor=True),
  "desert": Ground(outdoors.desert, outdoor=True),
  "snowfield": Ground(outdoors.snowfield, outdoor=True),
  "city": Ground(outdoors.city, outdoor=True),
  "forest": Ground(outdoors.forest, outdoor=True),
  "mountains": Ground(outdoors.mountains, outdoor=True),
  "brick": Ground(indoors.brick, outdoor=False),
  "wood": Ground(indoors.wood, outdoor=False),
  "space": Ground(indoors.space, outdoor=False),
  "dots": Ground(indoors.dots, outdoor=False),
  "grid": Ground(indoors.grid, outdoor=False),
  "waves": Ground(indoors.waves, outdoor=False),
  "curtain": Ground(indoors.curtain, outdoor=False),
}


def outdoor(name: str) -> bool:
  """Whether a ground has weather and a time of day."""
  return name in GROUNDS and GROUNDS[name].outdoor


def frames(
  name: str,
  seed: int,
  *,
  sky: tuple[str, str],
  height: int,
  width: int,
  zoom_T: np.ndarray,
  shift_T: np.ndarray,
  time_T: np.ndarray,
) -> np.ndarray:
  """A ground, float32 (T, H, W, 3) in 0..255, without what stands in front of it.

  name: of GROUNDS; seed: of its layout; sky: weather and time; zoom_T, shift_T: views of the
  camera; time_T: seconds. Raises UserError on unknown weather or time.
  """
  for value, names in zip(sky, (weather.WEATHERS, weather.TIMES), strict=True):
    if value not in names:
      raise UserError(f"render: {value!r} is none of {', '.join(names)}; choose one of them")
  ground = GROUNDS[name]
  if np.ptp(zoom_T) == np.ptp(shift_T) == 0:  # a static camera
    zoom_T, shift_T = zoom_T[:1], shift_T[:1]
  canvas = Canvas(height=height, width=width, zoom_T=zoom_T, shift_T=shift_T)
  rng = np.random.default_rng([seed, _STREAM])
  v_THWC = canvas.v_THWC
  if ground.outdoor:
    light = weather.Light(*sky)
    ground.paint(canvas, light, rng)
    v_THWC = weather.fall(v_THWC, light, time_T=time_T, seed=seed)
  else:
    ground.paint(canvas, rng)
  if len(v_THWC) == len(time_T):
    return v_THWC
  return np.broadcast_to(v_THWC, (len(time_T), *v_THWC.shape[1:])).copy()
