"""Curves of runs: the metrics in their metrics.jsonl, over steps, as a picture and as numbers."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from mg_jax.core import plotting
from mg_jax.core.errors import UserError
from mg_jax.evaluation import figures
from mg_jax.train.runs import saved_config
from mg_jax.train.writer import read_metrics

DIGITS = 5  # significant digits kept


def read(workdir: str | os.PathLike[str], name: str) -> tuple[list[int], list[float]]:
  """Steps and values of one metric of a run, without non-finite values.

  Raises:
    UserError: if the run has no metrics, or none of that name.
  """
  rows = _rows(workdir)
  # Non-finite values are stored as text.
  by_step = {row["step"]: row[name] for row in rows if isinstance(row.get(name), int | float)}
  if not by_step:
    names = ", ".join(sorted({key for row in rows for key in row} - {"step"})) or "none"
    raise UserError(f"{os.fspath(workdir)} has no metric {name!r}; it has {names}")
  steps = sorted(by_step)
  return steps, [by_step[step] for step in steps]


def ends(workdir: str | os.PathLike[str]) -> dict[str, Any]:
  """The first and the last value of every metric of a run: {"first", "last"}, "last" with "step".

  Raises:
    UserError: if the run has no metrics.
  """
  rows = _rows(workdir)
  first, last = {}, {}
  for row in rows:
    first, last = row | first, last | row
  del first["step"]
  return {"first": first, "last": last}


def plot(
  workdirs: Sequence[str | os.PathLike[str]], names: Sequence[str], out: str | os.PathLike[str]
) -> None:
  """Writes a picture with a panel per metric and a line per run, and the numbers next to it.

  For `out.png` there is `out.json`, written by `figures.record`: for each run its config, None if
  it has no checkpoint yet, and for each metric {"steps", "values"}.

  Raises:
    UserError: as `read`, and without matplotlib.
  """
  pyplot, out = plotting.pyplot(), pathlib.Path(out)
  lines = {name: [read(workdir, name) for workdir in workdirs] for name in names}
  size = (5 * len(names), 3.6)
  figure, axes = pyplot.subplots(1, len(names), figsize=size, layout="constrained", squeeze=False)
  for axis, (name, runs) in zip(axes[0], lines.items(), strict=True):
    for workdir, (steps, values) in zip(workdirs, runs, strict=True):
      axis.plot(steps, values, marker="." if len(steps) < 50 else "", label=os.fspath(workdir))
    axis.set(title=name, xlabel="step")
    axis.grid(alpha=0.3)
  axes[0][0].legend(fontsize="small")
  out.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(out, dpi=100)
  pyplot.close(figure)
  kept = {}
  for number, workdir in enumerate(workdirs):
    metrics = {
      name: {"steps": runs[number][0], "values": [_short(x) for x in runs[number][1]]}
      for name, runs in lines.items()
    }
    kept[os.fspath(workdir)] = {"config": _config(workdir), "metrics": metrics}
  figures.record(out.with_suffix(".json"), kept)


def _rows(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
  try:
    rows = read_metrics(workdir)
  except FileNotFoundError:
    rows = []
  if not rows:
    raise UserError(f"{os.fspath(workdir)} has no metrics; give the workdir of a run")
  return rows


def _config(workdir: str | os.PathLike[str]) -> dict | None:
  try:
    return saved_config(workdir)
  except UserError:
    return None


def _short(value: float) -> float:
  return float(f"{value:.{DIGITS}g}")
