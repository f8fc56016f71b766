"""Lower bound of a step's time, from published numbers, not a measurement.

There are four resources: the matrix unit, the memory, the network inside a slice or a GPU host
(ICI, NVLink) and the one between them (DCN, InfiniBand). The slowest one bounds a step whose
communication hides behind computation; the sum of the networks and the slower of the other two
bounds one that hides nothing. In between is the bound of the compiled schedule, which hides
communication that starts before other work and is awaited after it.
"""

import dataclasses

from mg_jax.core.chips import GB, TERA, Chip
from mg_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Bound:
  """Lower bounds of a step's time and quantities derived from them.

  Attributes:
    matmul_s, hbm_s, ici_s, dcn_s: time of each resource alone.
    overlapped_s: if all communication hides behind computation.
    scheduled_s: if the communication hides that the compiled schedule overlaps.
    serial_s: if none of it hides.
    mfu_overlapped, mfu_scheduled, mfu_serial: upper bounds of model FLOPs utilisation, without
      recomputation.
    samples_s, tokens_s: upper bounds for the whole pod, overlapped.
    cost: lower bound per step, overlapped; None without a price.
    cost_per_million: per million samples.
  """

  matmul_s: float
  hbm_s: float
  ici_s: float
  dcn_s: float
  overlapped_s: float
  scheduled_s: float
  serial_s: float
  mfu_overlapped: float
  mfu_scheduled: float
  mfu_serial: float
  samples_s: float
  tokens_s: float
  cost: float | None
  cost_per_million: float | None


def check_price(price: float | None) -> None:
  """Raises UserError if the price is not a positive number."""
  if price is not None and not 0 < price < float("inf"):
    raise UserError(
      f"price {price} of a chip-hour is invalid; give a number above 0 such as 4.2, or leave it out"
    )


def bound(
  chip: Chip,
  *,
  devices: int,
  model_flops: float,
  hardware_flops: float,
  hbm_bytes: float,
  ici_bytes: float,
  dcn_bytes: float,
  samples: int,
  tokens: int,
  hidden_ici: float = 0.0,
  hidden_dcn: float = 0.0,
  calls: int = 1,
  price: float | None = None,
) -> Bound:
  """The bound of one step.

  Args:
    chip: its numbers; a device gets its share of them.
    devices: number of jax devices.
    model_flops: FLOPs of the whole step without recomputation.
    hardware_flops: the same with it.
    hbm_bytes: read and written by one device.
    ici_bytes, dcn_bytes: sent by one device.
    samples: samples of the step, or of `calls` of them.
    tokens: tokens per sample.
    hidden_ici, hidden_dcn: bytes that the schedule overlaps with other work.
    calls: steps that finish `samples`.
    price: price of a chip-hour, in any currency.

  Raises:
    UserError: on a price of zero or less.
  """
  check_price(price)
  part = 1 / chip.devices
  peak = chip.tflops * TERA * part
  matmul = hardware_flops / devices / peak
  hbm = hbm_bytes / (chip.hbm_gb_s * GB * part)
  ici = ici_bytes / (chip.ici_gb_s * GB * part)
  dcn = dcn_bytes / (chip.dcn_gb_s * GB * part)
  overlapped = max(matmul, hbm, ici, dcn)
  serial = max(matmul, hbm) + ici + dcn
  exposed = (ici_bytes - hidden_ici) / (chip.ici_gb_s * GB * part)
  exposed += (dcn_bytes - hidden_dcn) / (chip.dcn_gb_s * GB * part)
  # Overlap cannot make a step faster than its slowest resource.
  scheduled = max(overlapped, max(matmul, hbm) + exposed)
  useful = model_flops / devices / peak
  cost = None if price is None else price * devices * part * overlapped / 3600
  return Bound(
    matmul_s=matmul, hbm_s=hbm, ici_s=ici, dcn_s=dcn, overlapped_s=overlapped,
    scheduled_s=scheduled, serial_s=serial, mfu_overlapped=useful / overlapped,
    mfu_scheduled=useful / scheduled, mfu_serial=useful / serial,
    samples_s=samples / (calls * overlapped), tokens_s=samples * tokens / (calls * overlapped),
    cost=cost, cost_per_million=None if cost is None else cost * calls / samples * 1e6,
  )  # fmt: skip
