"""Scores a generator of sound on the toy world: sounds of held-out clips, measured by the oracles.

Four rows: "made" are the generated sounds; "codec" the true ones after the codec, the upper bound;
"truth" the true ones themselves, which show the oracles' errors; "shuffled" the generated ones
against the facts of the next clip, the score of a model that ignores its video. All but the last
also have their loudness.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
from typing import Any, Literal

import numpy as np

from mg_jax.core import distributed
from mg_jax.core.errors import UserError
from mg_jax.core.progress import track
from mg_jax.data.atomic import check_writable, write_json
from mg_jax.data.media import muxing
from mg_jax.data.schema import Sample
from mg_jax.data.sources import toy
from mg_jax.data.sources.soundtracks import SoundtrackConfig, toy_recipe
from mg_jax.metrics.audio import loudness
from mg_jax.sampling import sound_plots
from mg_jax.sampling.sound_request import Request
from mg_jax.sampling.soundtrack import Soundtrack
from mg_jax.world.oracles import sound as oracles_sound
from mg_jax.world.oracles.onsets import pool
from mg_jax.world.sound import facts as sound_facts

Inputs = Literal["both", "video", "text"]
TOLERANCE_S = 0.08
SHOWN = 8  # clips written as mp4 with a plot
_UNITS = {"_ms": ("ms", ".0f"), "_lufs": ("LUFS", ".1f"), "_dbfs": ("dBFS", ".1f")}


@dataclasses.dataclass(frozen=True)
class SoundReport:
  """Rows of rates, as text and as data."""

  table: str
  rows: dict[str, dict[str, float]]


def score_sound(
  pipeline: Soundtrack,
  data: SoundtrackConfig,
  folder: str | os.PathLike[str],
  *,
  count: int = 64,
  inputs: Inputs = "both",
  seed: int = 0,
  **changes: Any,
) -> SoundReport:
  """Generates and scores sounds; writes scores.json, and the first few as mp4 and plot.

  Args:
    pipeline: the generator.
    data: data of its run, on the toy world.
    folder: for the results, created if missing.
    count: held-out clips.
    inputs: what the model is conditioned on: the clip's video, its caption, or both.
    seed: seed of the first sound; the next ones count up.
    **changes: settings that differ from the pipeline's.

  Raises:
    UserError: on a run that was not trained on the toy world, or an unwritable folder.
  """
  if data.source != "toy":
    raise UserError(
      "the oracles measure sounds of the toy world only, and this run was trained on a folder of "
      "files; give a run with --config.data.source=toy, or --measure=infill or seams"
    )
  folder = pathlib.Path(folder)
  distributed.on_main(check_writable, folder / "scores.json")
  recipe = dataclasses.replace(toy_recipe(data), validation=max(count, data.held_out))
  scenes = toy.ToySource(recipe, "validation")
  facts: list[dict[str, Any]] = []
  measurements: dict[str, list[Measured]] = {"made": [], "codec": [], "truth": []}
  for index in track(range(count), "sounds"):
    sample = scenes[index]
    facts.append(sound_facts.sound_facts(scenes.scene(index)))
    request = request_of(sample, inputs, rate=pipeline.rate, seed=seed + index)
    wave = pipeline(request, **changes).wave
    latent = pipeline.codec.encode(sample.wave)
    coded = pipeline.codec.decode(latent, length=len(sample.wave))
    for name, sound in (("made", wave), ("codec", coded), ("truth", sample.wave)):
      measurements[name].append(measure(sound, sample.wave, rate=pipeline.rate))
    if index < SHOWN:
      distributed.on_main(
        _show, folder / f"{index:02d}.mp4", sample, wave,
        events=sound_facts.impacts(scenes.scene(index)),
        heard=measurements["made"][-1].oracle.impacts,
      )  # fmt: skip
  rows = {
    name: rates([one.oracle for one in measured], facts) | levels(measured)
    for name, measured in measurements.items()
  }
  shuffled = facts[1:] + facts[:1]
  rows["shuffled"] = rates([one.oracle for one in measurements["made"]], shuffled)
  about = {"origin": pipeline.origin, "inputs": inputs, "count": count}
  # JSON has no number for undefined values, such as the loudness of silence.
  plain = {
    name: {key: value if math.isfinite(value) else None for key, value in row.items()}
    for name, row in rows.items()
  }
  distributed.on_main(write_json, folder / "scores.json", about | {"rows": plain})
  return SoundReport(_table(rows), rows)


def _show(path: pathlib.Path, sample: Sample, wave: np.ndarray, **marks: Any) -> None:
  """Writes a clip with a generated sound, and its plot next to it if matplotlib is installed."""
  muxing.write_clip(path, sample.video, wave, fps=sample.fps)
  with contextlib.suppress(UserError):
    sound_plots.plot(path.with_suffix(".png"), wave, title=sample.sound_caption, **marks)


@dataclasses.dataclass(frozen=True)
class Measured:
  """Measurements of one sound.

  Attributes:
    oracle: impacts, effects and music.
    loudness_lufs: as `metrics.audio.loudness`.
    leakage_dbfs: as `oracles_sound.leakage_db`, the level where the true sound is quiet.
  """

  oracle: oracles_sound.SoundMeasurement
  loudness_lufs: float
  leakage_dbfs: float | None


def measure(wave: np.ndarray, truth: np.ndarray, *, rate: int) -> Measured:
  """Measures a sound (T,) of the toy world, at `rate` Hz, given the true one."""
  return Measured(
    oracles_sound.measure(wave), loudness(wave, rate=rate), oracles_sound.leakage_db(wave, truth)
  )


def levels(measured: list[Measured]) -> dict[str, float]:
  """Medians over sounds: "loudness_lufs", -inf for silence, and "leakage_dbfs" over those that have
  one, nan if none has."""
  leakages = [one.leakage_dbfs for one in measured if one.leakage_dbfs is not None]
  return {
    "loudness_lufs": float(np.median([one.loudness_lufs for one in measured])),
    "leakage_dbfs": float(np.median(leakages)) if leakages else math.nan,
  }


def rates(
  measured: list[oracles_sound.SoundMeasurement], facts: list[dict[str, Any]]
) -> dict[str, float]:
  """Accuracy by attribute, and agreement of impacts in time, within 80 ms.

  Keys: those of `oracles_sound.compare` except "onsets"; "f1", "precision", "recall" of impacts,
  over all sounds; "late_ms", the median of their signed error, and "off_ms", of the absolute error.
  """
  pairs = list(zip(measured, facts, strict=True))
  shares = oracles_sound.average(
    [oracles_sound.compare(a, b, tolerance_s=TOLERANCE_S) for a, b in pairs]
  )
  del shares["onsets"], shares["all"]
  times = pool([oracles_sound.timing(a, b, tolerance_s=TOLERANCE_S) for a, b in pairs])
  errors = times.errors_ms if len(times.errors_ms) else np.array([math.nan])
  return {
    "f1": times.f1, "precision": times.precision, "recall": times.recall,
    "late_ms": float(np.median(errors)), "off_ms": float(np.median(np.abs(errors))), **shares,
  }  # fmt: skip


def request_of(sample: Sample, inputs: Inputs, *, rate: int, seed: int) -> Request:
  """The sound of a sample, at `rate` Hz, given its video, its caption, or both."""
  seen = inputs != "text" and sample.video is not None
  return Request(
    len(sample.wave) / rate,
    captions=("" if inputs == "video" else sample.sound_caption,),
    video=_Frames(sample.video, sample.fps) if seen else None,
    seed=seed,
  )


class _Frames:
  """Spans of frames in memory, in the form of `Request.video`."""

  def __init__(self, frames: np.ndarray, fps: float):
    self._frames, self._fps = frames, fps

  def __call__(self, start_s: float, end_s: float) -> tuple[np.ndarray, float]:
    first, last = (math.ceil(t * self._fps - 1e-6) for t in (start_s, end_s))
    first = min(first, len(self._frames) - 1)
    return self._frames[first : max(last, first + 1)], self._fps


def _table(rows: dict[str, dict[str, float]]) -> str:
  names = list(dict.fromkeys(name for row in rows.values() for name in row))
  lines = ["".join(f"{text:>12}" for text in ("", *rows))]
  for name in names:
    end = next((end for end in _UNITS if name.endswith(end)), "")
    cells = [_cell(row.get(name, math.nan), end) for row in rows.values()]
    lines.append("".join(f"{text:>12}" for text in (name.removesuffix(end), *cells)))
  return "\n".join(lines)


def _cell(value: float, end: str) -> str:
  if math.isnan(value):
    return "-"
  unit, digits = _UNITS.get(end, ("%", ".1f"))
  return f"{value if end else 100 * value:{digits}} {unit}"
