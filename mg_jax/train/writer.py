"""Metric writers: a JSONL file, the console, and optionally TensorBoard.

Every line of `metrics.jsonl` is strict JSON: {"step": 20, "model/loss": 0.5, ...}; non-finite
numbers are written as the strings "nan", "inf" and "-inf".
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
from tqdm import tqdm

from mg_jax.core.errors import UserError
from mg_jax.data import atomic
from mg_jax.train.workdir import is_remote, resolve

FILE = "metrics.jsonl"


class MetricWriter:
  """Writes scalars of a run; does nothing on processes other than the first."""

  def __init__(self, workdir: str, *, tensorboard: bool = False, resume_step: int = 0):
    """Opens the files of a workdir.

    Args:
      workdir: folder of the run, which must exist.
      tensorboard: also write TensorBoard events, which needs tensorboardX.
      resume_step: lines after this step are dropped, because the run will write them again.

    Raises:
      UserError: if TensorBoard is requested and not installed.
    """
    self._active = jax.process_index() == 0
    self._board = None
    self._file = None
    if not self._active:
      return
    folder = resolve(workdir)
    if not is_remote(folder):
      path = folder / FILE
      _drop_after(path, resume_step)
      # Unbuffered: an error of the disk must not be raised again when the file is closed.
      self._file = open(path, "ab", buffering=0)
    if tensorboard:
      try:
        from tensorboardX import SummaryWriter
      except ImportError as e:
        raise UserError("TensorBoard output needs tensorboardX: pip install -e .[log]") from e
      self._board = SummaryWriter(os.fspath(folder / "tensorboard"))

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes the scalars of a step."""
    if not self._active:
      return
    values = {name: float(value) for name, value in metrics.items()}
    if self._file is not None:
      line = {name: v if math.isfinite(v) else str(v) for name, v in values.items()}
      try:
        self._file.write((json.dumps({"step": step, **line}, allow_nan=False) + "\n").encode())
      except OSError as e:
        e.filename = self._file.name
        raise
    if self._board is not None:
      for name, value in values.items():
        self._board.add_scalar(name, value, step)

  def say(self, text: str) -> None:
    """Prints a line to stderr, above a progress bar if there is one."""
    if self._active:
      tqdm.write(text, file=sys.stderr)

  def close(self) -> None:
    """Closes the files."""
    if self._file is not None:
      self._file.close()
    if self._board is not None:
      self._board.close()


def read_metrics(workdir: str) -> list[dict[str, Any]]:
  """The lines of a run's `metrics.jsonl`; a last line cut short by a crash is left out."""
  lines = []
  for line in (resolve(workdir) / FILE).read_text().splitlines():
    try:
      lines.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return lines


def _drop_after(path, step: int) -> None:
  if not path.exists():
    return
  kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
  atomic.write_jsonl(path, kept)
