"""The communication of a compiled program, from its optimized and scheduled HLO text.

Loops count as often as they run. The mesh axes of a collective follow from its groups of devices,
which are positions in the mesh.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from mg_jax.plan.hlo import Module

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}
_ARRAY = re.compile(r"\b(pred|bf16|f8\w*|[fsu]\d+)\[([\d,]*)\]")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]+\})\}")


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collectives of one kind over the same axes.

  Attributes:
    kind: one of KINDS.
    axes: mesh axes along which the devices of a group differ.
    count: executions per step.
    result_bytes: bytes of all results on one device.
    sent_bytes: lower bound of the bytes that one device sends over the fast network.
    outer_bytes: the same over the slow one, between slices or GPU hosts: what an island of the
      group has to send, divided among its members.
    network: the slowest network in use.
    overlapped: fraction of the bytes that the schedule sends during matrix products or kernels.
  """

  kind: str
  axes: tuple[str, ...]
  count: int
  result_bytes: int
  sent_bytes: float
  outer_bytes: float
  network: str
  overlapped: float


def read(
  hlo: str,
  mesh_shape: Mapping[str, int],
  *,
  islands: Sequence[int] | None = None,
  networks: tuple[str, str] = ("ici", "dcn"),
) -> tuple[Collective, ...]:
  """All collectives of a program, the largest senders first.

  Args:
    hlo: text of the optimized and scheduled module.
    mesh_shape: size by axis, in order.
    islands: slice or host number of every device of the mesh, in order; None is a single one.
    networks: names of the networks inside an island and between islands.

  Raises:
    ValueError: on a loop around a collective whose trip count is not in the text.
  """
  module = Module(hlo)
  devices = math.prod(mesh_shape.values())
  islands = islands or [0] * devices
  sums: dict[tuple, list[float]] = collections.defaultdict(lambda: [0, 0, 0.0, 0.0, 0.0])

  def visit(name: str, times: int) -> None:
    for op in module.collectives(name):
      groups = _groups(op.line, devices)
      kind, size = op.kind, _result_bytes(op.result, paired=op.op in _PAIRED)
      if op.fused_scatter:
        kind, size = "reduce-scatter", size // len(groups[0])
      inner, outer = _sent(kind, size, groups, islands)
      slot = sums[kind, _axes(groups[0], mesh_shape), networks[outer > 0]]
      slot[0] += times
      slot[1] += times * size
      slot[2] += times * inner
      slot[3] += times * outer
      slot[4] += times * (inner + outer) * op.overlapped
    for line, called in module.loops(name):
      if any(map(module.communicates, called)):
        for inner in called:
          visit(inner, times * module.trips(line))
    for called in module.branches(name):
      visit(called, times)

  visit(module.entry, 1)
  merged = [
    Collective(kind, axes, int(count), int(size), sent, outer, network, beside / (sent + outer))
    for (kind, axes, network), (count, size, sent, outer, beside) in sums.items()
    if axes  # A group of one device sends nothing.
  ]
  return tuple(sorted(merged, key=lambda item: -item.sent_bytes - item.outer_bytes))


# Their starts return (operands, results, ...).
_PAIRED = (
  "all-gather-start", "collective-permute-start", "reduce-scatter-start", "all-to-all-start",
)  # fmt: skip


def _result_bytes(result: str, *, paired: bool) -> int:
  if paired and result.startswith("("):
    result = _items(result[1:-1])[1]
  sizes = [
    _width(kind) * math.prod(int(d) for d in dims.split(",") if d)
    for kind, dims in _ARRAY.findall(result)
  ]
  return sum(sizes)


def _items(text: str) -> list[str]:
  """Elements of a tuple type."""
  parts, depth = [""], 0
  for letter in text:
    depth += (letter in "([{") - (letter in ")]}")
    if letter == "," and depth == 0:
      parts.append("")
    else:
      parts[-1] += letter
  return parts


def _width(kind: str) -> int:
  if kind in _BYTES:
    return _BYTES[kind]
  return 1 if kind.startswith("f8") else max(1, int(kind[1:]) // 8)


def _groups(line: str, devices: int) -> list[tuple[int, ...]]:
  """Groups of a collective, or pairs of a permutation; all devices if none are listed."""
  if match := _IOTA.search(line):
    shape, source = (tuple(map(int, match.group(i).split(","))) for i in (1, 2))
    ids = np.arange(math.prod(source)).reshape(source)
    if match.group(3):
      ids = ids.transpose(tuple(map(int, match.group(3).split(","))))
    return [tuple(row) for row in ids.reshape(shape).tolist()]
  if match := _NAMED.search(line):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match.group(1))}
    varied = re.findall(r"'(\w+)'", match.group(2))
    ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    last = [i for i, name in enumerate(sizes) if name in varied]
    first = [i for i in range(len(sizes)) if i not in last]
    width = math.prod(ids.shape[i] for i in last)
    return [tuple(row) for row in ids.transpose(first + last).reshape(-1, width).tolist()]
  if match := _LISTED.search(line):
    groups = re.findall(r"\{([\d,]+)\}", match.group(1))
    return [tuple(map(int, group.split(","))) for group in groups]
  return [tuple(range(devices))]


def _axes(group: tuple[int, ...], mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
  places = np.unravel_index(np.array(group), tuple(mesh_shape.values()))
  return tuple(
    name for name, place in zip(mesh_shape, places, strict=True) if len(set(place.tolist())) > 1
  )


def _sent(
  kind: str, size: int, groups: Sequence[tuple[int, ...]], islands: Sequence[int]
) -> tuple[float, float]:
  """Lower bound of the bytes a device sends for a result of `size` bytes each: (inside, between).

  Between islands each piece travels once, sent by one of the members; the rest stays inside.
  """
  if kind == "collective-permute":
    crosses = [islands[a] != islands[b] for a, b in groups if a != b]
    return float(size) * (not all(crosses)), float(size) * any(crosses)
  n = len(groups[0])
  m = max(collections.Counter(islands[i] for i in groups[0]).values())
  h = -(-n // m)  # islands of a group
  if kind == "all-to-all":
    return size * (m - 1) / n, size * (n - m) / n
  whole = size * n if kind == "reduce-scatter" else size
  passes = 2 if kind == "all-reduce" else 1
  return passes * whole * (m - 1) / m, passes * whole * (h - 1) / h / m
