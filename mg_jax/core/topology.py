"""Pods that are not here: devices of a named TPU topology, to compile for on any machine.

The compiler comes with `libtpu` (`pip install mg_jax[aot]`) and needs no TPU. Programs compiled for
these devices cannot run, but tell whether they fit and what they communicate.
"""

import os
import re
from collections.abc import Sequence

import jax

from mg_jax.core.errors import UserError

# Memory that a program may use, GiB per jax device; tpu7x shows two devices for a chip.
HBM_GIB = {"v5e": 15.75, "v5p": 95.0, "v6e": 31.25, "tpu7x": 94.75}


def tpu_devices(name: str, *, slices: int = 1) -> Sequence[jax.Device]:
  """Devices of a topology, by its published name such as "v5p:8x8x8" or "v6e:16x16".

  Args:
    name: chip and shape; the shape has two numbers for v5e and v6e, three for the others.
    slices: copies of it, joined by the data-centre network.

  Raises:
    UserError: on a name that is none, a topology that does not exist, and without libtpu.
  """
  chip, _, shape = name.partition(":")
  sides = 2 if chip in ("v5e", "v6e") else 3
  if chip not in HBM_GIB or not re.fullmatch(r"x".join([r"\d+"] * sides), shape):
    raise UserError(
      f"topology {name!r} is none; write a chip ({', '.join(HBM_GIB)}) and its shape, as in "
      "v5p:4x4x4 or v6e:4x4"
    )
  try:
    import libtpu  # noqa: F401
  except ImportError as e:
    raise UserError("compiling for a TPU needs its compiler: pip install mg_jax[aot]") from e
  from jax.experimental import topologies

  # Without these the library asks a metadata server, which only a TPU's host has.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  # The library lets one process at a time use it, for the sake of chips that are not used here.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
  try:
    topology = topologies.get_topology_desc(
      platform="tpu", topology_name=name, num_slices=slices
    )
  except Exception as e:  # the library raises whatever its parser or its tables do
    reason = next(iter(str(e).splitlines()), type(e).__name__)[:160]
    raise UserError(f"topology {name!r} does not exist ({reason})") from e
  return topology.devices
