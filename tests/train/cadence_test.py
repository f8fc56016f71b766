"""Roles that step in every n-th step only, and rest between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.tree import fingerprint
from mg_jax.train.feed import place_batch
from mg_jax.train.loop import TrainConfig, train
from mg_jax.train.optim import OptimConfig
from mg_jax.train.step import StepConfig
from mg_jax.train.writer import read_metrics


def _setup(toy, every=3, objective=None, **kwargs):
  """The model steps in every n-th step, the critic always."""
  optim = {
    "model": OptimConfig(lr=1e-2, warmup=10, every=every), "critic": OptimConfig(lr=1e-2)
  }  # fmt: skip
  s = toy.setup(objective or toy.Pair(), optim=optim, **kwargs)
  s.stream = toy.Stream()
  return s


def _step(s, batch=None):
  placed = place_batch(next(s.stream) if batch is None else batch, s.mesh)
  s.state, metrics = s.step(s.state, placed, s.key, s.clock)
  return {name: float(value) for name, value in jax.device_get(metrics).items()}


def _kept(state, role):
  """All that belongs to a role: parameters, optimizer state, average."""
  return tuple(fingerprint(tree[role]) for tree in (state.params, state.opt_state, state.ema))


@pytest.mark.parametrize(("accumulate", "mesh"), [(1, (1, 1, 1, 1)), (2, (1, 2, 2, 2))])
def test_a_role_changes_in_every_third_step_and_rests_between(toy, accumulate, mesh):
  s = _setup(toy, config=StepConfig(steps=10, ema=0.9, accumulate=accumulate), mesh_shape=mesh)
  for step in range(1, 8):
    before = {role: _kept(s.state, role) for role in ("model", "critic")}
    metrics = _step(s)
    after = {role: _kept(s.state, role) for role in ("model", "critic")}
    changed = {role: [a != b for a, b in zip(before[role], after[role], strict=True)]
               for role in before}  # fmt: skip
    turn = step % 3 == 0
    assert changed == {"model": [turn] * 3, "critic": [True] * 3}, step
    assert metrics["guard/skipped"] == 0
    names = [name for name in metrics if name.startswith("model/")]
    assert len(names) == 5
    assert all(np.isfinite(metrics[name]) == turn for name in names)
    assert all(np.isfinite(value) for name, value in metrics.items() if name not in names)
    if turn:  # the schedule counts every step
      assert metrics["model/lr"] == pytest.approx(1e-2 * step / 10)


def test_a_step_in_turn_is_that_of_a_role_that_never_rests(toy):
  """As is what the critic sees of a model that rests, whose loss hands it on."""
  config = StepConfig(steps=10, ema=0.9)
  always, third = _setup(toy, 1, config=config), _setup(toy, 3, config=config)
  rests, steps = _step(third), _step(always)
  assert np.isnan(rests["model/loss"]) and np.isfinite(steps["model/loss"])
  for name in ("critic/loss", "critic/grad_norm", "critic/param_norm"):
    assert rests[name] == pytest.approx(steps[name], rel=1e-6)
  assert _kept(third.state, "critic") == _kept(always.state, "critic")
  _step(third)
  always.state = jax.tree.map(jnp.copy, third.state)
  batch = next(third.stream)
  first, second = _step(third, batch), _step(always, batch)
  assert first == pytest.approx(second, rel=1e-6)
  assert fingerprint(third.state.params) == fingerprint(always.state.params)
  assert fingerprint(third.state.ema) == fingerprint(always.state.ema)


def test_resting_roles_do_no_work_and_others_no_branch(toy):
  """No product of matrices is left for a model that rests, unless the critic asks for it."""

  class Apart(toy.Pair):
    def loss(self, role, params, batch, key, step, carry):
      loss, (metrics, handed) = super().loss(role, params, batch, key, step, carry)
      return loss, (metrics, {"error": batch["x"]} if role == "model" else handed)

  counts = {}
  for objective in (Apart(), toy.Pair()):
    for every in (1, 3):
      s = _setup(toy, every, objective)
      lowered = s.step.lower(s.state, s.batch)
      assert ("stablehlo.case" in lowered.as_text()) == (every > 1)
      counts[type(objective), every] = lowered.compile().as_text().count(" dot(")
  assert counts[Apart, 3] == counts[Apart, 1] > 4
  assert counts[toy.Pair, 3] == counts[toy.Pair, 1] + 2


def test_spikes_are_judged_on_steps_in_turn(toy):
  config = StepConfig(steps=99, ema=0.0, spike_sigma=1e6, spike_window=2)
  s = _setup(toy, 2, config=config)
  for count in (0, 0, 1, 1):
    assert np.isfinite(np.asarray(s.state.history[0])).sum() == count  # losses of the model
    assert s.state.history.shape == (4, 2)
    _step(s)
  assert np.isfinite(np.asarray(s.state.history)).all()


def test_a_bad_batch_is_skipped_while_a_role_rests(toy):
  s = _setup(toy, 3, config=StepConfig(steps=10, ema=0.9))
  s.stream = toy.Stream(poison={0: np.nan, 2: np.nan})
  before = fingerprint(s.state.params)
  assert _step(s)["guard/skipped"] == 1 and fingerprint(s.state.params) == before
  assert _step(s)["guard/skipped"] == 0
  kept = _kept(s.state, "model")
  assert _step(s)["guard/skipped"] == 1 and _kept(s.state, "model") == kept


def test_metrics_of_a_resting_role_are_not_written(toy, tmp_path, capsys):
  optim = {"model": OptimConfig(every=2), "critic": OptimConfig()}
  config = TrainConfig(experiment="toy", steps=4, ema=0.9, log_every=1)
  train(toy.Pair(), toy.Stream(), config, tmp_path, make_mesh((1, 1, 1, 1)), optim=optim)
  told = [line for line in capsys.readouterr().err.splitlines() if " steps/s" in line]
  for line, text in zip(read_metrics(tmp_path), told, strict=True):
    turn = line["step"] % 2 == 0
    assert [name in line for name in ("model/loss", "model/lr")] == [turn] * 2
    assert (" model " in text) == turn and " critic " in text
    assert "critic/loss" in line and "nan" not in line.values() and "nan" not in text


def test_a_cadence_that_leaves_steps_empty_is_refused(toy):
  with pytest.raises(UserError, match="optim.every is 0"):
    OptimConfig(every=0)
  with pytest.raises(UserError, match="some steps train nothing"):
    toy.setup(toy.Pair(), optim=OptimConfig(every=2))
