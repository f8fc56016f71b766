"""The one table of accelerator chips: peak rates, memory, networks, and how jax names them.

TPUs: cloud.google.com/tpu/docs. GPUs: NVIDIA's data sheets of the SXM cards; they count both
directions of a link together, so the table has half. GPU hosts are joined by one ConnectX-7 adapter
of 400 Gbit/s per card, as in NVIDIA's DGX and the paper's servers [MG 3.1.6].
"""

import dataclasses

GB, GIB, TERA = 1e9, 2**30, 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published numbers of one chip.

  Attributes:
    tflops: dense bfloat16, 1e12 / s.
    kinds: lower-case substrings of jax's `device_kind`; the first chip of `CHIPS` with a match
      wins.
    memory_gib: memory of one jax device, as its runtime reports it.
    usable: fraction of that memory that a program may use; `core.flags` gives it to jax on GPUs.
    hbm_gb_s: bandwidth of the chip's memory, 1e9 bytes / s.
    ici_gb_s: over all ICI or NVLink links together, one direction, 1e9 bytes / s.
    dcn_gb_s: to other slices or GPU hosts, this chip's share of its host, 1e9 bytes / s.
    devices: jax devices per chip.
    largest: TPUs only, side and number of chips of the largest slice.
    sides: TPUs only, dimensions of the torus.
  """

  tflops: float
  kinds: tuple[str, ...] = ()
  memory_gib: float = 0.0
  usable: float = 1.0
  hbm_gb_s: float = 0.0
  ici_gb_s: float = 0.0
  dcn_gb_s: float = 0.0
  devices: int = 1
  largest: tuple[int, int] = (0, 0)
  sides: int = 3


def _hopper(name: str, memory_gb: float, hbm_gb_s: float) -> Chip:
  return Chip(989, (name,), memory_gb * GB / GIB, 0.9, hbm_gb_s, ici_gb_s=450, dcn_gb_s=50.0)


CHIPS: dict[str, Chip] = {
  "v5e": Chip(
    197, ("v5 lite", "v5e"), 15.75, hbm_gb_s=819, ici_gb_s=200, dcn_gb_s=3.125, largest=(16, 256),
    sides=2,
  ),
  "v5p": Chip(
    459, ("v5",), 95.0, hbm_gb_s=2765, ici_gb_s=600, dcn_gb_s=6.25, largest=(24, 6144)
  ),
  "v6e": Chip(
    918, ("v6 lite", "v6e"), 31.25, hbm_gb_s=1638, ici_gb_s=400, dcn_gb_s=12.5, largest=(16, 256),
    sides=2,
  ),
  "tpu7x": Chip(
    2307, ("tpu7x",), 94.75, hbm_gb_s=7380, ici_gb_s=600, dcn_gb_s=12.5, devices=2,
    largest=(24, 9216),
  ),
  "h100": _hopper("h100", 80.0, 3350),
  "h200": _hopper("h200", 141.0, 4800),
  # To train on, not for ahead-of-time compilation.
  "v4": Chip(275, ("v4",)),
  "b200": Chip(2250, ("b200",)),
  "a100": Chip(312, ("a100",)),
}  # fmt: skip
# Chips that programs can be compiled for ahead of time.
TPUS = tuple(name for name, chip in CHIPS.items() if chip.largest[0])
GPUS = tuple(name for name, chip in CHIPS.items() if chip.memory_gib and name not in TPUS)


def find_chip(device_kind: str) -> Chip | None:
  """The chip that jax's `device_kind` names, None if it is not in the table."""
  kind = device_kind.lower()
  return next((c for c in CHIPS.values() if any(part in kind for part in c.kinds)), None)
