"""Spectrograms: one column for each title, shared scale, and a missing matplotlib."""

import builtins

import numpy as np
import pytest
from PIL import Image

from mg_jax.core.errors import UserError
from mg_jax.stages import plots


def test_rows_and_columns_make_the_size_of_the_picture(tmp_path):
  pytest.importorskip("matplotlib")
  wave = np.sin(np.arange(4000) * 0.3)
  sizes = []
  for rows in (1, 2):
    plots.spectrograms([[wave, 0.01 * wave]] * rows, ("a", "b"), tmp_path / "a.png", rate=8000)
    sizes.append(Image.open(tmp_path / "a.png").size)
  assert sizes[0][0] == sizes[1][0] and sizes[1][1] == 2 * sizes[0][1]


def test_a_missing_matplotlib_is_told(monkeypatch):
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name.startswith("matplotlib"):
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(UserError, match=r"pip install -e \.\[plot\]"):
    plots.pyplot()
