"""The device mesh: four named axes, always all four, always with automatic sharding propagation.

`jax.make_mesh` defaults to Explicit axis types, under which Linen's partitioning fails, and the
old `with mesh:` context silently drops every Linen constraint. So meshes are made and entered here.
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
    shape: sizes of the four axes; one entry may be -1 and takes what is left. None puts every
      device on "data".
    devices: defaults to all devices; the first prod(shape) of them are used.

  Raises:
    UserError: when the shape needs more devices than there are, or does not divide them.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = list(shape) if shape is not None else [-1, 1, 1, 1]
  if len(sizes) != len(AXES):
    raise UserError(f"a mesh shape has the {len(AXES)} sizes {AXES}, got {tuple(sizes)}")
  if -1 in sizes:
    rest = math.prod(s for s in sizes if s != -1)
    if len(devices) % rest:
      raise UserError(
        f"mesh {tuple(sizes)} does not divide {len(devices)} devices; change its sizes"
      )
    sizes[sizes.index(-1)] = len(devices) // rest
  count = math.prod(sizes)
  if count > len(devices) or min(sizes) < 1:
    raise UserError(f"mesh {tuple(sizes)} needs {count} devices, there are {len(devices)}")
  return Mesh(
    _arrange(sizes, devices[:count]), AXES, axis_types=(AxisType.Auto,) * len(AXES)
  )


def _arrange(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
  """Devices in the order that suits their network. Slices of TPUs are joined along "data"."""
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  # Without splitting, a group of 8 finds no place in a torus whose sides are all 16.
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
def use_mesh(mesh: Mesh) -> Iterator[Mesh]:
  """Enters a mesh so that `shard()` constraints take effect inside."""
  with jax.set_mesh(mesh):
    yield mesh


def batch_axes(mesh: Mesh) -> int:
  """How many ways the batch is split."""
  return mesh.shape["data"] * mesh.shape["fsdp"]
