"""Timbres of the toy world: one struck object or one played note as a waveform, (n,) float32.

An impact is a short burst of noise, the contact, and decaying modes at the ratios of a free bar, a
plate or a dull lump. Notes are band-limited: a note is entirely below `MUSIC_TOP`, and most of an
impact above it or within its first hundredth of a second, so that each is audible through the
other. Waveforms are cached and read-only.
"""

import dataclasses
import functools

import numpy as np

MUSIC_TOP = 1900.0  # Hz
LOWEST_ROOT = 220.0  # Hz
STRIKE_LEVEL, NOTE_LEVEL = 0.5, 0.13  # peaks
_ATTACK_S, _ORGAN_RELEASE_S, _PAD_ATTACK_S, _PAD_RELEASE_S = 0.006, 0.03, 0.05, 0.08


@dataclasses.dataclass(frozen=True)
class Strike:
  """ratios, levels and decays_s (to 1/e) of the modes; band in Hz and decay_s of the contact."""

  ratios: tuple[float, ...]
  levels: tuple[float, ...]
  decays_s: tuple[float, ...]
  band_hz: tuple[float, float] = (2500.0, 10000.0)
  contact_s: float = 0.0015
  contact: float = 0.6


STRIKES: dict[str, Strike] = {
  "metal": Strike((1, 2.76, 5.4, 8.93), (1, 0.7, 0.5, 0.3), (0.22, 0.18, 0.12, 0.06)),
  "glass": Strike((1, 2.32, 4.25), (1, 0.5, 0.2), (0.06, 0.045, 0.03)),
  "wood": Strike((1, 2.57, 4.9), (1, 0.5, 0.2), (0.025, 0.015, 0.01)),
  "rubber": Strike((1, 1.59), (1, 0.4), (0.06, 0.03), (1500.0, 5000.0), 0.003, 0.4),
}


@dataclasses.dataclass(frozen=True)
class Instrument:
  """partials: (ratio, level) each; decay_s to 1/e, None for a note held until the next."""

  partials: tuple[tuple[float, float], ...]
  decay_s: float | None


INSTRUMENTS: dict[str, Instrument] = {
  "piano": Instrument(((1, 1.0), (2, 0.4), (3, 0.2), (4, 0.1)), 0.35),
  "guitar": Instrument(((1, 1.0), (2, 0.7), (3, 0.5), (4, 0.35), (5, 0.25)), 0.15),
  "pad": Instrument(((1, 1.0), (2, 0.15)), None),
  "organ": Instrument(((1, 1.0), (3, 0.4), (5, 0.25)), None),
  "bell": Instrument(((1, 1.0), (2.76, 0.7)), 0.25),
}


@functools.cache
def strike(material: str, pitch_hz: float, rate: int) -> np.ndarray:
  """An impact of level 1, starting at its first sample."""
  timbre = STRIKES[material]
  length = round(7 * max(timbre.decays_s) * rate)
  time = np.arange(length) / rate
  modes = np.zeros(length)
  for ratio, level, decay_s in zip(timbre.ratios, timbre.levels, timbre.decays_s, strict=True):
    if ratio * pitch_hz < 0.45 * rate:
      modes += level * np.exp(-time / decay_s) * np.sin(2 * np.pi * ratio * pitch_hz * time)
  modes /= np.abs(modes).max()
  contact = band_noise(np.random.default_rng(0), length, rate=rate, band_hz=timbre.band_hz)
  contact *= timbre.contact * np.exp(-time / timbre.contact_s) / 2
  return _frozen(STRIKE_LEVEL * (modes + contact) / np.abs(modes + contact).max())


@functools.cache
def note(instrument: str, hz: float, seconds: float, rate: int) -> np.ndarray:
  """One note; `seconds` is the time to the next, at which decaying notes do not stop."""
  timbre = INSTRUMENTS[instrument]
  pad = instrument == "pad"
  attack_s = _PAD_ATTACK_S if pad else _ATTACK_S
  if timbre.decay_s is None:
    release_s = _PAD_RELEASE_S if pad else _ORGAN_RELEASE_S
    time = np.arange(round((seconds + release_s) * rate)) / rate
    envelope = np.clip((seconds + release_s - time) / release_s, 0, 1)
  else:
    time = np.arange(round(4 * timbre.decay_s * rate)) / rate
    envelope = np.exp(-time / timbre.decay_s) * (1 - time / time[-1])
  envelope *= 0.5 - 0.5 * np.cos(np.pi * np.clip(time / attack_s, 0, 1))
  wave = np.zeros(len(time))
  for ratio, level in timbre.partials:
    if ratio * hz < MUSIC_TOP:
      wave += level * np.sin(2 * np.pi * ratio * hz * time)
  wave *= envelope
  return _frozen(NOTE_LEVEL * wave / np.abs(wave).max())


def band_noise(
  rng: np.random.Generator, length: int, *, rate: int, band_hz: tuple[float, float]
) -> np.ndarray:
  """Gaussian noise (length,) between two frequencies, of standard deviation 1."""
  hz = np.fft.rfftfreq(length, 1 / rate)
  inside = (hz >= band_hz[0]) & (hz < band_hz[1])
  spectrum = np.zeros(len(hz), complex)
  spectrum[inside] = rng.standard_normal((int(inside.sum()), 2)).view(complex)[:, 0]
  # Parseval: each of these bins counts for two of the whole spectrum.
  power = 2 * np.square(np.abs(spectrum[inside])).sum() / length**2
  return np.fft.irfft(spectrum, length) / max(float(power) ** 0.5, 1e-12)


def _frozen(wave: np.ndarray) -> np.ndarray:
  wave = wave.astype(np.float32)
  wave.flags.writeable = False
  return wave
