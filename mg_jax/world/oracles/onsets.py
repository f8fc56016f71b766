"""Impact oracle: when something is hit, its material and size, from the waveform alone.

A contact is a sudden rise of energy in several bands above the music. What follows is compared with
templates of every material and size in frequency bands and time slices, like kinds of shapes.
Times are seconds; wave (T,) at 48 kHz.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.sound.facts import MATERIALS, PITCHES, Impact, pitch_hz
from mg_jax.world.sound.spectra import RATE, band, checked, densities
from mg_jax.world.sound.timbres import strike

BANDS_HZ = (2600.0, 3400.0, 4400.0, 5800.0, 10000.0)
WINDOW, HOP = 256, 64
RISE = 6.0  # ratio of energy to the energy before
QUIETEST = 2e-6  # mean square in a band, -57 dB
LEAST_GAP_S = 0.08
BEFORE_S = (0.035, 0.007)  # interval before a contact that it is compared with
SLICES_S = (0.0, 0.008, 0.03, 0.08, 0.16)
EDGES_HZ = np.geomspace(150.0, 11000.0, 33)
COMPRESSION = 0.25  # exponent of powers: a band twenty decibels down still counts


def onsets(wave: np.ndarray) -> np.ndarray:
  """Times (N,) of contacts in ascending order; a sound already on at the start has none."""
  wave = checked(wave)
  power, hz = densities(wave, window=WINDOW, hop=HOP)
  # Cutting a waveform broadens its spectrum.
  power = power[: (len(wave) - WINDOW // 2) // HOP + 1]
  bands = [band(hz, *edges) for edges in zip(BANDS_HZ[:-1], BANDS_HZ[1:], strict=True)]
  energy_TN = np.stack([power[:, b].sum(axis=1) for b in bands], axis=1) * hz[1]
  far, near = (round(s * RATE / HOP) for s in BEFORE_S)
  total = np.cumsum(np.pad(energy_TN, ((far + 1, 0), (0, 0))), axis=0)
  # Mean of the frames from far to near before each.
  before_TN = (total[far + 1 - near : len(total) - near] - total[: -far - 1]) / (far - near + 1)
  risen_TN = (energy_TN > RISE * before_TN) & (energy_TN > QUIETEST)
  energy_T, before_T = energy_TN.sum(axis=1), before_TN.sum(axis=1)
  span = round(LEAST_GAP_S * RATE / HOP)
  times, last = [], -span
  # A contact is in most bands at once; a sliding tone or narrow noise is not.
  for frame in np.flatnonzero(risen_TN.sum(axis=1) >= 3):
    if frame - last < span or frame <= far:
      continue
    last = frame
    # The contact is where most of its energy has arrived.
    peak = frame + int(np.argmax(energy_T[frame : frame + round(0.02 * RATE / HOP)]))
    least = before_T[frame] + 0.5 * (energy_T[peak] - before_T[frame])
    start = frame + int(np.argmax(energy_T[frame : peak + 1] >= least))
    times.append(start * HOP / RATE)
  return np.array(times)


def impacts(wave: np.ndarray) -> tuple[Impact, ...]:
  """Every detected impact; kind is "", as floor and wall sound the same, and level is 1."""
  wave = checked(wave)
  names, templates_NF = _templates()
  out = []
  for time_s in onsets(wave):
    features_F = _features(wave, time_s)
    material, size = names[int(np.argmax(templates_NF @ features_F))]
    out.append(Impact(float(time_s), "", material, size, pitch_hz(material, size)))
  return tuple(out)


@functools.cache
def _templates() -> tuple[list[tuple[str, str]], np.ndarray]:
  names = [(material, size) for material in MATERIALS for size in PITCHES]
  waves = (strike(material, pitch_hz(material, size), RATE) for material, size in names)
  lead = np.zeros(RATE // 10)
  return names, np.stack([_features(np.concatenate([lead, w, lead]), 0.1) for w in waves])


def _features(wave: np.ndarray, time_s: float) -> np.ndarray:
  """Compressed powers in bands and slices after a contact, minus the level before; unit-norm."""
  start = round(time_s * RATE)
  before = _powers(wave[max(0, start - round(0.045 * RATE)) : max(0, start - round(0.004 * RATE))])
  rows = []
  for low, high in zip(SLICES_S[:-1], SLICES_S[1:], strict=True):
    power = _powers(wave[start + round(low * RATE) : start + round(high * RATE)])
    rows.append(np.maximum(power - 1.5 * before, 0) ** COMPRESSION)
  out_F = np.concatenate(rows)
  return out_F / max(float(np.linalg.norm(out_F)), 1e-12)


def _powers(part: np.ndarray) -> np.ndarray:
  """Mean square of a part in each band, (bands,)."""
  if len(part) < 2:
    return np.zeros(len(EDGES_HZ) - 1)
  size = 8192
  spectrum = np.square(np.abs(np.fft.rfft(part * np.hanning(len(part)), size)))
  total = np.cumsum(np.pad(spectrum, (1, 0)))
  edges = np.round(EDGES_HZ * size / RATE).astype(int)
  return np.diff(total[edges]) / len(part) / size


@dataclasses.dataclass(frozen=True)
class Timing:
  """Agreement of `detected` with `true` times, of one sound or of many.

  errors_ms: detected minus true, per pair. pairs: (detected, true) indices within the one sound,
  empty for many. Without true times, all rates are 1 if nothing is detected, else 0.
  """

  detected: int
  true: int
  errors_ms: np.ndarray
  pairs: tuple[tuple[int, int], ...] = ()

  @property
  def precision(self) -> float:
    """Fraction of detected times that are true."""
    return len(self.errors_ms) / self.detected if self.detected else float(not self.true)

  @property
  def recall(self) -> float:
    """Fraction of true times that are detected."""
    return len(self.errors_ms) / self.true if self.true else float(not self.detected)

  @property
  def f1(self) -> float:
    """Harmonic mean of precision and recall."""
    both = self.precision + self.recall
    return 2 * self.precision * self.recall / both if both else 0.0


def match(
  heard_s: Sequence[float], true_s: Sequence[float], *, tolerance_s: float = 0.05
) -> Timing:
  """Pairs times one to one, the closest first, within a tolerance (inclusive).

  Raises UserError for a negative tolerance.
  """
  if tolerance_s < 0:
    raise UserError(f"match: tolerance_s is {tolerance_s}; pass 0 or more")
  away = np.asarray(heard_s, float)[:, None] - np.asarray(true_s, float)[None]
  close = sorted((abs(away[i, j]), i, j) for i, j in np.argwhere(np.abs(away) <= tolerance_s))
  pairs, taken = [], (set(), set())
  for _, i, j in close:
    if i not in taken[0] and j not in taken[1]:
      pairs.append((int(i), int(j)))
      taken[0].add(i)
      taken[1].add(j)
  pairs.sort()
  return Timing(*away.shape, np.array([1000 * away[pair] for pair in pairs]), tuple(pairs))


def pool(timings: Sequence[Timing]) -> Timing:
  """The agreement over many sounds, with equal weight per impact."""
  errors = [np.zeros(0), *(timing.errors_ms for timing in timings)]
  detected, true = sum(t.detected for t in timings), sum(t.true for t in timings)
  return Timing(detected, true, np.concatenate(errors))
