"""What a compiled program communicates: read off its optimized HLO text.

Loops count as often as they run. A collective's mesh axes follow from its groups of devices, which
are positions in the mesh.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}
_ARRAY = re.compile(r"\b(pred|bf16|f8\w*|[fsu]\d+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
  r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collectives of one kind over the same axes.

  Attributes:
    kind: one of KINDS.
    axes: of the mesh, along which the devices of a group differ.
    count: times one step runs them.
    result_bytes: of all their results, on one device.
    sent_bytes: that one device has to send, at least.
    network: "ici", or "dcn" for groups that span slices.
  """

  kind: str
  axes: tuple[str, ...]
  count: int
  result_bytes: int
  sent_bytes: float
  network: str


def read(hlo: str, mesh_shape: Mapping[str, int], *, slices: int = 1) -> tuple[Collective, ...]:
  """All collectives of a program, the largest senders first.

  Args:
    hlo: text of the optimized module.
    mesh_shape: size by axis, in order.
    slices: joined along the axis "data".

  Raises:
    ValueError: on a loop around a collective whose number of trips the text does not tell.
  """
  bodies, entry = _computations(hlo)
  sums: dict[tuple, list[float]] = collections.defaultdict(lambda: [0, 0, 0.0])

  def visit(name: str, times: int) -> None:
    for line in bodies.get(name, ()):
      match = _INSTRUCTION.match(line)
      if match is None:
        continue
      result, op = match.groups()
      kind = op.removesuffix("-start")
      if kind in KINDS:
        size = _result_bytes(result, halved=op in _PAIRED)
        group = _group(line, math.prod(mesh_shape.values()))
        if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
          # A fusion that reduces and keeps one piece: the compiler's name for a reduce-scatter.
          kind, size = "reduce-scatter", size // len(group)
        slot = sums[kind, _axes(group, mesh_shape)]
        slot[0] += times
        slot[1] += times * size
        slot[2] += times * _sent(kind, size, len(group))
      if op.endswith(("-done", "-update")):
        continue  # The start of an asynchronous call has been counted.
      called = _CALLED.findall(line) + [
        item.strip().lstrip("%") for found in _BRANCHES.findall(line) for item in found.split(",")
      ]
      trips = times
      if op == "while" and any(_communicates(bodies, inner) for inner in called):
        trips *= _trip_count(line, bodies)
      for inner in called:
        visit(inner, trips)

  visit(entry, 1)
  found = [
    Collective(
      kind, axes, int(count), int(size), sent,
      "dcn" if slices > 1 and "data" in axes else "ici",
    )
    for (kind, axes), (count, size, sent) in sums.items()
    if axes  # A group of one device sends nothing.
  ]  # fmt: skip
  return tuple(sorted(found, key=lambda item: -item.sent_bytes))


# Their starts give (operands, results).
_PAIRED = ("all-gather-start", "collective-permute-start")


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
  bodies: dict[str, list[str]] = {}
  entry, current = "", None
  for line in hlo.splitlines():
    if match := _COMPUTATION.match(line):
      current = bodies.setdefault(match.group(2), [])
      entry = match.group(2) if match.group(1) else entry
    # A closing brace alone ends nothing: the text of embedded kernels has such lines too.
    elif current is not None:
      current.append(line)
  return bodies, entry


def _communicates(bodies: Mapping[str, list[str]], name: str) -> bool:
  """Whether a computation, or one that it calls, holds a collective."""
  text = "\n".join(bodies.get(name, ()))
  if any(re.search(rf" {kind}(?:-start)?\(", text) for kind in KINDS):
    return True
  return any(_communicates(bodies, inner) for inner in _CALLED.findall(text))


def _trip_count(line: str, bodies: Mapping[str, list[str]]) -> int:
  if match := _TRIPS.search(line):
    return int(match.group(1))
  condition = re.search(r"condition=%?([\w.\-]+)", line)
  text = "\n".join(bodies.get(condition.group(1), ())) if condition else ""
  limits = set(re.findall(r"[su]32\[\][^=]* constant\((\d+)\)", text))
  if len(limits) != 1:
    raise ValueError(f"a loop with collectives does not tell how often it runs: {line[:200]}")
  return int(limits.pop())


def _result_bytes(result: str, *, halved: bool) -> int:
  arrays = [(kind, dims) for kind, dims in _ARRAY.findall(result)]
  if halved:
    arrays = [(kind, dims) for kind, dims in arrays if (kind, dims) != ("u32", "")]
    arrays = arrays[len(arrays) // 2 :]
  sizes = [math.prod(int(d) for d in dims.split(",") if d) for _, dims in arrays]
  return sum(_width(kind) * size for (kind, _), size in zip(arrays, sizes, strict=True))


def _width(kind: str) -> int:
  if kind in _BYTES:
    return _BYTES[kind]
  return 1 if kind.startswith("f8") else max(1, int(kind[1:]) // 8)


def _group(line: str, devices: int) -> tuple[int, ...]:
  """Members of the first group of a collective; all devices where none are listed."""
  if match := _IOTA.search(line):
    shape, source = (tuple(map(int, match.group(i).split(","))) for i in (1, 2))
    ids = np.arange(math.prod(source)).reshape(source)
    if match.group(3):
      ids = ids.transpose(tuple(map(int, match.group(3).split(","))))
    return tuple(int(i) for i in ids.reshape(shape)[0])
  if match := _NAMED.search(line):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match.group(1))}
    varied = re.findall(r"'(\w+)'", match.group(2))
    ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    fixed = tuple(slice(None) if name in varied else 0 for name in sizes)
    return tuple(int(i) for i in ids[fixed].ravel())
  if match := _LISTED.search(line):
    return tuple(map(int, match.group(1).split(",")))
  return tuple(range(devices))


def _axes(group: tuple[int, ...], mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
  places = np.unravel_index(np.array(group), tuple(mesh_shape.values()))
  return tuple(
    name for name, place in zip(mesh_shape, places, strict=True) if len(set(place.tolist())) > 1
  )


def _sent(kind: str, size: int, members: int) -> float:
  """Bytes that a device sends at least, for a result of `size` bytes on each."""
  if kind == "all-reduce":
    return 2 * size * (members - 1) / members
  if kind == "reduce-scatter":
    return float(size * (members - 1))
  if kind == "collective-permute":
    return float(size)
  return size * (members - 1) / members
