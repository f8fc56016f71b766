"""Measures a run: which measurement, from its stage and what is asked for."""

import logging
import os
import pathlib
from typing import Any

from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.evaluation import held_out, toy_context, toy_known, toy_sound, toy_video
from mg_jax.inference.load import load_text_to_video
from mg_jax.inference.load_sound import load_soundtrack, soundtrack_data
from mg_jax.sampling import guidance, prompts
from mg_jax.train.runs import saved_config, stage_of

_log = logging.getLogger(__name__)
# Stage of a generator -> what can be measured of it, the default first.
_GENERATORS = {"flow_matching": ("clips", "known"), "soundtrack": ("sound", "infill", "seams")}
_OTHERS = ("held_out",)
_SOUND = {
  "sound": toy_sound.score_sound, "infill": toy_context.score_infill,
  "seams": toy_context.score_seams,
}  # fmt: skip


def evaluate(
  workdir: str | os.PathLike[str],
  folder: pathlib.Path,
  *,
  measure: str | None = None,
  inputs: str = "both",
  world: str = "simple",
  texts: str | None = None,
  count: int = 64,
  seed: int = 0,
  mesh: Mesh | None = None,
  dtype: str | None = None,
  **changes: Any,
) -> tuple[str, dict[str, Any]]:
  """Measures a run; returns a table and what it holds.

  Args:
    workdir: of the run.
    folder: for results.
    measure: one that the run's stage has; by default "clips" from prompts, "sound", or the
      "held_out" metrics of what generates nothing.
    inputs: what a model of sound is conditioned on: "both" video and caption, or one of them.
    world: toy world of the prompts.
    texts: file of prompts instead.
    count, seed: how many, and the seed of the first.
    mesh: the devices that share the work.
    dtype: of the generator's weights, by default as saved.
    **changes: settings that differ from the run's.

  Raises:
    UserError: a measurement of another stage, and as the measurements do.
  """
  where = {"mesh": mesh, "dtype": dtype}
  stage = stage_of(workdir)
  allowed = _GENERATORS.get(stage, _OTHERS)
  measure = measure or allowed[0]
  if measure not in allowed:
    raise UserError(
      f"--measure={measure} is not for {workdir}, a run of {stage}; choose {', '.join(allowed)}"
    )
  if measure == "held_out":
    if changes or mesh or dtype or texts:
      raise UserError(
        "--guidance, --steps, --prompts, --mesh, --distributed and --dtype are for generators; "
        "leave them out"
      )
    return held_out.score_held_out(workdir, folder, count=count, seed=seed)
  if "guidance" in changes:
    changes["guidance"] = guidance.read(changes["guidance"])
  how = {"count": count, "seed": seed, **changes}
  if measure in _SOUND:
    given = {} if measure == "seams" else {"inputs": inputs}
    data = _entry(soundtrack_data(workdir))
    report = _SOUND[measure](load_soundtrack(workdir, **where), data, folder, **given, **how)
    return report.table, report.rows
  if measure == "known":
    data = _entry(configs.build(DataConfig, saved_config(workdir)["data"], where="data"))
    pipeline = load_text_to_video(workdir, batch=16, **where)
    report = toy_known.score_known(pipeline, data, folder, **how)
  else:
    entries = prompts.read(texts) if texts else None
    pipeline = load_text_to_video(workdir, **where)
    report = toy_video.score(pipeline, folder, world=world, texts=entries, **how)
  return report.table, report.rates


def _entry(data: Any) -> Any:
  """The data that a measure uses: of a mixture the first entry of the toy world, or the first."""
  parts = data.parts
  name = next((name for name, part in parts.items() if part.data.source == "toy"), min(parts))
  if name:
    _log.info("measured on data.mixture.%s", name)
  return parts[name].data
