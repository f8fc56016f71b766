"""Scores sound generated around known sound, and the seams between its windows [MG 6.2].

Neither needs an oracle, so runs on folders of files are scored like those on the toy world.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mg_jax.core import distributed
from mg_jax.core.errors import UserError
from mg_jax.core.progress import track
from mg_jax.data.atomic import check_writable, write_json
from mg_jax.data.media import audio
from mg_jax.data.schema import Sample
from mg_jax.data.sources.soundtracks import KINDS, SoundtrackConfig, open_sources
from mg_jax.evaluation.toy_sound import SHOWN, Inputs, SoundReport, request_of
from mg_jax.metrics import seams
from mg_jax.metrics.audio import SoundFidelity
from mg_jax.sampling.sound_request import Request
from mg_jax.sampling.soundtrack import Soundtrack

LEAST_SIDE_S = 0.5  # of known sound, on each side of a gap


def held_out(data: SoundtrackConfig, *, rate: int) -> list[Callable[[], Sample]]:
  """Readers of the held-out samples of a run's data, those with pictures first."""
  sources = open_sources(data, "validation", rate=rate)
  return [
    functools.partial(sources[kind].__getitem__, i)
    for kind in KINDS if kind in sources
    for i in range(len(sources[kind]))
  ]  # fmt: skip


def score_infill(
  pipeline: Soundtrack,
  data: SoundtrackConfig,
  folder: str | os.PathLike[str],
  *,
  count: int = 64,
  inputs: Inputs = "both",
  seed: int = 0,
  gap_s: float = 1.0,
  **changes: Any,
) -> SoundReport:
  """Fills a gap in the middle of held-out sounds, and compares it with the true sound.

  The columns are "made"; the baselines "silence" and "repetition" (of what precedes the gap); and
  "codec", the true sound encoded and decoded, the upper bound. Distances are those of
  `SoundFidelity`, over the gaps only. Writes infill.json and the first few filled sounds.

  Args:
    pipeline, folder, seed, **changes: as `toy_sound.score_sound`.
    data: data of the run, toy world or files.
    count: held-out sounds; too short or silent ones are skipped.
    inputs: what the model is conditioned on besides the sound around the gap.
    gap_s: length of the gap.

  Raises:
    UserError: if no held-out sound is long enough, or the folder cannot be written.
  """
  folder, rate = pathlib.Path(folder), pipeline.rate
  distributed.on_main(check_writable, folder / "infill.json")
  samples, gap = held_out(data, rate=rate), round(gap_s * rate)
  rows = {name: SoundFidelity(rate=rate) for name in ("made", "silence", "repetition", "codec")}
  used = 0
  for index, read in enumerate(track(samples, "gaps")):
    if used == count:
      break
    sample = read()
    begin = (len(sample.wave) - gap) // 2
    end, true = begin + gap, sample.wave[begin : begin + gap]
    if begin < LEAST_SIDE_S * rate or audio.is_silent(true):
      continue
    seconds = len(sample.wave) / rate
    request = dataclasses.replace(
      request_of(sample, inputs, rate=rate, seed=seed + index),
      known=sample.wave, keep=((0.0, begin / rate), (end / rate, seconds)),
    )  # fmt: skip
    wave = pipeline(request, **changes).wave
    coded = pipeline.codec.decode(pipeline.codec.encode(sample.wave), length=len(sample.wave))
    before = sample.wave[max(0, begin - gap) : begin]
    tries = {
      "made": wave[begin:end], "silence": np.zeros_like(true), "codec": coded[begin:end],
      "repetition": np.resize(before, gap),
    }  # fmt: skip
    for name, fill in tries.items():
      rows[name].add(np.asarray(fill, np.float32), true)
      rows[name].end()
    if used < SHOWN:
      distributed.on_main(audio.write_wav, folder / f"infill_{used:02d}.wav", wave, rate=rate)
    used += 1
  if not used:
    raise UserError(
      f"every held-out sound is silent in, or too short for, a gap of {gap_s:g} s with "
      f"{LEAST_SIDE_S:g} s around it; train on longer sounds"
    )
  scores = {name: row.compute() for name, row in rows.items()}
  kept = {name: {k: row[k] for k in ("mel", "stft", "si_sdr")} for name, row in scores.items()}
  about = {"gap_s": gap_s, "inputs": inputs, "count": used}
  return _report(folder / "infill.json", kept, about | {"origin": pipeline.origin})


def score_seams(
  pipeline: Soundtrack,
  data: SoundtrackConfig,
  folder: str | os.PathLike[str],
  *,
  count: int = 16,
  seed: int = 0,
  seconds: float = 30.0,
  **changes: Any,
) -> SoundReport:
  """Generates long sounds from held-out captions only, in windows, and detects the seams.

  The columns are fractions of places where the detector of `metrics.seams` raises an alarm: at
  "seams", where windows begin and end; "elsewhere" in the same sounds; in the "true" sounds of the
  samples. "low" and "high" are the 95 % interval. Writes seams.json and the first few sounds.

  Args:
    pipeline, data, folder, seed, **changes: as `score_infill`.
    count: sounds.
    seconds: length of each.

  Raises:
    UserError: if the sounds have no seams, being one window each, or as `score_infill`.
  """
  folder, rate = pathlib.Path(folder), pipeline.rate
  distributed.on_main(check_writable, folder / "seams.json")
  spans = pipeline.spans(seconds, **changes)
  ends = sorted({t for span in spans for t in span if 0.1 < t < seconds - 0.1})
  if not ends:
    raise UserError(f"{seconds:g} s are made in one window; give a longer sound")
  samples = held_out(data, rate=rate)
  at: dict[str, list[np.ndarray]] = {"seams": [], "elsewhere": [], "true": []}
  for index, read in enumerate(track(samples[:count], "sounds")):
    sample, rng = read(), np.random.default_rng((seed, index))
    request = Request(seconds, captions=(sample.sound_caption,), seed=seed + index)
    wave = pipeline(request, **changes).wave
    at["seams"].append(seams.alarms(wave, ends, rate=rate))
    others = seams.places(seconds, rng, count=4 * len(ends), away_from=ends)
    at["elsewhere"].append(seams.alarms(wave, others, rate=rate))
    others = seams.places(len(sample.wave) / rate, rng, count=4 * len(ends))
    at["true"].append(seams.alarms(sample.wave, others, rate=rate))
    if index < SHOWN:
      distributed.on_main(audio.write_wav, folder / f"seams_{index:02d}.wav", wave, rate=rate)
  rows = {}
  for name, alarms in at.items():
    share = seams.rate_of(alarms)
    rows[name] = {"alarms": share.rate, "low": share.low, "high": share.high}
  about = {"seconds": seconds, "seams_s": ends, "count": min(count, len(samples))}
  return _report(folder / "seams.json", rows, about | {"origin": pipeline.origin})


def _report(path: pathlib.Path, rows: dict[str, dict[str, float]], about: dict) -> SoundReport:
  distributed.on_main(write_json, path, about | {"rows": rows})
  names = next(iter(rows.values()))
  lines = ["".join(f"{text:>12}" for text in ("", *rows))]
  lines += [
    f"{name:>12}" + "".join(f"{row[name]:12.3f}" for row in rows.values()) for name in names
  ]
  return SoundReport("\n".join(lines), rows)
