"""The text of a compiled module: its computations in the order they run, and what runs beside what.

A collective is beside other work where the schedule starts it, runs a matrix product or a kernel,
and awaits it after that, or where the TPU compiler has fused the two.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
  r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CHANNEL = re.compile(r"channel_id=(\d+)")
# What is worth hiding communication behind; kernels are attention's, and a GPU's matrix products.
_WORK = ("convolution", "dot")
_KERNELS = re.compile(r'custom_call_target="(?:tpu_custom_call|__cu\w+\$|__cublas|__cudnn)')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation: name, result, operation, operands and the computations called."""

  name: str
  result: str
  op: str
  operands: str
  called: tuple[str, ...]
  line: str


@dataclasses.dataclass(frozen=True)
class Found:
  """A collective of a computation.

  Attributes:
    kind: one of KINDS.
    op: the operation as written, such as "all-gather-start".
    result: its type; line: all of it.
    fused_scatter: whether it is the all-reduce of a fusion that keeps one piece, which is how the
      TPU compiler writes a reduce-scatter.
    beside: whether other work runs beside it.
  """

  kind: str
  op: str
  result: str
  line: str
  fused_scatter: bool
  beside: bool


class Module:
  """A module's text, taken apart.

  Attributes:
    entry: name of the computation that runs first.
  """

  def __init__(self, hlo: str):
    self._bodies: dict[str, list[str]] = {}
    self.entry, current = "", None
    for line in hlo.splitlines():
      if match := _COMPUTATION.match(line):
        current = self._bodies.setdefault(match.group(2), [])
        self.entry = match.group(2) if match.group(1) else self.entry
      # A closing brace alone ends nothing: the text of embedded kernels has such lines too.
      elif current is not None:
        current.append(line)

  @functools.cache  # noqa: B019
  def instructions(self, name: str) -> tuple[Instruction, ...]:
    """Those of a computation, in the order they run."""
    found = []
    for line in self._bodies.get(name, ()):
      if match := _INSTRUCTION.match(line):
        branches = [
          item.strip().lstrip("%") for text in _BRANCHES.findall(line) for item in text.split(",")
        ]
        called = (*_CALLED.findall(line), *branches)
        found.append(Instruction(*match.groups(), called, line))
    return tuple(found)

  @functools.cache  # noqa: B019
  def communicates(self, name: str) -> bool:
    """Whether a computation, or one that it calls, holds a collective."""
    return any(
      i.op.removesuffix("-start") in KINDS or any(map(self.communicates, i.called))
      for i in self.instructions(name)
    )

  @functools.cache  # noqa: B019
  def works(self, name: str) -> bool:
    """Whether a computation, or one that it calls, holds matrix products or kernels."""
    return any(map(self._is_work, self.instructions(name)))

  def _is_work(self, item: Instruction) -> bool:
    if item.op in _WORK or (item.op == "custom-call" and _KERNELS.search(item.line)):
      return True
    return any(map(self.works, item.called))

  def loops(self, name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(line, computations called) of the loops of a computation."""
    return ((i.line, i.called) for i in self.instructions(name) if i.op == "while")

  def branches(self, name: str) -> Iterator[str]:
    """Computations that run at most once where a computation does, as calls and branches."""
    return (c for i in self.instructions(name) if i.op in ("call", "conditional") for c in i.called)

  def trips(self, line: str) -> int:
    """How often a loop runs.

    Raises:
      ValueError: where the trip count is not in the text.
    """
    if match := _TRIPS.search(line):
      return int(match.group(1))
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    text = "\n".join(self._bodies.get(condition.group(1), ())) if condition else ""
    limits = set(re.findall(r"[su]32\[\][^=]* constant\((\d+)\)", text))
    if len(limits) != 1:
      raise ValueError(f"a loop with collectives has no known trip count: {line[:200]}")
    return int(limits.pop())

  def collectives(self, name: str) -> list[Found]:
    """Those of a computation and of its fusions, but not of its loops and branches."""
    items, found, channels = self.instructions(name), [], {}
    for index, item in enumerate(items):
      if item.op in ("while", "call", "conditional") or item.op.endswith(("-done", "-update")):
        continue  # The start of an asynchronous call has been counted.
      if item.op.removesuffix("-start") in KINDS:
        beside = item.op.endswith("-start") and self._covered(items, index)
        found.append(_found(item, name, beside))
      for called in item.called:
        wrapped = item.op.endswith("-start") and self._covered(items, index)
        for inner, within in self._fused(called):
          one = _found(inner, within, wrapped or self.works(called))
          # The steps of a fused asynchronous collective repeat it, with one number.
          channel = _CHANNEL.search(inner.line)
          key = channel.group(1) if channel else (within, inner.name)
          channels[key] = _merged(channels.get(key), one)
    return found + list(channels.values())

  def _fused(self, name: str) -> Iterator[tuple[Instruction, str]]:
    """(collective, name of its computation) in a fusion and in what that calls."""
    for item in self.instructions(name):
      if item.op.removesuffix("-start") in KINDS:
        yield item, name
      for called in item.called:
        yield from self._fused(called)

  def _covered(self, items: tuple[Instruction, ...], start: int) -> bool:
    """Whether work runs between the start of an asynchronous call and its end."""
    waiting = {items[start].name}
    work = False
    for item in items[start + 1 :]:
      if waiting & {name.strip().lstrip("%") for name in item.operands.split(",")}:
        if item.op.endswith("-done"):
          return work
        if item.op.endswith("-update"):
          waiting.add(item.name)
          continue
      work = work or self._is_work(item)
    return False


def _found(item: Instruction, computation: str, beside: bool) -> Found:
  kind = item.op.removesuffix("-start")
  scatter = kind == "all-reduce" and computation.startswith("all-reduce-scatter")
  return Found(kind, item.op, item.result, item.line, scatter, beside)


def _merged(one: Found | None, other: Found) -> Found:
  if one is None:
    return other
  return dataclasses.replace(
    one, beside=one.beside or other.beside, fused_scatter=one.fused_scatter or other.fused_scatter
  )
