"""The step against hand-written updates, across meshes and microbatches, and with bad batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.tree import fingerprint, flatten_paths
from mg_jax.train.feed import place_batch
from mg_jax.train.optim import OptimConfig
from mg_jax.train.state import abstract_state
from mg_jax.train.step import StepConfig, build_step


def _run(s, batches, key=None):
  state, log = s.state, []
  for batch in batches:
    placed = place_batch(batch, s.mesh)
    state, metrics = s.step(state, placed, s.key if key is None else key, s.clock)
    log.append(jax.device_get(metrics))
  return state, log


def _batches(toy, count, **kwargs):
  stream = toy.Stream(**kwargs)
  return [next(stream) for _ in range(count)]


def _close(a, b, tolerance):
  a, b = flatten_paths(a), flatten_paths(b)
  assert a.keys() == b.keys()
  for path in a:
    np.testing.assert_allclose(a[path], b[path], rtol=tolerance, atol=tolerance, err_msg=path)


def test_one_step_equals_adamw_written_by_hand(toy):
  optim = OptimConfig(lr=1e-2, b1=0.9, b2=0.95, weight_decay=0.1, clip=0.05)
  s = toy.setup(toy.Pair(noise=0.0), optim=optim)
  before = jax.device_get(s.state.params)
  (batch,) = _batches(toy, 1)
  rows = {k: jnp.asarray(batch[k]) for k in ("x", "y")}

  def loss(tree):
    return s.objective.loss("model", {**before, "model": tree}, rows, s.key, 0, {})[0]

  grads = jax.grad(loss)(before["model"])
  norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
  assert norm > 0.05, "the clip has to act in this test"
  state, (metrics,) = _run(s, [batch])
  np.testing.assert_allclose(metrics["model/grad_norm"], norm, rtol=1e-5)
  for path, p in flatten_paths(before["model"]).items():
    g = np.asarray(flatten_paths(grads)[path]) * 0.05 / norm
    update = g / (np.abs(g) + 1e-8)  # Adam's first step, bias corrected
    decay = 0.1 * p if path.endswith("kernel") else 0.0
    want = p - 1e-2 * (update + decay)
    got = flatten_paths(state.params["model"])[path]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6, err_msg=path)


def test_metrics_carry_the_role(toy):
  _, (metrics,) = _run(toy.setup(toy.Pair()), _batches(toy, 1))
  for role in ("model", "critic"):
    assert {f"{role}/{n}" for n in ("loss", "grad_norm", "lr", "param_norm")} <= set(metrics)
  assert "model/error" in metrics and "critic/error" not in metrics


def test_accumulation_equals_the_big_batch(toy):
  batches = _batches(toy, 3)
  sgd_like = OptimConfig(lr=1e-2, eps=1.0)  # with a small eps Adam turns rounding into signs
  outcomes = []
  for count in (1, 4):
    config = StepConfig(steps=10, ema=0.9, accumulate=count)
    s = toy.setup(toy.Pair(noise=0.0), config=config, optim=sgd_like, mesh_shape=(2, 1, 1, 1))
    outcomes.append(_run(s, batches))
  _close(outcomes[0][0].params, outcomes[1][0].params, 1e-6)
  _close(outcomes[0][1][-1], outcomes[1][1][-1], 1e-5)


def test_microbatches_get_different_noise(toy):
  row = next(toy.Stream(size=1))
  losses = []
  for count in (2, 4):  # microbatches of the same row: with one key for all, more change nothing
    same = {k: np.repeat(v, count, 0) for k, v in row.items() if k in ("x", "y")}
    config = StepConfig(steps=10, accumulate=count)
    s = toy.setup(toy.Pair(noise=1.0, roles=("model",)), config=config, batch=same)
    losses.append(float(_run(s, [same])[1][0]["model/loss"]))
  assert abs(losses[0] - losses[1]) > 1e-3


def test_steps_draw_new_noise_from_the_key_of_the_run(toy):
  s = toy.setup(toy.Pair(noise=1.0, roles=("model",)), optim=OptimConfig(lr=0.0))
  (batch,) = _batches(toy, 1)
  _, log = _run(s, [batch] * 3)
  assert len({float(m["model/loss"]) for m in log}) == 3


def test_indivisible_accumulation_is_told(toy):
  s = toy.setup(config=StepConfig(steps=10, accumulate=3))
  with pytest.raises(UserError, match="accumulate=3"):
    _run(s, _batches(toy, 1))


@pytest.mark.parametrize("shape", [(1, 2, 2, 2)])
def test_step_is_the_same_on_eight_devices(toy, shape):
  batches = _batches(toy, 3)
  single, log = _run(toy.setup(toy.Pair(), optim=OptimConfig(lr=1e-2, eps=1e-3)), batches)
  many = toy.setup(toy.Pair(), mesh_shape=shape, optim=OptimConfig(lr=1e-2, eps=1e-3))
  if shape[1] > 1:
    assert not many.state.params["model"]["net"]["in_kernel"].sharding.is_fully_replicated
    adam = flatten_paths(many.state.opt_state["model"])
    moment = next(v for p, v in adam.items() if "mu" in p and p.endswith("in_kernel"))
    assert not moment.sharding.is_fully_replicated
  state, many_log = _run(many, batches)
  _close(single.params, state.params, 2e-6)
  _close(single.ema, state.ema, 2e-6)
  _close(log[-1], many_log[-1], 1e-5)


@pytest.mark.parametrize(("value", "accumulate"), [(np.nan, 1), (np.inf, 2)])
def test_a_bad_batch_changes_nothing_but_the_counters(toy, value, accumulate):
  s = toy.setup(config=StepConfig(steps=10, ema=0.9, accumulate=accumulate))
  good, bad = _batches(toy, 2, poison={1: value})
  s.state, _ = _run(s, [good])
  kept = lambda state: fingerprint((state.params, state.opt_state, state.ema))  # noqa: E731
  before = kept(s.state)
  state, (metrics,) = _run(s, [bad])
  assert kept(state) == before
  assert (int(state.step), int(state.skipped_total), int(state.skipped_in_row)) == (2, 1, 1)
  assert metrics["guard/skipped"] == 1
  s.state = state
  state, _ = _run(s, [good])
  assert kept(state) != before
  assert (int(state.skipped_total), int(state.skipped_in_row)) == (1, 0)


def test_spikes_are_skipped_once_the_window_is_full(toy):
  config = StepConfig(steps=99, ema=0.0, spike_sigma=6.0, spike_window=8)
  s = toy.setup(config=config, optim=OptimConfig(lr=1e-4))
  _, log = _run(s, _batches(toy, 14, poison={3: 100.0, 12: 1e4, 13: 1e4}))
  assert [i for i, m in enumerate(log) if m["guard/skipped"]] == [12, 13]
  assert log[13]["guard/skipped_in_row"] == 2, "a skipped spike must not widen the window"


def test_ema_warms_up(toy):
  s = toy.setup(config=StepConfig(steps=10, ema=0.5))
  state = s.state
  ema = jax.device_get(state.ema)
  for n, batch in enumerate(_batches(toy, 8), start=1):
    state, _ = s.step(state, place_batch(batch, s.mesh), s.key, s.clock)
    decay = min(0.5, (1 + n) / (10 + n))
    params = jax.device_get(state.params)
    ema = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, ema, params)
    _close(ema, state.ema, 1e-6)


def test_no_ema_when_switched_off(toy):
  s = toy.setup(config=StepConfig(steps=10, ema=0.0))
  assert s.state.ema is None
  state, _ = _run(s, _batches(toy, 1))
  assert state.ema is None and state.averaged() is state.params


def test_progress_is_the_further_of_steps_and_clock(toy):
  s = toy.setup(optim=OptimConfig(lr=1.0, schedule="linear"))
  (batch,) = _batches(toy, 1)
  placed = place_batch(batch, s.mesh)
  state, metrics = s.step(s.state, placed, s.key, jnp.float32(0.0))
  assert metrics["model/lr"] == 1.0
  state, metrics = s.step(state, placed, s.key, jnp.float32(0.75))
  np.testing.assert_allclose(metrics["model/lr"], 0.25)
  _, metrics = s.step(state, placed, s.key, jnp.float32(0.0))
  np.testing.assert_allclose(metrics["model/lr"], 0.8)
  assert s.step.jitted._cache_size() == 1


def test_the_same_step_lowers_from_shapes_alone(toy):
  s = toy.setup(mesh_shape=(2, 4, 1, 1))
  abstract = abstract_state(
    s.objective, s.optimizers, s.mesh, s.batch, **s.config.state_args
  )
  assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, abstract, s.state))
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), s.batch)
  planned = build_step(s.objective, s.optimizers, s.config, s.mesh, state=abstract)
  lowered = planned.lower(abstract, shapes)
  assert lowered.as_text() == s.step.lower(s.state, s.batch).as_text()
  assert "all-reduce" in lowered.compile().as_text()


def test_step_config_rejects_nonsense():
  for fields in ({"steps": 0}, {"accumulate": 0}, {"ema": 1.0}):
    with pytest.raises(UserError):
      dataclasses.replace(StepConfig(), **fields)
