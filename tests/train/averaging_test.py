"""Averages of weights: their arithmetic, who can read them, what is refused."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.tree import flatten_paths
from mg_jax.train.averaging import PROVENANCE, average
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.runs import load_role
from mg_jax.train.warmstart import WarmStartConfig, warm_start

_ROOT = Path(__file__).resolve().parents[2]


def _params(seed, *, width=5):
  draw = np.random.default_rng(seed)
  return {
    "model": {
      "kernel": draw.normal(size=(3, width)).astype(np.float32),
      "half": draw.normal(size=(7,)).astype(ml_dtypes.bfloat16),
    }
  }


def _save(folder, params, *, step=4, ema=None, config=None, keep=3):
  saver = Checkpointer(folder, name="sft", keep=keep)
  state = {"params": params, "step": np.int32(step)} | ({} if ema is None else {"ema": ema})
  state = jax.tree.map(jnp.asarray, state)
  saver.save(step, state, data={"next": step}, config=config or {"stage": "s", "model": {"a": 1}})
  saver.close()
  return str(folder)


@pytest.fixture
def runs(tmp_path):
  return [_save(tmp_path / f"run{seed}", _params(seed)) for seed in range(3)]


def _expected(weights, seeds=range(3)):
  trees = [_params(seed)["model"] for seed in seeds]
  return {
    name: sum(w * t[name].astype(np.float64) for w, t in zip(weights, trees, strict=True)).astype(
      trees[0][name].dtype
    )
    for name in trees[0]
  }


@pytest.mark.parametrize("weights", [None, [0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
def test_the_mean_is_that_of_numpy_in_every_bit(runs, tmp_path, weights):
  assert average(runs, tmp_path / "mean", weights=weights) == 2
  found = load_role(tmp_path / "mean", "model").params
  for name, value in _expected(weights or [1 / 3] * 3).items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(np.asarray(found[name]), value)


def test_steps_of_one_run_and_kept_averages_are_taken(tmp_path):
  run = tmp_path / "run"
  for step in (4, 8):
    _save(run, _params(50 + step), ema=_params(step), step=step)
  average([f"{run}:4", str(run)], tmp_path / "mean")
  found = load_role(tmp_path / "mean", "model").params
  for name, value in _expected([0.5, 0.5], (4, 8)).items():
    np.testing.assert_array_equal(np.asarray(found[name]), value)


def test_config_and_origin_are_those_of_the_runs(runs, tmp_path):
  average(runs[:2], tmp_path / "mean", weights=[0.25, 0.75])
  role = load_role(tmp_path / "mean", "model")
  origins = role.config.pop(PROVENANCE)
  assert role.config == {"stage": "s", "model": {"a": 1}} and role.step == 4
  assert [(o["workdir"], o["step"], o["weight"]) for o in origins] == [
    (runs[0], 4, 0.25), (runs[1], 4, 0.75)
  ]
  assert [o["sha256"] for o in origins] == [load_role(run, "model").digest for run in runs[:2]]


def test_statistics_of_latents_stay_with_the_first_run(runs, tmp_path):
  (Path(runs[0]) / "latents").mkdir()
  average(runs[:2], tmp_path / "mean")
  assert load_role(tmp_path / "mean", "model").config["latents"] == f"{runs[0]}/latents"


def test_a_warm_start_takes_the_mean(runs, tmp_path):
  average(runs, tmp_path / "mean")
  zeros = jax.tree.map(jnp.zeros_like, _params(0))
  warm = warm_start(zeros, WarmStartConfig(workdir=str(tmp_path / "mean")))
  np.testing.assert_array_equal(warm["model"]["kernel"], _expected([1 / 3] * 3)["kernel"])


def test_every_leaf_that_differs_is_named_and_nothing_is_left(runs, tmp_path):
  odd = _params(9, width=6)
  odd["model"]["more"] = odd["model"].pop("half")
  _save(tmp_path / "odd", odd)
  with pytest.raises(UserError, match="differing in 3 leaves") as e:
    average([runs[0], str(tmp_path / "odd")], tmp_path / "mean")
  for path in ("model/kernel: saved float32[3,6], wanted float32[3,5]", "model/half", "model/more"):
    assert path in str(e.value)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["odd", "run0", "run1", "run2"]


def test_a_damaged_run_leaves_nothing(runs, tmp_path):
  for file in (Path(runs[1]) / "checkpoints/4/state").rglob("d/*"):
    file.write_bytes(b"\0" * file.stat().st_size)
  with pytest.raises(UserError, match="step 4"):
    average(runs, tmp_path / "mean")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["run0", "run1", "run2"]


def test_an_interrupted_write_leaves_nothing(runs, tmp_path, monkeypatch):
  save = Checkpointer.save

  def interrupted(self, *args, **kwargs):
    save(self, *args, **kwargs)
    raise KeyboardInterrupt

  monkeypatch.setattr(Checkpointer, "save", interrupted)
  with pytest.raises(KeyboardInterrupt):
    average(runs, tmp_path / "mean")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["run0", "run1", "run2"]


def test_the_same_target_is_refused(runs, tmp_path):
  average(runs, tmp_path / "mean")
  before = flatten_paths(load_role(tmp_path / "mean", "model").params)
  with pytest.raises(UserError, match="exists already"):
    average(runs[:2], tmp_path / "mean")
  with pytest.raises(UserError, match="exists already"):
    average(runs, runs[0])
  for path, leaf in flatten_paths(load_role(tmp_path / "mean", "model").params).items():
    np.testing.assert_array_equal(np.asarray(leaf), np.asarray(before[path]))


@pytest.mark.parametrize(
  "weights, words",
  [([0.5, 0.6, 0.1], "sum 1.2"), ([1.0], "1 weights for 3"), ([-0.5, 0.5, 1.0], "have sum"),
   ([float("nan"), 0.5, 0.5], "have sum")],
)  # fmt: skip
def test_weights_that_are_no_mean_are_refused(runs, tmp_path, weights, words):
  with pytest.raises(UserError, match=words):
    average(runs, tmp_path / "mean", weights=weights)


@pytest.mark.parametrize(
  "origins, target, words",
  [(["run0"], "mean", "two runs"), (["run0", "run7"], "mean", "no checkpoints"),
   (["run0", "run1:5"], "mean", "no step 5"), (["run0", "run1"], "no/mean", "create it first")],
)  # fmt: skip
def test_origins_and_targets_that_are_none_are_told(runs, tmp_path, origins, target, words):
  with pytest.raises(UserError, match=words):
    average([str(tmp_path / name) for name in origins], tmp_path / target)


def test_whole_numbers_are_refused(tmp_path):
  runs = [_save(tmp_path / n, {"model": {"count": np.arange(3, dtype=np.int32)}}) for n in "ab"]
  with pytest.raises(UserError, match="model/count holds integers"):
    average(runs, tmp_path / "mean")


def test_the_command_tells_a_mistake_in_a_sentence(tmp_path):
  command = [sys.executable, _ROOT / "launch/average.py", "--from=a,b", f"--to={tmp_path}/c"]
  done = subprocess.run([*command, "--weights=half,half"], capture_output=True, text=True)
  assert done.returncode == 2 and done.stderr.startswith("error: --weights=half,half")
  assert len(done.stderr.splitlines()) == 1
