"""Stages run one after the other, each from the run before, and what each switch costs.

A switch is measured before its first step, on the held-out clips of the new stage: the loss with
the parameters as they were grown, beside that with position tables at their initial values.
[MG 3.2.2]
"""

import copy
import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mg_jax.data import atomic
from mg_jax.stages import experiment
from mg_jax.train import averaging
from mg_jax.train.warmstart import FRESH
from mg_jax.train.writer import FILE as METRICS

_log = logging.getLogger(__name__)
LOSS = "eval/fm_loss"
_TABLES = r"/positions/"


@dataclasses.dataclass(frozen=True)
class Link:
  """A stage of a chain.

  Attributes:
    run: folder of its run; a phase has that of the phase before it.
    config: of the experiment, as plain values.
    after: folder of the run that it starts from; "" for random parameters, or for a phase.
  """

  run: str
  config: Mapping[str, Any]
  after: str = ""


@dataclasses.dataclass(frozen=True)
class Switch:
  """Held-out losses of a generator around the start of a stage; None where there is none.

  Attributes:
    stage: its folder, with the phase where that is not the first.
    after: what it starts from.
    before: loss of the stage before it at its end, on its own held-out clips.
    grown: at step 0.
    fresh: at step 0, with position tables at their initial values.
    end: at its last step.
  """

  stage: str
  after: str
  before: float | None
  grown: float | None
  fresh: float | None
  end: float


def run(links: Sequence[Link], folder: pathlib.Path, *, mean: Sequence[str] = ()) -> list[Switch]:
  """Runs the links in order, and averages the runs named in `mean` into `<folder>/mean`.

  What is finished is not run again. The switches lie in `<folder>/chain.json`.

  Raises:
    UserError: as `experiment.run`.
    KeyboardInterrupt: a run was stopped, and saved; the same call goes on.
  """
  switches: list[Switch] = []
  ends: dict[str, float] = {}
  for link in links:
    config = copy.deepcopy(dict(link.config))
    phase = config["train"]["phase"]
    config["eval"]["start"] = bool(link.after)
    if link.after:
      config["train"]["warm_start"]["workdir"] = str(folder / link.after)
    name = link.run + (f", phase {phase}" if phase > 1 else "")
    _log.info("== %s%s", name, f", from {link.after}" if link.after else "")
    _train(config, folder / link.run)
    if config["stage"] != "flow_matching":
      continue
    losses = _losses(folder / link.run)
    fresh = None
    if link.after:
      fresh = _with_fresh_tables(config, folder / f"{link.run}.fresh_tables")
    before = ends.get(link.after or link.run)
    end = losses[max(step for step in losses if step <= config["train"]["steps"])]
    switches.append(
      Switch(name, link.after, before, losses[0] if link.after else None, fresh, end)
    )
    ends[link.run] = end
  if mean and not (folder / "mean").exists():
    averaging.average([str(folder / name) for name in mean], folder / "mean")
  atomic.write_json(
    folder / "chain.json", {"switches": [dataclasses.asdict(switch) for switch in switches]}
  )
  return switches


def table(switches: Sequence[Switch]) -> str:
  """The switches as text."""
  lines = [
    f"{'held-out loss':<24} {'before':>8} {'step 0':>8} {'fresh tables':>13} {'at its end':>11}"
  ]
  for switch in switches:
    cells = [
      "-" if value is None else f"{value:.3f}"
      for value in (switch.before, switch.grown, switch.fresh, switch.end)
    ]
    lines.append(f"{switch.stage:<24} {cells[0]:>8} {cells[1]:>8} {cells[2]:>13} {cells[3]:>11}")
  return "\n".join(lines)


def _train(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
  if experiment.run(config, str(workdir)).status == "interrupted":
    raise KeyboardInterrupt


def _with_fresh_tables(config: dict[str, Any], workdir: pathlib.Path) -> float:
  config = copy.deepcopy(config)
  # One step, as a run has at least one; only what comes before it is read.
  config["train"]["steps"] = 1
  config["train"]["warm_start"]["grow"] = [[_TABLES, FRESH]]
  _train(config, workdir)
  return _losses(workdir)[0]


def _losses(workdir: pathlib.Path) -> dict[int, float]:
  lines = [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]
  return {line["step"]: line[LOSS] for line in lines if LOSS in line}
