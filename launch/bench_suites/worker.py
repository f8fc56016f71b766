"""One side of the comparison in its own process: builds programs and times them on request.

python -m launch.bench_suites.worker SIDE THREADS

Requests are lines of JSON on stdin, answers lines of JSON on stdout; output of libraries goes to
stderr. An answer with "error" says why a program could not be built or run.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable

SIDES = {"ours": "launch.bench_suites.ours", "torch": "launch.bench_suites.torch_side"}


def pin(threads: int) -> None:
  """Restricts this process to its first cores, from which both frameworks size their pools."""
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _busy() -> float | None:
  """CPU seconds used by all processes of the machine; None if that cannot be read."""
  try:
    with open("/proc/stat") as f:
      ticks = [int(n) for n in f.readline().split()[1:]]
  except OSError:
    return None
  idle = ticks[3] + ticks[4]
  return (sum(ticks[:8]) - idle) / os.sysconf("SC_CLK_TCK")


def sample(call: Callable[[], object], seconds: float) -> dict[str, float | int | None]:
  """Milliseconds of one call, averaged over as many calls as fill `seconds`.

  One untimed call comes first, as the other side just used the caches. `foreign` is the fraction of
  the machine's cores that other processes used meanwhile.
  """
  call()
  busy, own, calls = _busy(), time.process_time(), 0
  start = time.perf_counter()
  while (spent := time.perf_counter() - start) < seconds:
    call()
    calls += 1
  foreign = None
  if busy is not None:
    others = _busy() - busy - (time.process_time() - own)
    foreign = round(max(0.0, others) / spent / os.cpu_count(), 3)
  return {"ms": 1e3 * spent / calls, "calls": calls, "foreign": foreign}


class Worker:
  """Programs by name, and the requests that a side answers."""

  def __init__(self, build: Callable, about: Callable[[], dict] = dict):
    self._build, self._about = build, about
    self._programs = {}

  def answer(self, request: dict) -> dict:
    """Handles one request: "about", "build", "sample" or "drop"."""
    if request["do"] == "about":
      return self._about()
    name = request["name"]
    if request["do"] == "build":
      program = self._build(request["kind"], request["shapes"], request["variant"])
      self._programs[name] = program
      program.call()
      return {"first_s": program.first_s, "flop": program.flop, "units": program.units}
    if request["do"] == "sample":
      return sample(self._programs[name].call, request["seconds"])
    return {"dropped": self._programs.pop(name, None) is not None}


def main(side: str, threads: int) -> None:
  """Handles requests until stdin ends."""
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  pin(threads)
  if side == "torch":
    importlib.import_module("torch").set_num_threads(threads)
  module = importlib.import_module(SIDES[side])
  worker = Worker(module.build, module.about)
  for line in sys.stdin:
    try:
      answer = worker.answer(json.loads(line))
    except Exception as e:  # a peer that cannot run is a row of the table, not the end
      reason = (str(e).strip() or repr(e)).splitlines()[0]
      answer = {"error": f"{type(e).__name__}: {reason[:160]}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]))
