"""The report of a benchmark: a table for the terminal, and JSON with every sample."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Sequence
from typing import Any

from launch.bench_suites.driver import OURS, Row

_LIBRARIES = ("jax", "flax", "torch", "diffusers", "transformers")
_HEAD = ("", "median ms", "min", "max", "GFLOP", "GFLOP/s", "rate", "first s", "x ours")
_NOISE = 0.05  # share of the machine used by others from which a sample is called noisy


def machine(threads: int) -> dict[str, Any]:
  """Processor, cores, threads of each side, and versions."""
  model = platform.processor() or platform.machine()
  try:
    with open("/proc/cpuinfo") as f:
      model = next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
  except (OSError, StopIteration):
    pass
  versions = {
    name: importlib.metadata.version(name) for name in _LIBRARIES if importlib.util.find_spec(name)
  }
  flags = os.environ.get("XLA_FLAGS", "")
  return {"cpu": model, "cores": os.cpu_count(), "threads": threads, **versions, "xla_flags": flags}


def ratios(rows: Sequence[Row]) -> dict[str, float]:
  """Per suite, the median of the fastest peer that does the same work over our median."""
  out = {}
  for suite in dict.fromkeys(row.suite for row in rows):
    done = [row for row in rows if row.suite == suite and not row.note and row.samples]
    ours = [row.median for row in done if row.name == OURS]
    peers = [row.median for row in done if row.same_work]
    if ours and peers:
      out[suite] = min(peers) / ours[0]
  return out


def _cells(row: Row, ours: Row | None) -> tuple[str, ...]:
  rate = f"{row.rate:.1f} {row.unit}/s" if row.units else ""
  known = (f"{row.flop / 1e9:.1f}", f"{row.gflops:.0f}") if row.flop else ("", "")
  ratio = f"{row.median / ours.median:.2f}" if row.same_work and ours else ""
  times = (f"{value:.2f}" for value in (row.median, min(row.samples), max(row.samples)))
  return (row.name, *times, *known, rate, f"{row.first_s:.1f}", ratio)


def table(rows: Sequence[Row]) -> str:
  """The rows, suite by suite; "x ours" is a peer's median over ours, for the same work only."""
  lines = []
  for suite in dict.fromkeys(row.suite for row in rows):
    own = [row for row in rows if row.suite == suite]
    ours = next((row for row in own if row.name == OURS and row.samples and not row.note), None)
    cells = [(suite, *_HEAD[1:])]
    cells += [_cells(row, ours) for row in own if row.samples and not row.note]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_HEAD))]
    for row in cells:
      rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
      lines.append("  ".join((row[0].ljust(widths[0]), *rest)).rstrip())
    lines += [f"{row.name}: {row.note}" for row in own if row.note]
    lines.append("")
  for suite, ratio in ratios(rows).items():
    lines.append(f"{suite}: the fastest torch takes {ratio:.2f} times as long as mg_jax")
  if noisy := sum(1 for row in rows for share in row.foreign if share and share > _NOISE):
    count = sum(len(row.samples) for row in rows)
    lines.append(
      f"{noisy} of {count} samples were taken while other processes used more than"
      f" {_NOISE:.0%} of the machine; run again when it is idle"
    )
  return "\n".join(lines)


def document(rows: Sequence[Row], about: dict[str, Any]) -> dict[str, Any]:
  """Everything that was measured, for `--json`."""
  return {
    "machine": about,
    "ratios": ratios(rows),
    "rows": [dataclasses.asdict(row) for row in rows],
  }
