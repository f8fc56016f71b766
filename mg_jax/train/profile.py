"""Speed of a run: rates, model FLOPs utilisation, memory, compile cache.

FLOPs are the analytical count of the model, never the compiler's, which ignores loop trips.
Peaks are the dense bf16 numbers of the vendors; the peak of a CPU is measured with a matmul.
"""

import dataclasses
import functools
import resource
import sys
import time

import jax
import jax.numpy as jnp

from mg_jax.core.chips import TERA, find_chip


def peak_flops(device: jax.Device | None = None) -> float | None:
  """Peak FLOP/s of one device, or None if the device is not in the table."""
  device = device or jax.local_devices()[0]
  if device.platform == "cpu":
    return _measured_peak() / len(jax.local_devices())
  chip = find_chip(device.device_kind)
  return chip and chip.tflops * TERA / chip.devices


@functools.cache
def _measured_peak(size: int = 1024) -> float:
  """float32 matmul FLOP/s of the whole machine: the best of a few tries."""
  x = jnp.ones((size, size), jnp.float32)
  run = jax.jit(lambda a: a @ a)
  run(x).block_until_ready()
  best = float("inf")
  for _ in range(3):
    begin = time.perf_counter()
    run(x).block_until_ready()
    best = min(best, time.perf_counter() - begin)
  return 2 * size**3 / best


def utilisation(flops: float, seconds: float, devices: int) -> float | None:
  """MFU in [0, 1]: analytical FLOPs of one step over the peak FLOPs of the devices in its time."""
  peak = peak_flops()
  return None if peak is None else flops / (seconds * peak * devices)


def memory_gib() -> float:
  """Peak memory in GiB of the first local device, or of the process if it reports none."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"] / 2**30
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@dataclasses.dataclass(frozen=True)
class Rates:
  """The rates of a stretch of training."""

  steps_per_second: float
  samples_per_second: float
  data_wait: float
  mfu: float | None


class Meter:
  """Measures the rates between two calls of `read`; pauses exclude evaluations and saves."""

  def __init__(self, *, flops: float | None = None, devices: int = 1):
    """`flops` analytical FLOPs in a step, on average, over `devices` devices."""
    self._flops, self._devices = flops, devices
    self._begin = self._paused = 0.0
    self._step, self._wait, self._samples = 0, 0.0, 0

  def start(self, step: int, wait: float) -> None:
    """Starts a stretch at a step; the feed has waited `wait` seconds in total so far."""
    self._begin, self._paused = time.perf_counter(), 0.0
    self._step, self._wait, self._samples = step, wait, 0

  def add(self, samples: int) -> None:
    """Counts the samples of a step, whose number may vary."""
    self._samples += samples

  def pause(self, seconds: float) -> None:
    """Excludes time from the stretch."""
    self._paused += seconds

  def read(self, step: int, wait: float) -> Rates:
    """The rates since the stretch started; starts the next one."""
    seconds = max(time.perf_counter() - self._begin - self._paused, 1e-9)
    steps = max(step - self._step, 1)
    waited = min(1.0, (wait - self._wait) / seconds)
    samples = self._samples
    self.start(step, wait)
    mfu = utilisation(self._flops, seconds / steps, self._devices) if self._flops else None
    return Rates(steps / seconds, samples / seconds, waited, mfu)
