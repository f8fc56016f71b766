"""Rates, utilisation and the compile cache."""

import time
from types import SimpleNamespace

import jax
import pytest

from mg_jax.train import profile


def test_the_meter_counts_steps_samples_waiting_and_pauses(monkeypatch):
  now = [10.0]
  monkeypatch.setattr(time, "perf_counter", lambda: now[0])
  monkeypatch.setattr(profile, "peak_flops", lambda device=None: 100.0)
  meter = profile.Meter(flops=50.0, devices=2)
  meter.start(0, wait=1.0)
  for samples in (4, 4, 4, 20):  # batches may differ
    meter.add(samples)
  now[0] = 16.0
  meter.pause(2.0)
  rates = meter.read(8, wait=2.0)
  assert (rates.steps_per_second, rates.samples_per_second) == (2.0, 8.0)
  assert rates.data_wait == 0.25 and rates.mfu == 50.0 / (0.5 * 100.0 * 2)
  now[0] = 17.0
  alone = meter.read(9, wait=2.0)
  assert (alone.steps_per_second, alone.samples_per_second) == (1.0, 0.0), "each stretch is alone"


@pytest.mark.parametrize(
  ("kind", "peak"),
  [("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("TPU v6 lite", 918e12), ("NVIDIA H200", 989e12),
   ("abacus", None)],
)  # fmt: skip
def test_peaks_by_device_kind(kind, peak):
  assert profile.peak_flops(SimpleNamespace(platform="x", device_kind=kind)) == peak


def test_unknown_peaks_give_no_utilisation(monkeypatch):
  monkeypatch.setattr(profile, "peak_flops", lambda device=None: None)
  assert profile.utilisation(1.0, 1.0, 1) is None


def test_the_peak_of_a_cpu_is_measured_and_shared_by_its_devices():
  peak = profile.peak_flops()
  assert 1e8 < peak * jax.device_count() < 1e14


def test_memory_is_told():
  assert 0.05 < profile.memory_gib() < 1000
