"""Oracles of the toy world's sound: the content of a waveform, measured from its samples alone.

No learned network and no access to the scene, so generated and synthesised sounds are judged alike:
does metal ring when the star hits the floor, is there music exactly where requested? wave (T,)
floats at 48 kHz, 0.1 s or longer. Plays the role of the judges of synchronization, diegetic
correctness and music in [MG 6.4].
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.oracles import onsets as oracles_onsets
from mg_jax.world.oracles import textures as oracles_textures
from mg_jax.world.oracles.onsets import Timing, match
from mg_jax.world.sound.facts import Impact
from mg_jax.world.sound.spectra import RATE, checked

ATTRIBUTES = ("onsets", "material", "size", "effect", "music", "mood", "ambience", "silent")
TOLERANCE_S = 0.05
QUIET_DB = -38.0  # root mean square relative to full scale: anything louder is not silence


@dataclasses.dataclass(frozen=True)
class SoundMeasurement:
  """Measured facts; None if absent. material and size are those of most impacts.

  tempo_bpm and mood are None without music. level_db: root mean square, relative to full scale.
  """

  impacts: tuple[Impact, ...]
  material: str | None
  size: str | None
  effect: str | None
  tempo_bpm: float | None
  mood: str | None
  ambience: str | None
  silent: bool
  level_db: float

  @property
  def times_s(self) -> list[float]:
    """Times of the impacts, ascending."""
    return [hit.time_s for hit in self.impacts]


def measure(wave: np.ndarray) -> SoundMeasurement:
  """Measures one sound; raises UserError unless it is finite floats (T,) of at least 0.1 s."""
  wave = checked(wave)
  hits = oracles_onsets.impacts(wave)
  tempo = oracles_textures.music(wave, np.array([hit.time_s for hit in hits]))
  effect = oracles_textures.effect(wave)
  ambience = oracles_textures.ambience(wave)
  level_db = _db(float(np.mean(wave**2)))
  nothing = not (hits or effect or ambience) and tempo is None
  return SoundMeasurement(
    impacts=hits,
    material=_most([hit.material for hit in hits]),
    size=_most([hit.size for hit in hits]),
    effect=effect,
    tempo_bpm=tempo,
    mood=None if tempo is None else oracles_textures.mood(tempo),
    ambience=ambience,
    silent=nothing and level_db < QUIET_DB,
    level_db=level_db,
  )


def _most(names: list[str]) -> str | None:
  return max(names, key=names.count) if names else None


def compare(
  measured: SoundMeasurement, facts: Mapping[str, Any], *, tolerance_s: float = TOLERANCE_S
) -> dict[str, bool]:
  """Attribute -> right or wrong, of ATTRIBUTES.

  onsets is right if every impact and nothing else is detected within the tolerance. material and
  size count if there are impacts, mood if there is music; the others always, so that sounds
  without a cause are wrong.

  facts: of `sound_facts.sound_facts`.
  """
  result = {
    "onsets": timing(measured, facts, tolerance_s=tolerance_s).f1 == 1,
    "effect": measured.effect == facts["effect"],
    "music": (measured.tempo_bpm is not None) == (facts["mood"] is not None),
    "ambience": measured.ambience == facts["ambience"],
    "silent": measured.silent == facts["silent"],
  }
  if facts["times_s"]:
    result |= {name: getattr(measured, name) == facts[name] for name in ("material", "size")}
  if facts["mood"] is not None:
    result["mood"] = measured.mood == facts["mood"]
  return result


def timing(
  measured: SoundMeasurement, facts: Mapping[str, Any], *, tolerance_s: float = TOLERANCE_S
) -> Timing:
  """Agreement in time of the detected impacts with the true ones."""
  return match(measured.times_s, facts["times_s"], tolerance_s=tolerance_s)


def average(results: Sequence[Mapping[str, bool]]) -> dict[str, float]:
  """Fraction of right answers per attribute over the results that have it, and "all"."""
  out = {}
  for name in ATTRIBUTES:
    right = [result[name] for result in results if name in result]
    if right:
      out[name] = float(np.mean(right))
  out["all"] = float(np.mean([all(result.values()) for result in results]))
  return out


def leakage_db(
  wave: np.ndarray, truth: np.ndarray, *, quiet_db: float = -50.0, margin_s: float = 0.05
) -> float | None:
  """Level relative to full scale, in decibels, while nothing should sound; -120 is digital silence.

  Measured where the truth (T,), such as the mix or the diegetic stems of a soundtrack, is below
  `quiet_db` within `margin_s` on both sides; None if that is nowhere. Raises UserError as
  `measure`, and on different lengths.
  """
  wave, truth = checked(wave), checked(truth)
  if len(wave) != len(truth):
    raise UserError(f"leakage_db: {len(wave)} samples against {len(truth)}; cut them to one length")
  block = RATE // 100
  count = len(wave) // block
  heard_N, true_N = (
    np.mean(np.square(w[: count * block].reshape(count, block)), axis=1) for w in (wave, truth)
  )
  margin = round(margin_s * 100)
  loud_N = np.convolve(true_N > 10 ** (quiet_db / 10), np.ones(2 * margin + 1), mode="full")
  quiet_N = loud_N[margin : margin + count] == 0
  return _db(float(heard_N[quiet_N].mean())) if quiet_N.any() else None


def _db(power: float) -> float:
  return float(10 * np.log10(max(power, 1e-12)))
