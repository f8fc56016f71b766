"""An autoencoder, a codec or a CLIP on held-out data.

The metrics are those of the stage while it trains. Of the toy world several sets are drawn, from
seeds that training has not evaluated, so each metric has an interval; of a folder there is its
held-out part alone.
"""

import copy
import itertools
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.progress import track
from mg_jax.core.typing import PyTree
from mg_jax.data import atomic
from mg_jax.stages import experiment
from mg_jax.train.runs import TRAINED, Role, load_role, saved_config

SETS = 5
_T = 2.776  # of Student's distribution with SETS - 1 degrees of freedom, 95 %, two-sided
_ROLES = dict(TRAINED.values())
_MEASURING = ("evaluation", "retrieval")  # hooks of the loop that measure
_LEFT_OUT = ("adversarial", "features", "gan", "lpips")


class _Weights:
  """What hooks of the loop ask of a state."""

  def __init__(self, params: Mapping[str, PyTree]):
    self._params = params

  def averaged(self) -> Mapping[str, PyTree]:
    return self._params


def score_held_out(
  workdir: str | os.PathLike[str],
  folder: str | os.PathLike[str],
  *,
  count: int = 64,
  seed: int = 0,
) -> tuple[str, dict[str, dict[str, float]]]:
  """Measures what a run trained; writes scores.json.

  Args:
    workdir: of the run, or weights that were exported from one.
    folder: for the scores, created if missing.
    count: samples of a set.
    seed: of the world of the first set; those of the others count up, without that of the run.

  Returns:
    A table, and {metric: {"mean", "low", "high"}} with the 95 % interval of the mean over sets of
    the toy world; both ends are the mean for data of other sources.

  Raises:
    UserError: for a generator, weights without the config of their run, and as training does.
  """
  config = saved_config(workdir)
  stage = config.get("stage", "")
  if stage not in _ROLES:
    raise UserError(f"{workdir} is a run of {stage or 'no stage'}: it has no held-out metrics")
  if "data" not in config:
    raise UserError(f"{workdir} has no config of its data; give a run, or export one")
  role = load_role(workdir, _ROLES[stage], stage=stage)
  used = {section.get("seed") for section in _sections(config["data"])}
  fresh = (k for k in itertools.count(seed) if k not in used)
  drawn = any(section.get("source") == "toy" for section in _sections(config["data"]))
  seeds = list(itertools.islice(fresh, SETS if drawn else 1))
  found: dict[str, list[float]] = {}
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for one in track(seeds, "held-out sets"):
    for name, value in _measure(_changed(config, count, one, folder), role, folder).items():
      found.setdefault(name, []).append(value)
  rates = {name: _interval(values) for name, values in found.items()}
  atomic.write_json(folder / "scores.json", {"weights": role.digest, "step": role.step} | rates)
  rows = [f"{n:32} {r['mean']:10.4g} [{r['low']:.4g}, {r['high']:.4g}]" for n, r in rates.items()]
  return "\n".join(rows), rates


def _sections(data: dict[str, Any]) -> list[dict[str, Any]]:
  """The section of the data, and those of the entries of its mixture."""
  return [data, *data.get("mixture", {}).values()]


def _changed(
  config: Mapping[str, Any], count: int, seed: int, folder: pathlib.Path
) -> dict[str, Any]:
  """The config of a run that would evaluate on `count` samples of a seed, and on nothing else."""
  config = copy.deepcopy(dict(config))
  data, objective = config["data"], config.get("objective", {})
  for section in _sections(data):
    section.update(seed=seed, held_out=count, clips=data["global_batch"])
  data["cache"] = str(folder / "data")
  config["train"] = {}  # how it was trained does not matter, and older runs have other fields
  # Critics are not part of what is measured, nor is what a network outside of the run perceives.
  objective.update({name: 0.0 for name in _LEFT_OUT if name in objective})
  config["eval"] |= {"limit": count, "previews": 0, "batch": min(count, config["eval"]["batch"])}
  return config


def _measure(config: Mapping[str, Any], role: Role, folder: pathlib.Path) -> dict[str, float]:
  """The metrics of one set."""
  mesh = make_mesh((1, 1, 1, 1), jax.devices()[:1])
  weights = _Weights({_ROLES[config["stage"]]: role.params})
  found: dict[str, float] = {}
  for hook in experiment.build(config, str(folder), mesh).hooks:
    if hook.name.startswith(_MEASURING):
      found |= hook.call(weights, role.step)
  return {name: float(value) for name, value in found.items()}


def _interval(values: list[float]) -> dict[str, float]:
  mean = float(np.mean(values))
  reach = _T * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
  return {"mean": mean, "low": mean - reach, "high": mean + reach}
