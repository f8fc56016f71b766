"""Schedules, masks, freezing and multipliers of the optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.tree import flatten_paths
from mg_jax.train.optim import OptimConfig, build_optimizer, build_optimizers
from mg_jax.train.state import abstract_state

_PARAMS = {
  "block": {"kernel": jnp.full((4, 6), 2.0), "bias": jnp.full((3, 6), 2.0)},
  "norm": {"scale": jnp.full((2, 4), 2.0)},
  "position_table": jnp.full((5, 4), 2.0),
  "vector": jnp.full((4,), 2.0),
}


def _rates(config, *, steps=(0,), progress=(0.0,)):
  rate = build_optimizer(config).rate
  return [float(rate(jnp.int32(s), jnp.float32(p))) for s, p in zip(steps, progress, strict=True)]


def test_warmup_is_linear_and_reaches_the_peak():
  rates = _rates(OptimConfig(lr=1.0, warmup=4), steps=(0, 1, 3, 9), progress=(0, 0, 0, 1))
  np.testing.assert_allclose(rates, [0.25, 0.5, 1.0, 1.0])


@pytest.mark.parametrize(
  ("schedule", "want"), [("cosine", [1.0, 0.55, 0.1, 0.1]), ("linear", [1.0, 0.55, 0.1, 0.1])]
)
def test_decay_ends_at_the_final_fraction(schedule, want):
  config = OptimConfig(lr=1.0, schedule=schedule, final=0.1)
  np.testing.assert_allclose(
    _rates(config, steps=(5,) * 4, progress=(0.0, 0.5, 1.0, 1.7)), want, rtol=1e-6
  )


def _updates(config, grads=None):
  optimizer = build_optimizer(config)
  grads = jax.tree.map(jnp.zeros_like, _PARAMS) if grads is None else grads
  updates, state = optimizer.update(grads, optimizer.init(_PARAMS), _PARAMS)
  return flatten_paths(updates), state


def test_only_matrices_decay():
  updates, _ = _updates(OptimConfig(weight_decay=0.5))
  assert {path for path, u in updates.items() if np.any(u)} == {"block/kernel"}
  np.testing.assert_allclose(updates["block/kernel"], 1.0)


def test_frozen_leaves_have_no_state_no_gradient_and_no_update():
  config = OptimConfig(freeze=("^block/",))
  updates, state = _updates(config, jax.tree.map(jnp.ones_like, _PARAMS))
  assert not np.any(updates["block/kernel"]) and np.any(updates["vector"])
  assert not any("block" in path for path in flatten_paths(state))
  stop = build_optimizer(config).stop_frozen
  grads = jax.grad(lambda p: sum(jnp.sum(x) for x in jax.tree.leaves(stop(p))))(_PARAMS)
  assert not np.any(grads["block"]["bias"]) and np.all(grads["vector"] == 1)


def test_multipliers_scale_the_first_match():
  config = OptimConfig(weight_decay=0.0, multipliers=(("bias", 0.1), ("block", 0.5)))
  updates, _ = _updates(config, jax.tree.map(jnp.ones_like, _PARAMS))
  np.testing.assert_allclose(updates["block/bias"], 0.1, rtol=1e-5)
  np.testing.assert_allclose(updates["block/kernel"], 0.5, rtol=1e-5)
  np.testing.assert_allclose(updates["vector"], 1.0, rtol=1e-5)


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adam():
  draw = np.random.default_rng(0)
  grads = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), jnp.float32), _PARAMS)
  config = OptimConfig(kind="muon", weight_decay=0.0)
  updates, state = _updates(config, grads)
  values = np.linalg.svd(updates["block/kernel"], compute_uv=False)
  # Five iterations of Newton-Schulz bring all singular values near one.
  assert np.all(np.abs(values / (0.2 * np.sqrt(6)) - 1) < 0.4)
  np.testing.assert_allclose(np.abs(updates["position_table"]), 1.0, rtol=1e-4)
  owners = {path for path in flatten_paths(state) if path.endswith("block/kernel")}
  assert len(owners) == 1, "one momentum only for what muon updates"


def test_muon_takes_layers_of_a_stack_one_by_one():
  draw = np.random.default_rng(0)
  stack = {"kernel": jnp.asarray(draw.normal(size=(3, 4, 6)), jnp.float32)}
  optimizer = build_optimizer(OptimConfig(kind="muon", weight_decay=0.0))
  whole, _ = optimizer.update(stack, optimizer.init(stack), stack)
  layer = {"kernel": stack["kernel"][1]}
  alone, _ = optimizer.update(layer, optimizer.init(layer), layer)
  np.testing.assert_allclose(whole["kernel"][1], alone["kernel"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_first_moments_in_half_precision_change_updates_little(kind):
  draw = np.random.default_rng(0)
  normal = lambda x: jnp.asarray(1 + draw.normal(size=x.shape), jnp.float32)  # noqa: E731
  grads = [jax.tree.map(normal, _PARAMS) for _ in range(5)]
  results = {}
  for moments in ("float32", "bfloat16"):
    optimizer = build_optimizer(OptimConfig(kind=kind, moments=moments, weight_decay=0.0))
    state = optimizer.init(_PARAMS)
    for grad in grads:
      updates, state = optimizer.update(grad, state, _PARAMS)
    results[moments] = updates
    kinds = {path.split("/mu/")[0]: x.dtype for path, x in flatten_paths(state).items()
             if "/mu/" in path}  # fmt: skip
    assert set(kinds.values()) == {jnp.dtype(moments)} and len(kinds) == 1 + (kind == "muon")
    second = [x.dtype for path, x in flatten_paths(state).items() if "/nu/" in path]
    assert second and set(second) == {jnp.dtype("float32")}
  for a, b in zip(*map(jax.tree.leaves, results.values()), strict=True):
    assert a.dtype == b.dtype == jnp.float32
    assert 0 < np.linalg.norm(a - b) < 0.02 * np.linalg.norm(a)


def test_half_of_the_first_moment_is_what_a_device_holds_less(toy):
  def held(moments):
    optimizers = build_optimizers(OptimConfig(moments=moments), ("model",))
    mesh = make_mesh((1, 4, 1, 2))
    objective = toy.Pair(roles=("model",))
    state = abstract_state(objective, optimizers, mesh, next(toy.Stream()), ema=False)
    return sum(
      np.prod(x.sharding.shard_shape(x.shape), dtype=int) * x.dtype.itemsize
      for x in jax.tree.leaves(state.opt_state)
    ), sum(
      np.prod(x.sharding.shard_shape(x.shape), dtype=int) for x in jax.tree.leaves(state.params)
    )  # fmt: skip

  (full, count), (half, _) = held("float32"), held("bfloat16")
  assert full - half == 2 * count


def test_mistakes_are_told():
  with pytest.raises(UserError, match="moments is 'float16'"):
    OptimConfig(moments="float16")
  with pytest.raises(UserError, match="adam"):
    OptimConfig(kind="adam")
  with pytest.raises(UserError, match="schedule"):
    OptimConfig(schedule="step")
  with pytest.raises(UserError, match=r"'\('"):
    OptimConfig(freeze=("(",))
  with pytest.raises(UserError, match="matches no parameter"):
    build_optimizer(OptimConfig(freeze=("blokc",))).init(_PARAMS)
  with pytest.raises(UserError, match="critic"):
    build_optimizers({"model": OptimConfig()}, ("model", "critic"))
