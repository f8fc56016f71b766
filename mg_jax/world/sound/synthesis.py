"""Synthesis of the toy world's sound: Scene -> Soundtrack, exact to the sample, in plain numpy.

Every kind of sound has its own frequencies: mains hum below 110 Hz, the hum of an orbit around 150,
wind and music up to 1900, a whirr from 2200 to 3600, rising and falling tones from 1300 to 5200,
rain from 5500 on. Impacts start with a burst of up to 10,000 Hz.

mix (T,) float32 in [-1, 1], T = round(duration_s * rate); it is the sum of the stems.
"""

import dataclasses

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.scene.facts import Music, Scene
from mg_jax.world.scene.motion import MOTIONS
from mg_jax.world.scene.shapes import SHAPES
from mg_jax.world.sound.facts import MOODS, NOISY_BELOW, Impact, effect, impacts
from mg_jax.world.sound.timbres import LOWEST_ROOT, band_noise, note, strike

RATE = 48_000  # Hz [MG 6.2]
PEAK = 0.99
EFFECT_LEVEL, AMBIENCE_LEVEL = 0.07, 0.025  # root mean square
FADE_S = 0.01
ORBIT_HZ, ORBIT_SWING = 150.0, 0.2
RESIZE_HZ = 2600.0  # at the nominal size; two octaves for twice the size
WHIRR_HZ, RAIN_HZ, WIND_HZ = (2200.0, 3600.0), (5500.0, 12000.0), (250.0, 900.0)
MAINS_HZ = (50.0, 100.0)
_STREAM = 0x57AE  # random stream of noises


@dataclasses.dataclass(frozen=True)
class Soundtrack:
  """The sound of one scene. stems: those present of "impacts", "effect", "music", "ambience" and
  "noise"; each (T,) float32. events: every impact."""

  mix: np.ndarray
  stems: dict[str, np.ndarray]
  events: tuple[Impact, ...]


def soundtrack(scene: Scene, *, rate: int = RATE) -> Soundtrack:
  """Renders the sound of a whole scene, silence for one without `Scene.sound`.

  Raises UserError for a rate below 16,000, which cannot represent the highest sounds.
  """
  if rate < 16_000:
    raise UserError(f"soundtrack: rate is {rate} Hz; give 16000 or more")
  length = round(scene.duration_s * rate)
  if scene.sound is None:
    return Soundtrack(np.zeros(length, np.float32), {}, ())
  events, stems = impacts(scene), {}
  if events:
    stems["impacts"] = np.zeros(length, np.float32)
    for hit in events:
      wave = strike(hit.material, hit.pitch_hz, rate)
      _add(stems["impacts"], wave, round(hit.time_s * rate), hit.level)
  if effect(scene):
    stems["effect"] = _effect(scene, length, rate)
  if scene.sound.music:
    stems["music"] = _music(scene.sound.music, length, rate)
  if scene.sound.ambience:
    stems["ambience"] = _ambience(scene, length, rate)
  if scene.sound.quality < NOISY_BELOW:
    level = 10 ** (-(20 + 5 * scene.sound.quality) / 20)
    stems["noise"] = level * _rng(scene, 2).standard_normal(length, np.float32)
  mix = np.sum([*stems.values()], axis=0, dtype=np.float32) if stems else np.zeros(length, "f4")
  loudest = float(np.abs(mix).max(initial=0))
  if loudest > PEAK:
    mix = mix * np.float32(PEAK / loudest)
    stems = {name: stem * np.float32(PEAK / loudest) for name, stem in stems.items()}
  return Soundtrack(mix, stems, events)


def _rng(scene: Scene, part: int) -> np.random.Generator:
  return np.random.default_rng([scene.seed, scene.index, _STREAM, part])


def _add(out: np.ndarray, wave: np.ndarray, start: int, level: float = 1.0) -> None:
  fits = wave[: max(0, len(out) - start)]
  out[start : start + len(fits)] += np.float32(level) * fits


def _music(music: Music, length: int, rate: int) -> np.ndarray:
  """A melody with a note every half beat, never the same note twice in a row."""
  mood, out = MOODS[music.mood], np.zeros(length, np.float32)
  rng = np.random.default_rng(music.tune)
  step_s = 30 / mood.tempo_bpm
  steps = (*mood.scale, 12)
  degree = int(rng.integers(len(steps)))
  for number in range(int(np.ceil((length / rate - music.start_s) / step_s))):
    hz = LOWEST_ROOT * 2 ** ((music.root + steps[degree]) / 12)
    start = round((music.start_s + number * step_s) * rate)
    _add(out, note(mood.instrument, hz, step_s, rate), start)
    degree = (degree + int(rng.integers(1, len(steps)))) % len(steps)
  return out


def _effect(scene: Scene, length: int, rate: int) -> np.ndarray:
  """The continuous sound of the subject's motion."""
  thing = scene.objects[0]
  # Poses are smooth: a thousand per second are as good as one per sample, and cheap.
  step = rate // 1000
  few, time = np.arange(0, length + step, step) / rate, np.arange(length) / rate
  pose = MOTIONS[thing.motion.name](thing.motion, few / scene.duration_s)
  name = effect(scene)
  if name == "whirr":
    # Each passing corner sounds four times: once alone would be too slow to hear.
    turns = 4 * max(1, SHAPES[thing.kind].symmetry) * np.interp(time, few, pose.angle)
    noise = band_noise(_rng(scene, 0), length, rate=rate, band_hz=WHIRR_HZ)
    out = noise * (0.7 + 0.3 * np.cos(turns))
  else:
    if name == "hum":
      hz = ORBIT_HZ * (1 + ORBIT_SWING * pose.dx / thing.motion.amount)
    else:
      hz = RESIZE_HZ * pose.scale**2
    out = 2**0.5 * np.sin(2 * np.pi / rate * np.cumsum(np.interp(time, few, hz)))
  return _faded(EFFECT_LEVEL * out, rate)


def _ambience(scene: Scene, length: int, rate: int) -> np.ndarray:
  rng, time = _rng(scene, 1), np.arange(length) / rate
  if scene.sound.ambience == "mains":
    out = sum(np.sin(2 * np.pi * hz * time) for hz in MAINS_HZ)
  elif scene.sound.ambience == "rain":
    out = band_noise(rng, length, rate=rate, band_hz=RAIN_HZ)
  else:
    gusts = 1 + 0.4 * np.sin(2 * np.pi * (0.4 * time + rng.uniform()))
    out = gusts * band_noise(rng, length, rate=rate, band_hz=WIND_HZ)
  return _faded(AMBIENCE_LEVEL * out, rate)


def _faded(wave: np.ndarray, rate: int) -> np.ndarray:
  """Fades both ends within FADE_S, as a cut would click."""
  ramp = np.linspace(0, 1, min(round(FADE_S * rate), len(wave) // 2))
  wave[: len(ramp)] *= ramp
  wave[len(wave) - len(ramp) :] *= ramp[::-1]
  return wave.astype(np.float32)
