"""The program of a plan with its costs, and the mesh over the devices of a pod."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import AXES, batch_axes, make_mesh
from mg_jax.core.topology import Pod
from mg_jax.core.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Program:
  """One call of a program over a whole mesh.

  Attributes:
    lower: lowers it for the devices of the mesh.
    held: bytes of its inputs on one device, by the field names of `plan.Memory`.
    clip: (frames, height, width) of one sample as the program gets it.
    rows: samples per call.
    samples: samples finished after `calls` calls.
    calls: solver steps or rounds of tiles per clip; 1 for a training step.
    tokens: tokens per sample; 0 if it has none.
    parameters: all parameters; block_parameters: those of a generator's layers.
    model_flops: FLOPs per call without recomputation; hardware_flops: with it.
    formula_flops: 6 N tokens + 12 layers width tokens^2 of a generator's step, else None.
    accumulate: microbatches of a training step.
  """

  lower: Callable[[], jax.stages.Lowered]
  held: Mapping[str, int]
  clip: tuple[int, int, int]
  rows: int
  parameters: int
  model_flops: float
  hardware_flops: float
  samples: int = 1
  calls: int = 1
  tokens: int = 0
  block_parameters: int = 0
  formula_flops: float | None = None
  accumulate: int = 1


def plan_mesh(pod: Pod, sizes: Sequence[int]) -> Mesh:
  """The mesh of a pod. Raises UserError unless it uses every device once."""
  sizes, total = list(sizes), len(pod.devices)
  count = math.prod(size for size in sizes if size != -1)
  if len(sizes) == len(AXES) and min(sizes) != 0:
    whole = count if -1 not in sizes else count * max(1, total // count)
    if whole != total:
      rest = sizes[0] * math.prod(sizes[2:]) if sizes[1] != -1 else count
      fit = total // rest if rest > 0 and total % rest == 0 else 0
      near = (sizes[0], fit, *sizes[2:]) if fit else (1, total, 1, 1)
      raise UserError(
        f"mesh {tuple(sizes)} takes {whole} devices, {pod.name} x {pod.slices} has {total}; "
        f"give --mesh={','.join(map(str, near))}"
      )
  return make_mesh(sizes, pod.devices)


def check_divides(
  mesh: Mesh, *, rows: int, accumulate: int = 1, tokens: int = 0, heads: int = 0,
  what: str = "data.global_batch",
) -> None:
  """Raises UserError if rows, tokens or heads do not divide over the mesh."""
  ways = batch_axes(mesh) * accumulate
  if rows % ways:
    raise UserError(
      f"{what} is {rows}, which does not divide over {batch_axes(mesh)} groups of "
      f"devices times accumulate={accumulate}; the nearest valid one is "
      f"{max(1, round(rows / ways)) * ways}"
    )
  context, tensor = mesh.shape["context"], mesh.shape["tensor"]
  for name, size, axes, count in (
    ("heads", heads, "tensor", tensor), ("tokens", tokens, "context x tensor", context * tensor),
  ):  # fmt: skip
    if size % count:
      near = max(n for n in range(1, count + 1) if size % n == 0)
      raise UserError(
        f"{size} {name} do not divide over {axes} = {count}; the nearest smaller valid size is "
        f"{near}"
      )


def device_bytes(tree: PyTree) -> int:
  """Bytes of a tree of shapes with shardings on one device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def row_bytes(batch: PyTree, mesh: Mesh) -> int:
  """Bytes of a batch on one device, rows split over the mesh."""
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch))
  return size // batch_axes(mesh)


def section(config: Mapping[str, Any], name: str) -> Any:
  """A section of a config. Raises UserError if it is missing."""
  if name not in config:
    raise UserError(f"the config has no {name!r}; there are {', '.join(sorted(config))}")
  return config[name]
