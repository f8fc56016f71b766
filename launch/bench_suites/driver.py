"""Runs the suites: both sides in long-lived processes, their samples taken in turns.

All compared samples come from one run: ours, peer, ours, peer, and so on, so that anything slowing
the machine slows both. Compilation is never inside a sample.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from launch.bench_suites.suites import PUBLISHED, SAME_WORK, SUITES, Suite, widths
from mg_jax.core.errors import UserError

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_MISSING = "not installed: pip install -e .[parity]"
SAMPLE_SECONDS = 0.05
OURS = "mg_jax"


@dataclasses.dataclass
class Row:
  """One program's line of the table.

  Attributes:
    suite, name: the work and who does it.
    widths: widths of a video autoencoder, see suites.widths.
    same_work: whether it computes the same function as ours.
    note: why there are no samples, "" if there are.
    samples: milliseconds per call.
    foreign: per sample, the fraction of the machine used by other processes; None: unknown.
    first_s, flop, units, unit: see suites.Program and suites.Suite.
  """

  suite: str
  name: str
  same_work: bool = False
  widths: str = ""
  note: str = ""
  samples: list[float] = dataclasses.field(default_factory=list)
  foreign: list[float | None] = dataclasses.field(default_factory=list)
  first_s: float = 0.0
  flop: float = 0.0
  units: int = 0
  unit: str = ""

  @property
  def median(self) -> float:
    return statistics.median(self.samples)

  @property
  def gflops(self) -> float:
    """Billions of floating-point operations per second."""
    return self.flop / self.median / 1e6

  @property
  def rate(self) -> float:
    """Units per second."""
    return 1e3 * self.units / self.median


class Side:
  """The process of one side. A context manager."""

  def __init__(self, side: str, threads: int, *, python: str | None = None):
    """Starts it, with the interpreter `python` if the libraries of a side are installed there.

    Raises:
      UserError: if that interpreter cannot be started.
    """
    self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
    environment = {"JAX_PLATFORMS": "cpu", **os.environ}
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # Both sides share a GPU.
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    # Compile times are part of the report, so do not use a cache.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    try:
      self._process = subprocess.Popen(
        [python or sys.executable, "-m", "launch.bench_suites.worker", side, str(threads)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment,
      )  # fmt: skip
    except OSError as e:
      raise UserError(f"{python} cannot be started ({e.strerror}); give a Python's path") from e

  def ask(self, **request: Any) -> dict[str, Any]:
    """Sends a request and waits for its answer; a dead process answers with an error."""
    try:
      self._process.stdin.write(json.dumps(request) + "\n")
      self._process.stdin.flush()
      line = self._process.stdout.readline()
    except BrokenPipeError:
      line = ""
    if line:
      return json.loads(line)
    self._log.seek(0)
    last = (self._log.read().strip() or "nothing was printed").splitlines()[-1]
    return {"error": f"the process ended: {last[:160]}"}

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    # A side that already ended, for example because of a missing library, reads no more.
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    try:
      self._process.wait(timeout=10)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()
    self._log.close()


@contextlib.contextmanager
def sides(threads: int, *, peer_python: str | None = None) -> Iterator[tuple[Side, Side]]:
  """Both sides, ours and torch, while inside; `peer_python` is `python` of Side."""
  with Side("ours", threads) as ours, Side("torch", threads, python=peer_python) as torch:
    yield ours, torch


def about(ours: Side, torch: Side) -> dict[str, Any]:
  """{"versions", "machine"} for `figures.record`; libraries by the side that runs them.

  If the peers run on another Python, it is "peer_python".

  Raises:
    UserError: if our side does not start.
  """
  own = ours.ask(do="about")
  if "error" in own:
    raise UserError(f"the benchmark does not start: {own['error']}")
  theirs = torch.ask(do="about").get("versions", {})
  if (python := theirs.get("python", own["versions"]["python"])) != own["versions"]["python"]:
    own["versions"]["peer_python"] = python
  return own | {"versions": theirs | own["versions"]}


def _lacking(variant: str, versions: Mapping[str, str]) -> str:
  """Why a peer cannot run with the installed libraries, or ""."""
  needed = ("torch", "diffusers") if variant in PUBLISHED else ("torch",)
  return "" if all(name in versions for name in needed) else _MISSING


def choose(names: Sequence[str], size: str = "default") -> list[Suite]:
  """Suites by name; all suites of this size if empty.

  Raises:
    UserError: on an unknown name, and on a suite that has no such size.
  """
  for name in names:
    if name not in SUITES:
      raise UserError(f"no suite is named {name!r}; known are {', '.join(SUITES)}")
    if size not in SUITES[name].sizes:
      sizes = ", ".join(SUITES[name].sizes)
      raise UserError(f"suite {name} has no size {size!r}; known are {sizes}")
  return [SUITES[name] for name in names] or [s for s in SUITES.values() if size in s.sizes]


def run(
  suites: Sequence[Suite],
  ours: Side,
  torch: Side,
  *,
  size: str,
  runs: int,
  log: Callable[[str], None],
  peers: bool = True,
) -> Iterator[list[Row]]:
  """Measures suites sequentially, and yields the rows of each when it is done.

  Args:
    suites: from `choose`.
    ours, torch: from `sides`.
    size: of SIZES.
    runs: samples per program.
    log: prints progress.
    peers: whether to time the peers too; they run on the CPU.
  """
  versions = about(ours, torch)["versions"]
  for suite in suites:
    row = functools.partial(Row, suite.name, unit=suite.unit)
    programs = [(ours, row(OURS, widths=widths(OURS, suite.sizes[size])))]
    for variant in suite.peers if peers else ():
      peer = row(f"torch {variant}", variant in SAME_WORK, widths(variant, suite.sizes[size]))
      peer.note = _lacking(variant, versions)
      programs.append((torch, peer))
    _suite(suite, size, programs, runs, log)
    yield [row for _, row in programs]


def _suite(suite, size, programs, runs, log) -> None:
  for side, row in programs:
    if not row.note:
      log(f"{suite.name} {size}: building {row.name}")
      answer = side.ask(
        do="build", name=row.name, kind=suite.kind, shapes=suite.sizes[size],
        variant=row.name.removeprefix("torch "),
      )  # fmt: skip
      _take(row, answer, ("first_s", "flop", "units"))
  for i in range(runs):
    log(f"{suite.name} {size}: sample {i + 1} of {runs}")
    for side, row in programs:
      if not row.note:
        answer = side.ask(do="sample", name=row.name, seconds=SAMPLE_SECONDS)
        if "error" in answer:
          row.note = answer["error"]
          continue
        row.samples.append(answer["ms"])
        row.foreign.append(answer["foreign"])
  for side, row in programs:
    side.ask(do="drop", name=row.name)


def _take(row: Row, answer: dict[str, Any], names: Sequence[str]) -> None:
  if "error" in answer:
    row.note = answer["error"]
    return
  for name in names:
    setattr(row, name, answer[name])
