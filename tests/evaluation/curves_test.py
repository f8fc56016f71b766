"""Curves of runs."""

import json

import pytest

from mg_jax.core.errors import UserError
from mg_jax.evaluation import curves
from mg_jax.train.writer import MetricWriter


@pytest.fixture
def run(tmp_path):
  writer = MetricWriter(tmp_path / "run")
  for step in (1, 2, 3):
    writer.write(step, {"model/loss": 1.0 / step if step != 2 else float("nan")})
  writer.write(3, {"eval/psnr": 20.5})
  writer.close()
  return tmp_path / "run"


@pytest.fixture(autouse=True)
def _folder(tmp_path):
  (tmp_path / "run").mkdir()


def test_a_metric_has_its_own_steps_and_finite_values(run):
  assert curves.read(run, "model/loss") == ([1, 3], [1.0, 1 / 3])
  assert curves.read(run, "eval/psnr") == ([3], [20.5])


def test_unknown_metrics_and_runs_are_named(run, tmp_path):
  with pytest.raises(UserError, match="no metric 'psnr'; it has eval/psnr, model"):
    curves.read(run, "psnr")
  with pytest.raises(UserError, match="no metrics; give the workdir"):
    curves.read(tmp_path, "psnr")


def test_a_run_has_ends(run, tmp_path):
  ends = curves.ends(run)
  assert ends["first"] == {"model/loss": 1.0, "eval/psnr": 20.5}
  assert ends["last"] == {"step": 3, "model/loss": 1 / 3, "eval/psnr": 20.5}
  with pytest.raises(UserError, match="no metrics; give the workdir"):
    curves.ends(tmp_path)


def test_the_picture_has_a_panel_for_each_metric(run, tmp_path):
  pytest.importorskip("matplotlib", reason="needs pip install -e .[plot]")
  from matplotlib import image

  curves.plot([run], ["model/loss"], tmp_path / "one.png")
  curves.plot([run, run], ["model/loss", "eval/psnr"], tmp_path / "new" / "two.png")
  one, two = (image.imread(tmp_path / name) for name in ("one.png", "new/two.png"))
  assert two.shape[1] == 2 * one.shape[1] and two.shape[0] == one.shape[0]
  assert one.std() > 0.01


def test_the_numbers_are_kept_with_the_config_that_made_them(run, tmp_path, monkeypatch):
  pytest.importorskip("matplotlib", reason="needs pip install -e .[plot]")
  out = tmp_path / "two.png"
  curves.plot([run], ["model/loss", "eval/psnr"], out)
  kept = json.loads(out.with_suffix(".json").read_text())["values"][str(run)]
  assert kept["metrics"]["model/loss"] == {"steps": [1, 3], "values": [1.0, 0.33333]}
  assert kept["metrics"]["eval/psnr"]["values"] == [20.5] and kept["config"] is None
  monkeypatch.setattr(curves, "saved_config", lambda workdir: {"optim": {"lr": 0.1}})
  curves.plot([run], ["model/loss"], out)
  kept = json.loads(out.with_suffix(".json").read_text())["values"][str(run)]
  assert kept["config"]["optim"]["lr"] == 0.1
