"""The text of a compiled module: its computations in schedule order, and what overlaps what.

A collective overlaps if the schedule starts it, runs a matrix product or a kernel, and only then
awaits it, or if the TPU compiler fused the two.
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
# Work that can hide communication; kernels are attention's, and a GPU's matrix products.
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
class CollectiveOp:
  """A collective of a computation.

  Attributes:
    kind: one of KINDS.
    op: the operation as written, such as "all-gather-start".
    result: its type; line: the whole line.
    fused_scatter: whether it is the all-reduce of a fusion that keeps one piece, which is how the
      TPU compiler writes a reduce-scatter.
    overlapped: whether other work runs at the same time.
  """

  kind: str
  op: str
  result: str
  line: str
  fused_scatter: bool
  overlapped: bool


class Module:
  """A parsed module.

  Attributes:
    entry: name of the entry computation.
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
    """Instructions of a computation, in schedule order."""
    parsed = []
    for line in self._bodies.get(name, ()):
      if match := _INSTRUCTION.match(line):
        branches = [
          item.strip().lstrip("%") for text in _BRANCHES.findall(line) for item in text.split(",")
        ]
        called = (*_CALLED.findall(line), *branches)
        parsed.append(Instruction(*match.groups(), called, line))
    return tuple(parsed)

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
    """(line, called computations) of the loops of a computation."""
    return ((i.line, i.called) for i in self.instructions(name) if i.op == "while")

  def branches(self, name: str) -> Iterator[str]:
    """Computations that run at most once per run of a computation, such as calls and branches."""
    return (c for i in self.instructions(name) if i.op in ("call", "conditional") for c in i.called)

  def trips(self, line: str) -> int:
    """Trip count of a loop.

    Raises:
      ValueError: if the trip count is not in the text.
    """
    if match := _TRIPS.search(line):
      return int(match.group(1))
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    text = "\n".join(self._bodies.get(condition.group(1), ())) if condition else ""
    limits = set(re.findall(r"[su]32\[\][^=]* constant\((\d+)\)", text))
    if len(limits) != 1:
      raise ValueError(f"a loop with collectives has no known trip count: {line[:200]}")
    return int(limits.pop())

  def collectives(self, name: str) -> list[CollectiveOp]:
    """Collectives of a computation and of its fusions, but not of its loops and branches."""
    items, ops, channels = self.instructions(name), [], {}
    for index, item in enumerate(items):
      if item.op in ("while", "call", "conditional") or item.op.endswith(("-done", "-update")):
        continue  # The start of the asynchronous call was counted already.
      if item.op.removesuffix("-start") in KINDS:
        overlapped = item.op.endswith("-start") and self._covered(items, index)
        ops.append(_collective(item, name, overlapped))
      for called in item.called:
        wrapped = item.op.endswith("-start") and self._covered(items, index)
        for inner, within in self._fused(called):
          one = _collective(inner, within, wrapped or self.works(called))
          # The steps of a fused asynchronous collective repeat it, with the same channel.
          channel = _CHANNEL.search(inner.line)
          key = channel.group(1) if channel else (within, inner.name)
          channels[key] = _merged(channels.get(key), one)
    return ops + list(channels.values())

  def _fused(self, name: str) -> Iterator[tuple[Instruction, str]]:
    """(collective, name of its computation) in a fusion and the computations it calls."""
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


def _collective(item: Instruction, computation: str, overlapped: bool) -> CollectiveOp:
  kind = item.op.removesuffix("-start")
  scatter = kind == "all-reduce" and computation.startswith("all-reduce-scatter")
  return CollectiveOp(kind, item.op, item.result, item.line, scatter, overlapped)


def _merged(one: CollectiveOp | None, other: CollectiveOp) -> CollectiveOp:
  if one is None:
    return other
  return dataclasses.replace(
    one,
    overlapped=one.overlapped or other.overlapped,
    fused_scatter=one.fused_scatter or other.fused_scatter,
  )
