"""Validation of the sound oracles: their accuracy on synthesised waveforms, clean and degraded.

`validate(WorldConfig.sounds(), n=300)` prints a table; `report()` returns rates with intervals for
every world with sound, ready for JSON.
"""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.rates import wilson
from mg_jax.world.oracles.onsets import pool
from mg_jax.world.oracles.sound import SoundMeasurement, average, compare, measure, timing
from mg_jax.world.scene.sampling import WorldConfig, sample
from mg_jax.world.sound.facts import sound_facts
from mg_jax.world.sound.synthesis import RATE, soundtrack

WORLDS = {"sounds": WorldConfig.sounds, "orchestra": WorldConfig.orchestra}
SEED = 7000  # of `report`; the oracles' thresholds were chosen on scenes of other seeds
DEGRADATIONS = ("clean", "noise", "lowpass", "gain", "blur")
SNR_DB = 20.0
LOWPASS_HZ = 9000.0
GAIN_DB = -6.0
BLUR_WINDOW, BLUR_FRAMES = 1024, 3  # spectra 5 ms apart, smoothed over 40 ms in all


def degrade(wave: np.ndarray, name: str, *, seed: int = 0) -> np.ndarray:
  """A mildly damaged copy of floats (T,), as a small model or a codec might return it."""
  wave = wave.astype(np.float64)
  if name == "noise":
    level = np.sqrt(np.mean(wave**2)) * 10 ** (-SNR_DB / 20)
    wave = wave + level * np.random.default_rng(seed).standard_normal(len(wave))
  elif name == "lowpass":
    hz = np.fft.rfftfreq(len(wave), 1 / RATE)
    wave = np.fft.irfft(np.fft.rfft(wave) / np.sqrt(1 + (hz / LOWPASS_HZ) ** 16), len(wave))
  elif name == "gain":
    wave = wave * 10 ** (GAIN_DB / 20)
  elif name == "blur":
    wave = _blur(wave)
  elif name != "clean":
    raise UserError(f"degrade: unknown degradation {name!r}; choose from {DEGRADATIONS}")
  return np.clip(wave, -1, 1).astype(np.float32)


def _blur(wave: np.ndarray) -> np.ndarray:
  """Magnitudes smoothed over time, phases kept, as a codec with few frames per second does."""
  hop = BLUR_WINDOW // 4
  padded = np.pad(wave, (BLUR_WINDOW, 2 * BLUR_WINDOW))
  starts = np.arange(0, len(padded) - BLUR_WINDOW, hop)
  frames = np.lib.stride_tricks.sliding_window_view(padded, BLUR_WINDOW)[starts]
  taper = np.hanning(BLUR_WINDOW + 1)[:-1]
  spectra = np.fft.rfft(frames * taper, axis=1)
  size = np.abs(spectra)
  taps = np.hanning(2 * BLUR_FRAMES + 3)[1:-1]
  away = np.arange(-BLUR_FRAMES, BLUR_FRAMES + 1)
  near = np.clip(np.arange(len(size))[:, None] + away, 0, len(size) - 1)
  smooth = np.einsum("tkf,k->tf", size[near], taps / taps.sum())
  frames = np.fft.irfft(spectra / np.maximum(size, 1e-12) * smooth, axis=1) * taper
  out = np.zeros(len(padded))
  for start, frame in zip(starts, frames, strict=True):
    out[start : start + BLUR_WINDOW] += frame / 1.5
  return out[BLUR_WINDOW : BLUR_WINDOW + len(wave)]


def validate(
  config: WorldConfig,
  *,
  n: int = 100,
  seed: int = 0,
  degradations: tuple[str, ...] = DEGRADATIONS,
) -> dict[str, dict[str, float]]:
  """Prints and returns degradation -> attribute -> accuracy over n scenes; the attributes "late"
  and "spread" are mean and standard deviation of the time error of impacts in ms.

  The row "shuffled" compares the sounds of the first row with the facts of the next scene.
  """
  measurements, truth = _measure(config, n=n, seed=seed, degradations=degradations)

  def row(measured, wanted):
    pairs = list(zip(measured, wanted, strict=True))
    errors = pool([timing(m, w) for m, w in pairs]).errors_ms
    late = {"late": errors.mean(), "spread": errors.std()} if len(errors) else {}
    return average([compare(m, w) for m, w in pairs]) | {k: float(v) for k, v in late.items()}

  rows = {name: row(measured, truth) for name, measured in measurements.items()}
  rows["shuffled"] = row(measurements[degradations[0]], truth[1:] + truth[:1])
  columns = [name for name in rows[degradations[0]] if name not in ("late", "spread")]
  print(f"{n} sounds; late and spread of impacts in ms")
  print("".join(f"{c:>10}" for c in ("", *columns, "late", "spread")))
  for name, shares in rows.items():
    print(
      f"{name:>10}"
      + "".join(f"{100 * shares[c]:9.1f}%" for c in columns)
      + "".join(f"{shares.get(c, float('nan')):10.2f}" for c in ("late", "spread"))
    )
  return rows


def report(
  *,
  n: int = 1000,
  seed: int = SEED,
  worlds: tuple[str, ...] = tuple(WORLDS),
  degradations: tuple[str, ...] = ("clean",),
  duration_s: tuple[float, float] | None = None,
) -> dict[str, Any]:
  """Fraction of facts that the oracles measure correctly, with Wilson 95 % intervals, as JSON.

  Args:
    n: scenes per world.
    seed: seed of the scenes.
    worlds: names of WORLDS.
    degradations: names of DEGRADATIONS.
    duration_s: duration of the scenes, by default each world's own.

  Returns:
    {"n", "seed", "duration_s", "rates": world -> degradation -> fact -> {"passed", "count", "rate",
    "low", "high"}}. The facts are those of `oracles_sound.compare`, per scene; "each_material" and
    "each_size" count impacts, while a scene is judged by the majority of its own; "all" are
    scenes without any mistake, ignoring single impacts.

  Raises:
    UserError: on an unknown world or degradation.
  """
  unknown = [name for name in worlds if name not in WORLDS]
  if unknown:
    raise UserError(f"report: no world with sound is named {unknown[0]!r}; known are {[*WORLDS]}")
  rates = {}
  for world in worlds:
    config = WORLDS[world]()
    if duration_s:
      config = dataclasses.replace(config, duration_s=duration_s)
    measurements, truth = _measure(config, n=n, seed=seed, degradations=degradations)
    rates[world] = {name: _rates(measured, truth) for name, measured in measurements.items()}
  return {"n": n, "seed": seed, "duration_s": duration_s, "rates": rates}


def _measure(
  config: WorldConfig, *, n: int, seed: int, degradations: tuple[str, ...]
) -> tuple[dict[str, list[SoundMeasurement]], list[dict[str, Any]]]:
  """Measurements of n scenes by degradation, and their facts."""
  measurements, truth = {name: [] for name in degradations}, []
  for index in range(n):
    scene = sample(seed, index, config)
    truth.append(sound_facts(scene))
    wave = soundtrack(scene).mix
    for name, measured in measurements.items():
      measured.append(measure(degrade(wave, name, seed=index)))
  return measurements, truth


def _rates(
  measured: list[SoundMeasurement], truth: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
  passed, count = Counter(), Counter()
  for measurement, facts in zip(measured, truth, strict=True):
    results = compare(measurement, facts)
    for name, right in (results | {"all": all(results.values())}).items():
      passed[name] += right
      count[name] += 1
    for detected, _ in timing(measurement, facts).pairs:
      for name in ("material", "size"):
        passed[f"each_{name}"] += getattr(measurement.impacts[detected], name) == facts[name]
        count[f"each_{name}"] += 1
  return {name: dataclasses.asdict(wilson(passed[name], total)) for name, total in count.items()}
