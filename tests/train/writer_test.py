"""The metric files."""

import json
import sys

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.train.writer import FILE, MetricWriter, read_metrics


def test_lines_are_strict_json(tmp_path):
  writer = MetricWriter(tmp_path)
  writer.write(1, {"a": np.float32(0.5), "b": float("nan"), "c": -float("inf")})
  writer.close()

  def refuse(constant):
    raise AssertionError(constant)

  line = json.loads((tmp_path / FILE).read_text(), parse_constant=refuse)
  assert line == {"step": 1, "a": 0.5, "b": "nan", "c": "-inf"}


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
  writer = MetricWriter(tmp_path)
  for step in (1, 2, 3):
    writer.write(step, {"a": step})
  writer.close()
  with open(tmp_path / FILE, "a") as file:
    file.write('{"step": 4, "a"')  # cut short by a crash
  writer = MetricWriter(tmp_path, resume_step=2)
  writer.write(3, {"a": 30})
  writer.close()
  assert [(line["step"], line["a"]) for line in read_metrics(tmp_path)] == [(1, 1), (2, 2), (3, 30)]


def test_tensorboard_without_its_library_is_told(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(UserError, match="pip install"):
    MetricWriter(tmp_path, tensorboard=True)
