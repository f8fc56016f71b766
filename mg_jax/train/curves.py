"""Curves of runs: what their metrics.jsonl holds, over steps, as a picture and as numbers."""

import os
import pathlib
from collections.abc import Sequence

from mg_jax.core.errors import UserError
from mg_jax.data import atomic
from mg_jax.train import export, plots
from mg_jax.train.writer import read_metrics

DIGITS = 5  # of the numbers that are kept


def read(workdir: str | os.PathLike[str], name: str) -> tuple[list[int], list[float]]:
  """Steps and values of one metric of a run, without those that were not finite.

  Raises:
    UserError: when the run has no metrics, or none of that name.
  """
  try:
    rows = read_metrics(workdir)
  except FileNotFoundError as e:
    raise UserError(f"{os.fspath(workdir)} has no metrics; give the workdir of a run") from e
  # What was not finite is written as text.
  found = {row["step"]: row[name] for row in rows if isinstance(row.get(name), int | float)}
  if not found:
    names = ", ".join(sorted({key for row in rows for key in row} - {"step"})) or "none"
    raise UserError(f"{os.fspath(workdir)} has no metric {name!r}; those of the run are: {names}")
  steps = sorted(found)
  return steps, [found[step] for step in steps]


def plot(
  workdirs: Sequence[str | os.PathLike[str]], names: Sequence[str], out: str | os.PathLike[str]
) -> None:
  """Writes a picture with a panel per metric and a line per run, and beside it the numbers.

  For `out.png` there is `out.json`: of each run its config, None where it has kept no checkpoint
  yet, and of each metric {"steps", "values"}.

  Raises:
    UserError: as `read`, and without matplotlib.
  """
  pyplot, out = plots.pyplot(), pathlib.Path(out)
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
  atomic.write_json(out.with_suffix(".json"), kept)


def _config(workdir: str | os.PathLike[str]) -> dict | None:
  try:
    return export.saved_config(workdir)
  except UserError:
    return None


def _short(value: float) -> float:
  return float(f"{value:.{DIGITS}g}")
