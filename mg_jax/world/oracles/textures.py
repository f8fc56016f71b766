"""Oracles of lasting sounds: effect of a motion, ambience, music and its tempo, from the waveform.

Each kind of sound has its band (see `world.sound.synthesis`). The median over the bins of a band
separates noise from tones, the median over time separates lasting from passing sounds, and the
level above 13 kHz gives the noise of a recording, equally loud in all bands. wave (T,) at 48 kHz.
"""

import numpy as np

from mg_jax.world.sound.facts import MOODS
from mg_jax.world.sound.spectra import RATE, band, checked, densities

WHITE = 4.0  # ratio of a noise's density to that of the recording
PROMINENT = 18.0  # ratio of a gliding tone to the median of its band
PROMINENT_NOTE = 12.0  # the same for a note, which may fade into wind before the next
_REFERENCE_HZ = (13000.0, 20000.0)
_WHIRR_HZ, _RAIN_HZ, _WIND_HZ = (2300.0, 3500.0), (5800.0, 7600.0), (280.0, 880.0)
_HUM_HZ, _GLIDE_HZ, _MUSIC_HZ = (110.0, 195.0), (1200.0, 5400.0), (215.0, 900.0)
# Least densities (mean square per Hz) and powers, about ten decibels below those of `sound`.
_WHIRR, _RAIN, _WIND = 1e-7, 1e-8, 2e-8
_HUM, _MAINS, _GLIDE, _NOTE = 3e-4, 2e-5, 2e-4, 1e-5
GLIDE_OCTAVES = 0.8  # least range of a glide
TEMPOS = np.arange(70.0, 142.5, 0.5)  # a factor of two, so that none is the double of another
# Fraction of the time with a note. In 400 scenes of 2 s, clean and damaged, those without music
# reached 0.19 and those with it 0.66.
MUSIC_SHARE = 0.4


def effect(wave: np.ndarray) -> str | None:
  """The detected one of EFFECTS: "whirr", "hum", "rise", "fall", or None."""
  wave = checked(wave)
  glide = _glide(wave)
  if glide is not None:
    return glide
  power, hz = densities(wave, window=8192, hop=2048)
  if _tone(power, hz, _HUM_HZ, least=_HUM):
    return "hum"
  return "whirr" if _noise(power, hz, _WHIRR_HZ, least=_WHIRR) else None


def ambience(wave: np.ndarray) -> str | None:
  """The detected one of AMBIENCES, or None."""
  power, hz = densities(checked(wave), window=8192, hop=2048)
  if _noise(power, hz, _RAIN_HZ, least=_RAIN):
    return "rain"
  if _tone(power, hz, (38.0, 62.0), least=_MAINS) and _tone(power, hz, (88.0, 108.0), least=_MAINS):
    return "mains"
  # Notes fill many bins of this band, so wind is the level of the quieter ones.
  return "wind" if _noise(power, hz, _WIND_HZ, least=_WIND, quantile=0.2) else None


def music(wave: np.ndarray, hits_s: np.ndarray) -> float | None:
  """Tempo of the detected music in beats per minute, or None without music.

  hits_s: times of impacts, around which nothing counts as a note.
  """
  wave = checked(wave)
  power, hz = densities(wave, window=4096, hop=1024)
  inside = power[:, band(hz, *_MUSIC_HZ)]
  tonal_T = (inside.max(axis=1) * 2 * hz[1] > _NOTE) & (
    inside.max(axis=1) > PROMINENT_NOTE * np.median(inside, axis=1)
  )
  free_T = _free(len(tonal_T), 1024 / RATE, hits_s, before_s=0.05, after_s=0.2)
  if free_T.sum() < 8:
    free_T = np.ones(len(tonal_T), bool)
  if tonal_T[free_T].mean() < MUSIC_SHARE:
    return None
  return _tempo(wave, hits_s)


def mood(tempo_bpm: float) -> str:
  """The mood whose tempo is nearest in ratio."""
  return min(MOODS, key=lambda name: abs(np.log(MOODS[name].tempo_bpm / tempo_bpm)))


def _free(
  frames: int, step_s: float, hits_s: np.ndarray, *, before_s: float, after_s: float
) -> np.ndarray:
  """bool (frames,): away from all hits."""
  away = np.arange(frames)[:, None] * step_s - np.asarray(hits_s, float)[None]
  return ~((away > -before_s) & (away < after_s)).any(axis=1)


def _noise(
  power: np.ndarray,
  hz: np.ndarray,
  edges: tuple[float, float],
  *,
  least: float,
  quantile: float = 0.5,
) -> bool:
  """Whether a lasting noise fills a band, denser than the white noise of the recording."""
  white = float(np.median(power[:, band(hz, *_REFERENCE_HZ)]))
  density = float(np.median(np.quantile(power[:, band(hz, *edges)], quantile, axis=1)))
  return density > max(least, WHITE * white)


def _tone(power: np.ndarray, hz: np.ndarray, edges: tuple[float, float], *, least: float) -> bool:
  """Whether a narrow band holds a lasting tone of at least this power (mean square)."""
  inside, around = band(hz, *edges), band(hz, 0.6 * edges[0], 1.5 * edges[1])
  total = power[:, inside].sum(axis=1) * hz[1]
  peak = power[:, inside].max(axis=1) > 8 * np.median(power[:, around], axis=1)
  return bool(np.median(total) > least and peak.mean() > 0.6)


def _glide(wave: np.ndarray) -> str | None:
  """"rise" or "fall" if one tone moves through its band for most of the time."""
  power, hz = densities(wave, window=2048, hop=1024)
  inside = band(hz, *_GLIDE_HZ)
  level_T = power[:, inside].max(axis=1)
  clear_T = (level_T * 2 * hz[1] > _GLIDE) & (
    level_T > PROMINENT * np.median(power[:, inside], axis=1)
  )
  if clear_T.mean() < 0.7:
    return None
  pitch_T = np.log2(hz[inside][power[:, inside].argmax(axis=1)])
  time_T = np.arange(len(pitch_T))[clear_T] / len(pitch_T)
  slope, middle = np.polyfit(time_T, pitch_T[clear_T], 1)
  off = np.abs(pitch_T[clear_T] - middle - slope * time_T)
  if abs(slope) < GLIDE_OCTAVES or np.median(off) > 0.15:
    return None
  return "rise" if slope > 0 else "fall"


def _tempo(wave: np.ndarray, hits_s: np.ndarray) -> float:
  """The tempo whose grid of half beats holds the most onsets of tones below 2 kHz."""
  hop = 256
  power, hz = densities(wave, window=1024, hop=hop)
  level = np.log1p(1e6 * power[:, band(hz, 200.0, 1900.0)])
  rise_T = np.maximum(np.diff(level, axis=0, prepend=level[:1]), 0).sum(axis=1)
  rise_T = np.convolve(rise_T, np.hanning(11)[1:-1], mode="same")
  free_T = _free(len(rise_T), hop / RATE, hits_s, before_s=0.03, after_s=0.06)
  # The ends of the clip are not onsets.
  free_T[:3] = free_T[-6:] = False
  if not free_T.any():
    return float(np.median(TEMPOS))
  rise_T = np.where(free_T, rise_T - rise_T[free_T].mean(), 0.0)
  best, result = -np.inf, TEMPOS[0]
  for tempo in TEMPOS:
    step = 30 / tempo * RATE / hop
    starts = np.arange(0, step)
    grid = np.round(starts[:, None] + step * np.arange(np.ceil(len(rise_T) / step))).astype(int)
    inside = grid < len(rise_T)
    values = np.where(inside, rise_T[np.minimum(grid, len(rise_T) - 1)], 0)
    # Square root of the count: many notes on the grid are stronger evidence than few.
    score = float((values.sum(axis=1) / np.sqrt(np.maximum(inside.sum(axis=1), 1))).max())
    if score > best:
      best, result = score, tempo
  return float(result)
