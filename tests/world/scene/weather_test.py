"""Weather and light: what falls moves, fog pales, nights are dark, snow covers land."""

import dataclasses

import numpy as np
import pytest

from mg_jax.world.scene.facts import Background, Scene
from mg_jax.world.scene.render import render
from mg_jax.world.scene.weather import TIMES, Light

MEADOW = Scene(0, 0, Background("meadow", seed=2), ())


def _frames(frames=8, start_s=0.0, **facts):
  scene = dataclasses.replace(MEADOW, **facts)
  video = render(scene, frames=frames, height=64, width=64, fps=8.0, start_s=start_s)
  return video.astype(float)


@pytest.mark.parametrize("weather, speed", [("rain", 0.75), ("snow", 0.25)])
def test_rain_and_snow_fall(weather, speed):
  video = _frames(weather=weather).mean(-1)
  passing = video - np.median(video, axis=0)
  assert np.abs(np.diff(passing, axis=0)).mean() > 2
  # Shifted down by the way of one frame, a frame is like the next one, and not shifted up.
  step = round(speed / 8 * 64)
  down = np.mean(passing[:-1, :-step] * passing[1:, step:])
  up = np.mean(passing[:-1, step:] * passing[1:, :-step])
  assert down > 3 * max(up, 1)


def test_clear_weather_stands_still_and_starts_anywhere():
  clear = _frames()
  np.testing.assert_array_equal(clear[0], clear[-1])
  late = _frames(frames=4, start_s=0.5, weather="snow")
  np.testing.assert_array_equal(late, _frames(weather="snow")[4:])


def test_fog_takes_contrast_and_snow_covers_the_hills():
  clear, fog, snow = (_frames(1, weather=w)[0] for w in ("clear", "fog", "snow"))
  assert fog.std() < 0.6 * clear.std()
  assert snow[40:].mean() > clear[40:].mean() + 20


def test_times_have_their_light():
  day, dusk, night = (_frames(1, time=time)[0] for time in TIMES)
  assert night.mean() < 0.55 * day.mean()
  assert (dusk[..., 0] - dusk[..., 2]).mean() > (day[..., 0] - day[..., 2]).mean() + 20
  assert night[..., 2].mean() > night[..., 0].mean()


def test_light_keeps_a_clear_day_as_it_is():
  colour = np.float32((90, 124, 76))
  np.testing.assert_array_equal(Light()(colour), colour)
  np.testing.assert_array_equal(Light("fog").land(colour), Light("fog")(colour))
  assert Light("snow").land(colour).mean() > Light("snow")(colour).mean()
