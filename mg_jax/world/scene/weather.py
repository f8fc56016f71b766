"""Weather and time of day of outdoor grounds: the light on every colour, then rain, snow or fog.

Rain and snow fall between the ground and what stands in front of it, in screen space, at a speed in
shorter sides per second. Neither depends on the ground, so an edit changes one alone.
"""

import dataclasses

import numpy as np

from mg_jax.world.scene.canvas import scatter

WEATHERS = ("clear", "rain", "snow", "fog")
TIMES = ("day", "dusk", "night")

_SKIES = {  # top, horizon
  "day": ((104, 144, 176), (166, 184, 190)),
  "dusk": ((96, 80, 122), (203, 148, 126)),
  "night": ((18, 24, 54), (46, 56, 92)),
}
_FOG = {"day": (170, 180, 190), "dusk": (166, 142, 146), "night": (78, 88, 114)}
# Even the greyest sky has a little colour.
_HAZE = {"day": (-4, 0, 6), "dusk": (6, -6, 5), "night": (-4, 0, 6)}
_DROP = {"day": (186, 198, 208), "dusk": (188, 180, 196), "night": (120, 134, 164)}
_FLAKE = {"day": (203, 205, 205), "dusk": (205, 196, 200), "night": (166, 174, 194)}
_COVER = (188, 195, 203)  # fresh snow on land
FOG_OPACITY = (0.38, 0.72)  # least and most


@dataclasses.dataclass(frozen=True)
class Light:
  """What time and weather make of a ground's colours, those of a clear day."""

  weather: str = "clear"
  time: str = "day"

  @property
  def clear(self) -> bool:
    """Whether sun, moon and stars are visible."""
    return self.weather == "clear"

  @property
  def sky(self) -> tuple[np.ndarray, np.ndarray]:
    """Colours of the sky at the top and at the horizon."""
    return tuple(self._overcast(np.asarray(c, np.float32)) for c in _SKIES[self.time])

  def __call__(self, colour: tuple[float, float, float]) -> np.ndarray:
    """Colour of something lit by the sky."""
    colour = np.asarray(colour, np.float32)
    if self.time == "dusk":
      colour = colour * np.float32((0.84, 0.66, 0.66)) + np.float32((16, 4, 14))
    elif self.time == "night":
      colour = colour * np.float32((0.4, 0.47, 0.57)) + np.float32((2, 4, 18))
    return self._overcast(colour)

  def land(self, colour: tuple[float, float, float]) -> np.ndarray:
    """The same for the ground and plants, which falling snow covers."""
    if self.weather == "snow":
      colour = 0.5 * np.asarray(colour, np.float32) + 0.5 * np.float32(_COVER)
    return self(colour)

  def _overcast(self, colour: np.ndarray) -> np.ndarray:
    if self.weather == "clear":
      return colour
    grey = colour @ np.float32((0.3, 0.59, 0.11))
    colour = grey + np.float32(0.55) * (colour - grey) + np.float32(_HAZE[self.time])
    return np.maximum(colour * np.float32(0.8 if self.weather == "rain" else 1.0), 0)


def fall(v_THWC: np.ndarray, light: Light, *, time_T: np.ndarray, seed: int) -> np.ndarray:
  """The frames with rain, snow or fog; time_T: seconds. Frames of one view become those of all
  times."""
  _, height, width, _ = v_THWC.shape
  if light.weather == "clear":
    return v_THWC
  side = min(height, width)
  x = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) / side)[None, None, :]
  y = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) / side)[None, :, None]
  t = time_T.astype(np.float32)[:, None, None]
  if light.weather == "rain":
    alpha, colour = 0.75 * _rain(x, y, t, seed, 1 / side), _DROP[light.time]
  elif light.weather == "snow":
    alpha, colour = _snow(x, y, t, seed, 1 / side), _FLAKE[light.time]
  else:
    start = np.float32(seed % 1000)
    bank = np.sin(2 * np.pi * (1.1 * x - 0.1 * t) + 5 * y + start) * np.sin(9 * y + 0.5 * start)
    low, high = FOG_OPACITY
    alpha = low + (high - low) * np.clip(0.6 - 0.3 * y + 0.35 * bank, 0, 1)
    colour = _FOG[light.time]
  away = np.float32(colour) - v_THWC
  return v_THWC + alpha.astype(np.float32)[..., None] * away


def _rain(x, y, t, seed: int, pixel: float) -> np.ndarray:
  """Slanted streaks that fall 0.75 shorter sides per second."""
  across = x + np.float32(0.22) * y
  pitch, long = 0.085, 0.5
  column = np.round(across / pitch)
  offset = scatter(column, seed=seed) * long
  down = np.mod(y - np.float32(0.75) * t + offset.astype(np.float32), np.float32(long)) - long / 2
  side = np.abs(across - pitch * column.astype(np.float32)) - 0.0105
  return np.clip(0.5 - side / pixel, 0, 1) * np.clip(0.5 - (np.abs(down) - 0.1) / pixel, 0, 1)


def _snow(x, y, t, seed: int, pixel: float) -> np.ndarray:
  """Flakes that sink 0.25 shorter sides per second and sway."""
  pitch = 0.165
  column = np.round(x / pitch)
  start = scatter(column, seed=seed + 1) * pitch * 7
  speed = 0.22 + 0.06 * scatter(column, seed=seed + 2)
  fallen = y - (speed * t + start).astype(np.float32)
  row = np.round(fallen / pitch)
  spread_x = scatter(column, row, seed=seed) - 0.5
  spread_y = scatter(row, column, seed=seed + 5) - 0.5
  radius = 0.022 + 0.014 * scatter(row, column, seed=seed + 3)
  sway = 0.02 * np.sin(2.5 * t + 2 * column)
  dx = x - pitch * column - 0.4 * pitch * spread_x - sway
  dy = fallen - pitch * row - 0.5 * pitch * spread_y
  return np.clip(0.5 - (np.hypot(dx, dy) - radius) / pixel, 0, 1)
