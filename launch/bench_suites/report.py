"""The report of a benchmark: a table for the terminal, and every sample for `--figure`."""

from collections.abc import Sequence
from typing import Any

from launch.bench_suites.driver import OURS, Row

_HEAD = ("", "median ms", "min", "max", "GFLOP", "GFLOP/s", "rate", "first s", "x ours")
_NOISE = 0.05  # fraction of the machine used by others above which a sample counts as noisy


def _done(rows: Sequence[Row], suite: str) -> tuple[Row | None, list[Row]]:
  """Our row of a suite, None if it failed, and those of the measured peers."""
  done = [row for row in rows if row.suite == suite and not row.note and row.samples]
  ours = next((row for row in done if row.name == OURS), None)
  return ours, [row for row in done if row.name != OURS]


def ratios(rows: Sequence[Row]) -> dict[str, float]:
  """Per suite, the median of the fastest peer with the same work over our median."""
  out = {}
  for suite in dict.fromkeys(row.suite for row in rows):
    ours, peers = _done(rows, suite)
    same = [row.median for row in peers if row.same_work]
    if ours and same:
      out[suite] = min(same) / ours.median
  return out


def beside(row: Row, ours: Row) -> dict[str, float]:
  """A peer with other work, per unit and relative to ours: {"time", "work", "time_for_work"}."""
  time = ours.rate / row.rate
  work = row.flop / row.units / (ours.flop / ours.units)
  return {"time": time, "work": work, "time_for_work": time / work}


def _cells(row: Row, ours: Row | None) -> tuple[str, ...]:
  name = f"{row.name}, widths {row.widths}" if row.widths else row.name
  rate = f"{row.rate:.1f} {row.unit}/s" if row.units else ""
  known = (f"{row.flop / 1e9:.1f}", f"{row.gflops:.0f}") if row.flop else ("", "")
  ratio = f"{row.median / ours.median:.2f}" if row.same_work and ours else ""
  times = (f"{value:.2f}" for value in (row.median, min(row.samples), max(row.samples)))
  return (name, *times, *known, rate, f"{row.first_s:.1f}", ratio)


def table(rows: Sequence[Row]) -> str:
  """The rows, suite by suite; "x ours" is a peer's median over ours, for the same work only.

  GFLOP are per call. For peers with other work a line gives their time per unit and their
  multiply-adds.
  """
  lines, notes = [], []
  for suite in dict.fromkeys(row.suite for row in rows):
    own = [row for row in rows if row.suite == suite]
    ours, peers = _done(rows, suite)
    cells = [(suite, *_HEAD[1:])]
    cells += [_cells(row, ours) for row in own if row.samples and not row.note]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_HEAD))]
    for row in cells:
      rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
      lines.append("  ".join((row[0].ljust(widths[0]), *rest)).rstrip())
    lines += [f"{row.name}: {row.note}" for row in own if row.note]
    lines.append("")
    for row in peers if ours else ():
      if not row.same_work:
        ratio = beside(row, ours)
        notes.append(
          f"{suite}: of {row.unit}, {row.name} at widths {row.widths} takes {ratio['time']:.2f} "
          f"times our time for {ratio['work']:.2f} times our multiply-adds"
        )
  for suite, ratio in ratios(rows).items():
    lines.append(f"{suite}: the fastest torch takes {ratio:.2f} times as long as mg_jax")
  lines += notes
  if noisy := sum(1 for row in rows for share in row.foreign if share and share > _NOISE):
    count = sum(len(row.samples) for row in rows)
    lines.append(
      f"{noisy} of {count} samples were taken while other processes used more than"
      f" {_NOISE:.0%} of the machine; run again when it is idle"
    )
  return "\n".join(lines)


def values(rows: Sequence[Row]) -> dict[str, Any]:
  """All measurements: {suite: {program: numbers}}, and "fastest_torch" of a suite.

  A program's numbers are "ms" (the median), "samples", "gflop" per call, "gflops" per second,
  "rate" in units per second, "widths", "foreign", "first_s", "note", and for peers with other work
  those of `beside`. Unknown numbers are left out.
  """
  by_suite: dict[str, Any] = {}
  for row in rows:
    ours, _ = _done(rows, row.suite)
    about = {"samples": row.samples, "foreign": row.foreign, "first_s": row.first_s}
    if row.samples and not row.note:
      about["ms"] = row.median
      about |= {"gflop": row.flop / 1e9, "gflops": row.gflops} if row.flop else {}
      about |= {"rate": row.rate, "unit": row.unit} if row.units else {}
      if ours and ours is not row and not row.same_work:
        about |= beside(row, ours)
    about |= {name: text for name in ("widths", "note") if (text := getattr(row, name))}
    by_suite.setdefault(row.suite, {})[row.name.replace(" ", "_")] = about
  for suite, ratio in ratios(rows).items():
    by_suite[suite]["fastest_torch"] = ratio
  return by_suite
