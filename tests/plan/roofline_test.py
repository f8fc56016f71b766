"""The arithmetic of the bound, by hand."""

import dataclasses

import pytest

from mg_jax.core.chips import CHIPS, GPUS, TPUS, Chip
from mg_jax.core.errors import UserError
from mg_jax.plan.roofline import bound

CHIP = Chip(tflops=100, hbm_gb_s=1000, ici_gb_s=100, dcn_gb_s=10)
STEP = {
  "devices": 4, "model_flops": 4e14, "hardware_flops": 6e14, "hbm_bytes": 5e11, "ici_bytes": 2e11,
  "dcn_bytes": 0.0, "samples": 8, "tokens": 100,
}  # fmt: skip


def test_the_slowest_part_bounds_a_step_that_hides_its_communication():
  b = bound(CHIP, **STEP)
  assert (b.matmul_s, b.hbm_s, b.ici_s, b.dcn_s) == (1.5, 0.5, 2.0, 0.0)
  assert b.overlapped_s == 2.0 and b.serial_s == 3.5
  # 1e14 useful FLOPs on each device take one second: recomputation is no use.
  assert b.mfu_overlapped == pytest.approx(0.5) and b.mfu_serial == pytest.approx(1 / 3.5)
  assert b.samples_s == 4.0 and b.tokens_s == 400.0 and b.cost is None


def test_a_schedule_hides_what_it_overlaps_but_not_the_slowest_clock():
  half = bound(CHIP, **STEP, hidden_ici=1e11)
  assert (half.overlapped_s, half.scheduled_s, half.serial_s) == (2.0, 2.5, 3.5)
  assert half.mfu_scheduled == pytest.approx(0.4)
  assert bound(CHIP, **STEP).scheduled_s == 3.5
  assert bound(CHIP, **STEP, hidden_ici=2e11).scheduled_s == 2.0


def test_calls_share_their_samples():
  b = bound(CHIP, **STEP, calls=4, price=9.0)
  assert b.samples_s == 1.0 and b.tokens_s == 100.0
  assert b.cost_per_million == pytest.approx(4 * bound(CHIP, **STEP, price=9.0).cost_per_million)


def test_the_slow_network_bounds_a_step_across_slices():
  b = bound(CHIP, **STEP | {"dcn_bytes": 1e11})
  assert b.dcn_s == b.overlapped_s == 10.0 and b.serial_s == 13.5


def test_a_chip_of_two_devices_gives_each_half():
  halves = bound(dataclasses.replace(CHIP, devices=2), **STEP, price=3.6)
  whole = bound(CHIP, **STEP, price=3.6)
  assert halves.matmul_s == 2 * whole.matmul_s and halves.ici_s == 2 * whole.ici_s
  # Four devices are two chips for twice the time.
  assert halves.cost == pytest.approx(whole.cost)


def test_cost():
  b = bound(CHIP, **STEP, price=9.0)
  assert b.cost == pytest.approx(4 * 9.0 * 2.0 / 3600)
  assert b.cost_per_million == pytest.approx(b.cost / 8 * 1e6)


@pytest.mark.parametrize("price", [0.0, -1.0, float("nan"), float("inf")])
def test_a_price_that_is_none_is_told(price):
  with pytest.raises(UserError, match="above 0"):
    bound(CHIP, **STEP, price=price)


def test_every_chip_that_is_planned_for_has_all_its_numbers():
  for name in (*TPUS, *GPUS):
    chip = CHIPS[name]
    numbers = (chip.tflops, chip.memory_gib, chip.hbm_gb_s, chip.ici_gb_s, chip.dcn_gb_s)
    assert min(numbers) > 0 and 0 < chip.usable <= 1, name
