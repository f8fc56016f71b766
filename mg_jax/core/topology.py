"""Compile-only device topologies: a named TPU topology, or hosts of GPUs.

The TPU compiler comes with `libtpu` (`pip install -e .[aot]`) and needs no TPU, the GPU compiler
with jax's CUDA plugin (`mg_jax[aot-cuda]`) and needs no GPU. Programs compiled for these devices
cannot run, but show whether they fit and what they communicate.
"""

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Sequence

import jax

from mg_jax.core.chips import CHIPS, TPUS
from mg_jax.core.cuda_target import gpu_devices
from mg_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pod:
  """Devices to compile for.

  Attributes:
    name: "v5p:8x8x8" or "h200:256".
    chip: a key of `core.chips.CHIPS`.
    platform: "tpu" or "cuda", as in `kernels.platform`.
    devices: the jax devices.
    slices: TPUs only, slices joined by the data-centre network.
    memory_gib: memory of one device that a program may use.
    networks: names of the fast network inside an island and of the slow one between islands.
  """

  name: str
  chip: str
  platform: str
  devices: Sequence[jax.Device]
  slices: int
  memory_gib: float
  networks: tuple[str, str]

  def island(self, device: jax.Device) -> int:
    """Index of the slice or GPU host, inside which the fast network runs."""
    # Devices of a single slice have no index.
    return getattr(device, "slice_index", 0) if self.platform == "tpu" else device.process_index


def parse_topology(name: str) -> tuple[str, tuple[int, ...]]:
  """The chip and shape of a topology's name, such as ("v6e", (4, 8)); it need not exist.

  Raises:
    UserError: on a malformed name.
  """
  chip, _, shape = name.partition(":")
  sides = CHIPS[chip].sides if chip in TPUS else 0
  if not sides or not re.fullmatch(r"x".join([r"[1-9]\d{0,4}"] * sides), shape):
    raise UserError(
      f"topology {name!r} is malformed; write a chip ({', '.join(TPUS)}) and its shape, as in "
      "v5p:4x4x4 or v6e:4x4"
    )
  return chip, tuple(map(int, shape.split("x")))


def shapes(chip: str) -> list[tuple[int, ...]]:
  """The shapes of TPU slices, made of whole hosts with four chips."""
  side, chips = CHIPS[chip].largest
  if CHIPS[chip].sides == 2:
    powers = [2**n for n in range(1, side.bit_length())]
    return [(a, b) for a in powers for b in (a, 2 * a) if a * b <= chips and b <= side]
  cubes = itertools.combinations_with_replacement(range(4, side + 1, 4), 3)
  small = [(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)]
  return small + [cube for cube in cubes if math.prod(cube) <= chips]


def check_exists(name: str) -> None:
  """Raises UserError, with the nearest existing topology, unless the topology exists."""
  chip, sides = parse_topology(name)
  known = shapes(chip)
  if sides in known:
    return

  def distance(shape: tuple[int, ...]) -> float:
    pairs = zip(sorted(shape), sorted(sides), strict=True)
    return sum(abs(math.log(a / b)) for a, b in pairs)

  near = min(known, key=distance)
  raise UserError(
    f"topology {name!r} does not exist; the nearest that does is {chip}:{'x'.join(map(str, near))}"
  )


def tpu_devices(name: str, *, slices: int = 1) -> Sequence[jax.Device]:
  """Devices of a topology, by its published name such as "v5p:8x8x8" or "v6e:16x16".

  Args:
    name: chip and shape; the shape has two numbers for v5e and v6e, three for the others.
    slices: copies of it, joined by the data-centre network.

  Raises:
    UserError: on a malformed name, a topology that does not exist, and without libtpu.
  """
  check_exists(name)
  if slices < 1:
    raise UserError(f"slices is {slices}; it is at least 1")
  try:
    import libtpu  # noqa: F401
  except ImportError as e:
    raise UserError("compiling for a TPU needs its compiler: pip install -e .[aot]") from e
  from jax.experimental import topologies

  # Without these the library queries a metadata server, which only a TPU host has.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  # The accelerator of this host, which may differ from the topology; without it the library warns.
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
  # Compiling holds no device, so several processes may compile at once.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  topology = topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=slices)
  return topology.devices


def tpu_pod(name: str, *, slices: int = 1) -> Pod:
  """A TPU topology; arguments and errors are those of `tpu_devices`."""
  devices, chip = tpu_devices(name, slices=slices), parse_topology(name)[0]
  return Pod(name, chip, "tpu", devices, slices, _usable_gib(chip), ("ici", "dcn"))


def gpu_pod(target: str, *, gpus: int, hosts: int) -> Pod:
  """Hosts of GPUs; arguments and errors are those of `core.cuda_target.gpu_devices`."""
  devices = gpu_devices(target, gpus=gpus, hosts=hosts)
  networks = ("nvlink", "infiniband")
  return Pod(f"{target}:{gpus}", target, "cuda", devices, 1, _usable_gib(target), networks)


def _usable_gib(chip: str) -> float:
  return CHIPS[chip].usable * CHIPS[chip].memory_gib


def find_pod(
  platform: str, *, topology: str | None, slices: int, target: str, gpus: int, hosts: int
) -> Pod:
  """The pod that a command's flags name; flags of the other platform must be unset.

  Raises:
    UserError: as `tpu_pod` and `gpu_pod`, and on flags of both platforms at once.
  """
  if platform == "cuda":
    if topology or slices != 1:
      raise UserError(
        "--topology and --slices are for TPUs; with --platform=cuda give --target=h200 "
        "--gpus=256 --hosts=32"
      )
    return gpu_pod(target, gpus=gpus, hosts=hosts)
  if not topology:
    raise UserError(
      "give --topology=v5p:8x8x8 or the like, or --platform=cuda --target=h200 --gpus=256 "
      "--hosts=32"
    )
  return tpu_pod(topology, slices=slices)
