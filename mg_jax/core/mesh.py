"""The device mesh: four named axes, always all four, always with automatic sharding propagation.

`jax.make_mesh` defaults to Explicit axis types, under which Linen's partitioning fails, and the
old `with mesh:` context silently drops every Linen constraint. So create and enter meshes here.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from mg_jax.core.errors import UserError

AXES = ("data", "fsdp", "context", "tensor")


def make_mesh(
  shape: Sequence[int] | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A mesh over (data, fsdp, context, tensor).

  Args:
    shape: sizes of the four axes; one entry may be -1, which takes the remaining devices. None
      puts every device on "data".
    devices: defaults to all devices; the first prod(shape) of them are used.

  Raises:
    UserError: if the shape needs more devices than there are or does not divide them, and if one of
      several processes would be left without a device.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = list(shape) if shape is not None else [-1, 1, 1, 1]
  if len(sizes) != len(AXES):
    raise UserError(f"a mesh shape has the {len(AXES)} sizes {AXES}, got {tuple(sizes)}")
  if sizes.count(-1) > 1:
    raise UserError(f"mesh {tuple(sizes)} has more than one -1; only one size can be inferred")
  fixed = [size for size in sizes if size != -1]
  count, total = math.prod(fixed), len(devices)
  if min(fixed) < 1 or count > total or (-1 in sizes and total % count):
    raise UserError(
      f"mesh {tuple(sizes)} needs {'a multiple of ' if -1 in sizes else ''}{count} devices, there "
      f"are {total}; the nearest that takes them all is {_nearest(sizes, total)}"
    )
  if -1 in sizes:
    sizes[sizes.index(-1)] = total // count
    count = total
  idle = {d.process_index for d in devices} - {d.process_index for d in devices[:count]}
  if idle:
    raise UserError(
      f"mesh {tuple(sizes)} takes {count} of {total} devices, none of process {min(idle)}; the "
      f"nearest that takes them all is {_nearest(sizes, total)}"
    )
  return Mesh(
    _arrange(sizes, devices[:count]), AXES, axis_types=(AxisType.Auto,) * len(AXES)
  )


def parse_mesh(values: Sequence[str]) -> Mesh | None:
  """The mesh of a flag such as --mesh=1,-1,1,1.

  Without values it is None, or all devices on "data" if there are several processes.

  Raises:
    UserError: values that are not four whole numbers, and as `make_mesh`.
  """
  if not values:
    return make_mesh() if jax.distributed.is_initialized() else None
  try:
    return make_mesh([int(value) for value in values])
  except ValueError as e:
    raise UserError(f"--mesh={','.join(values)} is not of whole numbers; give {AXES}") from e


def _nearest(sizes: Sequence[int], count: int) -> tuple[int, ...]:
  """The mesh over all `count` devices that changes one size only, the first and least possible."""
  for axis, size in enumerate(sizes):
    rest = [s for i, s in enumerate(sizes) if i != axis and s != -1]
    if size == -1 or min(rest) < 1:
      continue
    share, left = divmod(count, math.prod(rest))
    fits = [s for s in range(1, share + 1) if share % s == 0] if -1 in sizes else [share]
    if share and not left:
      return (*sizes[:axis], min(fits, key=lambda s: abs(s - size)), *sizes[axis + 1 :])
  return (count, 1, 1, 1)


def _arrange(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
  """Devices in an order that suits their network. Slices of TPUs are joined along "data"."""
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  # Without splitting, a group of 8 cannot be mapped onto a torus whose sides are all 16.
  if slices == 1:
    return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  if sizes[0] % slices:
    raise UserError(
      f"mesh {tuple(sizes)} has data={sizes[0]}, which does not divide over {slices} slices; make "
      f"it {slices} or a multiple of it"
    )
  inner, outer = (sizes[0] // slices, *sizes[1:]), (slices, 1, 1, 1)
  return mesh_utils.create_hybrid_device_mesh(
    inner, outer, devices, allow_split_physical_axes=True
  )


@contextlib.contextmanager
def use_mesh(mesh: Mesh | None) -> Iterator[Mesh | None]:
  """Enters a mesh so that `shard()` constraints take effect inside; None changes nothing."""
  with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
    yield mesh


def batch_axes(mesh: Mesh | None) -> int:
  """How many ways the batch is split; 1 without a mesh."""
  return mesh.shape["data"] * mesh.shape["fsdp"] if mesh else 1


def devices_of(count: int) -> str:
  """"1 device", "8 devices"."""
  return f"{count} device{'s' if count != 1 else ''}"


def row_multiple(mesh: Mesh | None, copies: int) -> int:
  """Least number of rows whose copies, `copies` of each, divide over the axes of a batch."""
  return batch_axes(mesh) // math.gcd(batch_axes(mesh), copies)


def batch_share(mesh: Mesh) -> tuple[int, int]:
  """The shard of every batch that this process reads, and the number of shards.

  Processes whose devices hold the same rows read the same shard: if the axes context or tensor span
  several hosts, there are fewer shards than processes.

  Raises:
    UserError: if two processes share some of their rows, but not all.
  """
  held: dict[int, set[int]] = {}
  for rows, group in enumerate(mesh.devices.reshape(batch_axes(mesh), -1)):
    for device in group:
      held.setdefault(device.process_index, set()).add(rows)
  pieces = sorted({tuple(sorted(rows)) for rows in held.values()})
  if sum(map(len, pieces)) != batch_axes(mesh) or len({len(piece) for piece in pieces}) > 1:
    copies, local = mesh.shape["context"] * mesh.shape["tensor"], len(mesh.local_devices)
    fits = [n for n in range(1, mesh.devices.size + 1) if local % n == 0 or n % local == 0]
    raise UserError(
      f"mesh {tuple(mesh.shape.values())} cuts through a process: context x tensor is {copies}, "
      f"and a process has {local} devices, neither of which divides the other; the nearest product "
      f"that does is {min(fits, key=lambda n: abs(n - copies))}"
    )
  return pieces.index(tuple(sorted(held[jax.process_index()]))), len(pieces)
