"""The outlier study: its grid, what counts as a spot, and cells that are kept."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import tae_image
from mg_jax.evaluation import outliers
from mg_jax.evaluation.outliers import Cell


def test_without_a_weight_the_threshold_stands_once():
  cells = outliers.grid([0.0, 0.5], [3.0, 2.0], ["mean", "sum"])
  assert [cell.name for cell in cells] == [
    "mean-w0-r3", "mean-w0.5-r3", "mean-w0.5-r2", "sum-w0-r3", "sum-w0.5-r3", "sum-w0.5-r2",
  ]  # fmt: skip


def test_a_spot_is_wrong_where_its_neighbours_are_right():
  video = np.random.default_rng(0).integers(50, 200, (3, 2, 32, 40, 3)).astype(np.uint8)
  decoded = video + 2
  faint = video.copy()
  faint[:, :, 8:16, 16:24] += 7  # stands out, and is too small to be seen
  for close in (decoded, faint):
    assert outliers.spots_in(video, close, 8).tolist() == [0.0, 0.0, 0.0]
  decoded[0, 0, 8:16, 16:24] += 40  # one block of one frame of two
  decoded[1, :, :4, :4] += 50  # a quarter of a corner block, in both
  decoded[2, :, :, :] += 40  # all wrong alike is no spot
  decoded[2, 1, 8:16, 16:24] -= 40  # nor is being right
  assert outliers.spots_in(video, decoded, 8).tolist() == [0.5, 1.0, 0.0]


def _row(cell, rate):
  histogram = {"from": [0.0, 3.0], "count": [9, 1]}
  measured = {"steps": 2, "psnr": 30.0, "outlier_rate": rate, "furthest": 4.0, "spots": 0.5}
  return vars(cell) | measured | {"histogram": histogram}


def test_cells_that_are_done_are_not_trained_again(tmp_path, monkeypatch):
  cells = outliers.grid([0.0, 0.5, 5.0], [3.0], ["mean"])
  trained = []

  def measure(config, folder, cell):
    trained.append(cell.name)
    folder.mkdir(parents=True)
    return None if len(trained) == 3 else _row(cell, 0.1)

  monkeypatch.setattr(outliers, "_measure_cell", measure)
  assert len(outliers.study({}, str(tmp_path), cells)) == 2, "the third was interrupted"
  assert len(json.loads((tmp_path / outliers.FILE).read_text())) == 2
  (tmp_path / "mean-w5-r3").rmdir()
  rows = outliers.study({}, str(tmp_path), cells)
  assert [row["weight"] for row in rows] == [0.0, 0.5, 5.0]
  assert trained == ["mean-w0-r3", "mean-w0.5-r3", "mean-w5-r3", "mean-w5-r3"]
  text = outliers.table(rows)
  assert "| mean | 0.5 | 3.0 | 2 | 30.00 | 0.10000 | 4.00 | 0.50 |" in text


def test_the_plot_is_a_picture(tmp_path):
  pytest.importorskip("matplotlib")
  rows = [_row(Cell(w, 3.0, how), 0.1) for how in ("mean", "sum") for w in (0.0, 0.5)]
  outliers.plot(rows, tmp_path / "plot.png")
  assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_cell_is_trained_with_its_setting_and_measured(tmp_path, monkeypatch):
  config = tae_image.get_config("tiny,size=16,frames=4")
  config.mesh = (1, 1, 1, 1)
  config.model.update(channels=8, latent=4, groups=4)
  config.data.update(cache=str(tmp_path / "data"), clips=6, held_out=3, global_batch=2)
  config.train.update(steps=2, log_every=1)
  config.eval.update(batch=2, previews=0)
  seen, run = [], outliers.experiment.run
  monkeypatch.setattr(
    outliers, "experiment",
    SimpleNamespace(**vars(outliers.experiment) | {
      "run": lambda config, folder: (seen.append(config["objective"]), run(config, folder))[1],
    }),
  )  # fmt: skip
  (row,) = outliers.study(config, str(tmp_path / "study"), [Cell(7.0, 2.0, "sum")])
  assert (seen[0]["outlier"], seen[0]["radius"], seen[0]["reduction"]) == (7.0, 2.0, "sum")
  assert config.objective.outlier == 0.5, "the config of the study is left as it was"
  assert row["steps"] == 2 and 0 <= row["outlier_rate"] <= 1 and np.isfinite(row["psnr"])
  assert sum(row["histogram"]["count"]) == 3 * 2 * 2
