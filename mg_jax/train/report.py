"""Logging of finished steps: metric lines, a progress bar, bundles of skipped steps.

Metrics are read one step late, when the device has long finished them, so that reading them never
delays the next dispatch.
"""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from mg_jax.core.errors import UserError
from mg_jax.core.typing import Array
from mg_jax.train.profile import Meter, memory_gib
from mg_jax.train.workdir import write_text
from mg_jax.train.writer import MetricWriter

BUNDLES = "bundles"
PATIENCE = 30.0  # seconds without a line, after which a step between two lines of metrics is logged


class Reporter:
  """Logs the metrics of finished steps, and aborts if too many steps are skipped."""

  def __init__(
    self, folder: epath.Path, writer: MetricWriter, meter: Meter, *,
    key: Array, steps: int, log_every: int, max_skipped: int, every: Mapping[str, int],
  ):
    """Prepares the reports of a run of `steps` steps.

    The random `key` goes into bundles. Roles that `every` names rest in steps that it does not
    divide: then they have no metrics.
    """
    self._folder, self._writer, self._meter = folder, writer, meter
    self._key = np.asarray(jax.random.key_data(key)).tolist()
    self._steps, self._every, self._max_skipped = steps, log_every, max_skipped
    self._roles, self._said = every, time.monotonic()
    tty = jax.process_index() == 0 and sys.stderr.isatty()
    self._bar = tqdm(total=steps, unit="step", file=sys.stderr) if tty else None

  def report(
    self, step: int, metrics: Mapping[str, Array], host: Mapping[str, Any], *,
    wait: float, seconds_left: float, last: bool = False,
  ) -> None:
    """Logs a finished step.

    Args:
      step: number of finished steps.
      metrics: its device scalars.
      host: its numpy batch, for the sample ids in a bundle.
      wait: total seconds waited for data.
      seconds_left: rest of the wall-clock budget, or infinity.
      last: whether the run ends with this step, which is then always logged.

    Raises:
      UserError: if `train.max_skipped` steps in a row were skipped.
    """
    values = {
      name: float(value)
      for name, value in jax.device_get(dict(metrics)).items()
      if step % self._roles.get(name.partition("/")[0], 1) == 0
    }
    if self._bar is not None:
      self._bar.n = step
      self._bar.set_postfix_str(_loss(values), refresh=False)
      self._bar.refresh()
    if values["guard/skipped"]:
      path = self._write_bundle(step, values, host)
      in_row = int(values["guard/skipped_in_row"])
      self._writer.say(f"step {step} was skipped ({_loss(values)}); see {path}")
      if in_row >= self._max_skipped:
        self._writer.write(step, values)
        raise UserError(
          f"{in_row} steps in a row up to step {step} (train.max_skipped) had a loss or gradient "
          f"that is not finite or spiked, and were skipped; look at the samples named in {path}, "
          "lower optim.lr, and run the command again: it continues from the newest checkpoint"
        )
    if step % self._every == 0 or last:
      self._log(step, values, wait, seconds_left)
      self._said = time.monotonic()
    elif self._bar is None and time.monotonic() - self._said > PATIENCE:
      self._writer.say(f"step {step}/{self._steps} | {_loss(values)}")
      self._said = time.monotonic()

  def _log(self, step: int, values: dict[str, float], wait: float, seconds_left: float) -> None:
    rates = self._meter.read(step, wait)
    values |= {
      "time/steps_per_second": rates.steps_per_second,
      "time/samples_per_second": rates.samples_per_second,
      "time/data_wait": rates.data_wait,
      "memory/peak_gib": memory_gib(),
    }
    if rates.mfu is not None:
      values["time/mfu"] = rates.mfu
    self._writer.write(step, values)
    if self._bar is None:
      left = max(0.0, min((self._steps - step) / rates.steps_per_second, seconds_left))
      mfu = "" if rates.mfu is None else f" | MFU {rates.mfu:.1%}"
      self._writer.say(
        f"step {step}/{self._steps} | {_loss(values)} | {rates.steps_per_second:.3g} steps/s | "
        f"{rates.samples_per_second:.3g} samples/s | data wait {rates.data_wait:.0%}{mfu} | "
        f"ETA {_clock(left)}"
      )

  def _write_bundle(
    self, step: int, values: dict[str, float], host: Mapping[str, Any]
  ) -> epath.Path:
    """Everything needed to replay a bad step: number, metrics, sample ids and the run's key."""
    path = self._folder / BUNDLES / f"step_{step:08d}_process_{jax.process_index()}.json"
    ids = {
      name: np.asarray(value).tolist()
      for name, value in host.items()
      if not isinstance(value, Mapping) and np.ndim(value) == 1
    }
    metrics = {name: v if math.isfinite(v) else str(v) for name, v in values.items()}
    bundle = {"step": step, "metrics": metrics, "batch": ids, "key": self._key}
    write_text(path, json.dumps(bundle, indent=1, default=os.fsdecode))
    return path

  def close(self) -> None:
    """Ends the progress bar."""
    if self._bar is not None:
      self._bar.close()


def _loss(values: Mapping[str, float]) -> str:
  losses = {name.removesuffix("/loss"): v for name, v in values.items() if name.endswith("/loss")}
  return " ".join(f"{role} {value:.5g}" for role, value in losses.items())


def _clock(seconds: float) -> str:
  minutes, rest = divmod(int(min(seconds, 360_000)), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
