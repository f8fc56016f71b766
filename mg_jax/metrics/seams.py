"""Whether seams in sound generated in windows are audible, by spectral flux [MG 6.2].

An onset detector that needs no training: how much the loudness of bands differs between the 20 ms
before and after a time, relative to the median around it. If a real recording triggers it as often,
no seam is audible.
"""

from collections.abc import Sequence

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.metrics.scores import Rate, wilson

WINDOW_S, HOP_S = 0.02, 0.005
JOINED = 4  # windows on each side whose power is averaged, to reduce the variance of noise
BANDS = 20  # of equal width on a logarithmic scale
LOWEST_HZ = 150.0
FLOOR_DB = -80.0  # below full scale; changes below are inaudible
AROUND_S = 0.5  # on both sides, for the median
RISE = 4.0  # median absolute deviations above the median
NEAR_S = 0.04  # distance from a seam


def flux(wave: np.ndarray, *, rate: int) -> np.ndarray:
  """Mean change in dB of the bands, up or down, (<= frames,); value k is at k HOP_S seconds.

  Raises:
    UserError: unless the waveform is finite floats (T,).
  """
  wave = np.asarray(wave)
  if wave.ndim != 1 or wave.dtype.kind != "f" or not np.isfinite(wave).all():
    raise UserError(f"got {wave.dtype} of shape {wave.shape}; pass finite floats (T,)")
  window, hop = round(WINDOW_S * rate), round(HOP_S * rate)
  padded = np.pad(wave.astype(np.float64), window // 2)
  frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
  taper = np.hanning(window)
  power = np.abs(np.fft.rfft(frames * taper, axis=1)) ** 2 / np.square(taper).sum() / window
  edges = np.geomspace(LOWEST_HZ, rate / 2, BANDS + 1) * window / rate
  # Bands narrower than a bin take the bin that contains them.
  low, high = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
  total = np.cumsum(np.pad(power, ((0, 0), (1, 0))), axis=1)
  high = np.minimum(np.maximum(high, low + 1), power.shape[1])
  total = np.cumsum(np.pad(total[:, high] - total[:, low], ((1, 0), (0, 0))), axis=0)
  mean = (total[JOINED:] - total[:-JOINED]) / JOINED
  decibels = 10 * np.log10(np.maximum(mean, 10 ** (FLOOR_DB / 10)))
  apart = JOINED + 2
  change = np.abs(decibels[apart:] - decibels[:-apart]).mean(axis=1)
  # The first is between windows 0 to JOINED - 1 and those from `apart` on.
  return np.pad(change, ((apart + JOINED) // 2, 0))[: len(power)]


def alarms(wave: np.ndarray, times_s: Sequence[float], *, rate: int) -> np.ndarray:
  """Whether a change stands out near each of the times, bool (times,).

  Raises:
    UserError: as `flux`.
  """
  change, around, near = flux(wave, rate=rate), round(AROUND_S / HOP_S), round(NEAR_S / HOP_S)
  alarm = []
  for time in times_s:
    at = round(time / HOP_S)
    usual = change[max(0, at - around) : at + around + 1]
    middle = np.median(usual)
    spread = 1.4826 * np.median(np.abs(usual - middle))
    here = change[max(0, at - near) : at + near + 1]
    alarm.append(bool(here.max(initial=0.0) > middle + RISE * spread + 1e-9))
  return np.array(alarm, bool)


def rate_of(alarms: Sequence[np.ndarray]) -> Rate:
  """The fraction of places with an alarm, with its uncertainty."""
  joined = np.concatenate([np.zeros(0, bool), *alarms])
  return wilson(int(joined.sum()), len(joined))


def places(
  seconds: float, rng: np.random.Generator, *, count: int, away_from: Sequence[float] = ()
) -> list[float]:
  """Random times in a sound, none within twice NEAR_S of its ends or of the given times.

  Fewer than `count` if there is little room.
  """
  drawn = rng.uniform(2 * NEAR_S, max(seconds - 2 * NEAR_S, 2 * NEAR_S), 20 * count)
  clear = [t for t in drawn.tolist() if all(abs(t - other) > 2 * NEAR_S for other in away_from)]
  return clear[:count]
