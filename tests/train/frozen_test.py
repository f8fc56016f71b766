"""Frozen roles: read by the losses, changed by nothing, named in checkpoints and not saved."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.tree import fingerprint, flatten_paths
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.feed import place_batch
from mg_jax.train.loop import Hook, TrainConfig, train
from mg_jax.train.optim import OptimConfig
from mg_jax.train.state import abstract_state
from mg_jax.train.step import build_step
from mg_jax.train.warmstart import WarmStartConfig

_OPTIM = OptimConfig(lr=1e-2, eps=1e-3)


def _run(s, count=3):
  stream, log = iter(s.stream), []
  for _ in range(count):
    s.state, metrics = s.step(s.state, place_batch(next(stream), s.mesh), s.key, s.clock)
    log.append(jax.device_get(metrics))
  return log


def _setup(toy, **kwargs):
  s = toy.setup(toy.Taught(), optim=_OPTIM, **kwargs)
  s.stream = toy.Stream()
  return s


def test_a_frozen_role_is_read_and_nothing_of_it_changes(toy):
  s, other = _setup(toy), _setup(toy)
  before = fingerprint(s.state.frozen)
  params = s.state.params | s.state.frozen

  def loss(tree):
    return s.objective.loss("model", params | {"teacher": tree}, s.batch, s.key, 0, {})

  grads, _ = jax.grad(loss, has_aux=True)(params["teacher"])
  assert all(np.any(g) for g in jax.tree.leaves(grads)), "the loss has to depend on the teacher"
  log = _run(s)
  assert fingerprint(s.state.frozen) == before
  paths = [path for path in flatten_paths(s.state) if "teacher" in path]
  assert paths and all(path.startswith("frozen/teacher/net/") for path in paths)
  assert not any(name.startswith("teacher") for name in log[0])
  assert s.state.averaged() == s.state.ema | s.state.frozen
  other.state = other.state.replace(frozen=jax.tree.map(lambda x: 2 * x, other.state.frozen))
  assert abs(_run(other, 1)[0]["model/loss"] - log[0]["model/loss"]) > 1e-3


def test_a_step_with_a_frozen_role_is_the_same_on_eight_devices(toy):
  one, many = _setup(toy), _setup(toy, mesh_shape=(1, 2, 2, 2))
  kernels = [tree["net"]["in_kernel"].sharding for tree in
             (many.state.frozen["teacher"], many.state.params["model"])]  # fmt: skip
  assert kernels[0] == kernels[1] and not kernels[0].is_fully_replicated
  logs = _run(one, 1), _run(many, 1)
  for name, value in logs[0][0].items():
    np.testing.assert_allclose(value, logs[1][0][name], rtol=1e-5, atol=1e-6, err_msg=name)
  found, wanted = flatten_paths(many.state), flatten_paths(one.state)
  for path, leaf in wanted.items():
    np.testing.assert_allclose(found[path], leaf, rtol=2e-6, atol=2e-6, err_msg=path)


def test_a_step_with_a_frozen_role_lowers_from_shapes_alone(toy):
  s = _setup(toy, mesh_shape=(2, 4, 1, 1))
  shapes = abstract_state(s.objective, s.optimizers, s.mesh, s.batch, **s.config.state_args)
  assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, shapes, s.state))
  planned = build_step(s.objective, s.optimizers, s.config, s.mesh, state=shapes)
  assert planned.lower(shapes, s.batch).as_text() == s.step.lower(s.state, s.batch).as_text()


_CONFIG = TrainConfig(experiment="taught", steps=5, ema=0.9, checkpoint_every=4, log_every=1)
# The model steps in every second step, so that a resume has to keep the beat, too.
_OPTIMS = {
  "model": OptimConfig(lr=1e-2, every=2), "critic": OptimConfig(lr=1e-2, schedule="cosine")
}  # fmt: skip


@pytest.fixture
def origins(toy, tmp_path):
  """Warm starts of all three roles from one of two runs of a model alone."""
  found = []
  for seed in (0, 1):
    config = dataclasses.replace(_CONFIG, experiment="model", steps=1, seed=seed)
    train(
      toy.Pair(roles=("model",)), toy.Stream(), config, tmp_path / f"origin_{seed}",
      make_mesh((1, 1, 1, 1)), optim=OptimConfig(lr=1e-2),
    )  # fmt: skip
    roles = tuple(("model", role) for role in ("model", "critic", "teacher"))
    found.append(WarmStartConfig(workdir=str(tmp_path / f"origin_{seed}"), roles=roles))
  return found


def _train(toy, workdir, start, hooks=(), mesh=(1, 1, 1, 1), **changes):
  config = dataclasses.replace(_CONFIG, warm_start=start, **changes)
  return train(
    toy.Taught(), toy.Stream(), config, workdir, make_mesh(mesh), optim=_OPTIMS, hooks=hooks
  )


def _interrupt(step):
  return Hook("stop", 1, lambda _, done: done == step - 1 and os.kill(os.getpid(), signal.SIGTERM))


def test_a_run_with_a_frozen_role_resumes_exactly_and_does_not_save_it(toy, tmp_path, origins):
  whole = _train(toy, tmp_path / "whole", origins[0])
  reader = Checkpointer(tmp_path / "origin_0", read_only=True)
  teacher = {p.removeprefix("ema/model/"): leaf
             for p, leaf in reader.read({p: leaf for p, leaf in reader.leaves().items()
                                         if p.startswith("ema/")}).items()}  # fmt: skip
  assert fingerprint(whole.state.frozen["teacher"]) == fingerprint(teacher)

  first = _train(toy, tmp_path / "run", origins[0], hooks=[_interrupt(3)])
  assert (first.status, first.step) == ("interrupted", 3)
  saver = Checkpointer(tmp_path / "run", read_only=True)
  assert "ema/critic/net/bias" in saver.leaves()
  assert not any("teacher" in path or "frozen" in path for path in saver.leaves())
  assert saver.meta(3)["frozen"] == {
    "teacher": {"origin": f"{tmp_path}/origin_0:1", "fingerprint": fingerprint(teacher)}
  }
  second = _train(toy, tmp_path / "run", origins[0])
  assert (second.status, fingerprint(second.state)) == ("finished", fingerprint(whole.state))
  # From a copy of its origin elsewhere and onto another mesh, nothing is missed.
  (tmp_path / "origin_0").rename(tmp_path / "moved")
  moved = dataclasses.replace(origins[0], workdir=str(tmp_path / "moved"))
  again = _train(toy, tmp_path / "run", moved, mesh=(1, 2, 2, 2), steps=6)
  assert again.step == 6 and fingerprint(again.state.frozen["teacher"]) == fingerprint(teacher)
  assert not again.state.frozen["teacher"]["net"]["in_kernel"].sharding.is_fully_replicated


def test_other_frozen_weights_are_refused(toy, tmp_path, origins):
  _train(toy, tmp_path / "run", origins[0], steps=2)
  told = r"frozen role teacher of step 2 was .*origin_0:1 \(\w+\) and is now .*origin_1:1 \(\w+\); "
  for place in ({}, {"resume": str(tmp_path / "run")}):
    with pytest.raises(UserError, match=told):
      _train(toy, tmp_path / ("new" if place else "run"), origins[1], **place)
  # Of what fills trained roles nothing is asked when a run goes on.
  only = dataclasses.replace(origins[0], roles=(("model", "teacher"),))
  assert _train(toy, tmp_path / "run", only, steps=3).step == 3


def test_a_frozen_role_that_no_origin_fills_is_refused_by_name(toy, tmp_path, origins):
  with pytest.raises(UserError, match="(?s)no origin leaves .*teacher: no origin fills this role"):
    _train(toy, tmp_path / "none", WarmStartConfig())
  some = dataclasses.replace(
    origins[0], roles=origins[0].roles[:2], allow_missing=("^teacher/",)
  )
  with pytest.raises(UserError, match="teacher: no origin fills this role, 4 are missing"):
    _train(toy, tmp_path / "some", some)
  fresh = dataclasses.replace(origins[0], grow=(("bias$", "fresh"),))
  with pytest.raises(UserError, match="leaves 1 .*\n  teacher/net/bias: wanted .*, not saved"):
    _train(toy, tmp_path / "fresh", fresh)
  _train(toy, tmp_path / "run", origins[0], steps=1)
  with pytest.raises(UserError, match="teacher: no origin fills this role"):
    _train(toy, tmp_path / "run", WarmStartConfig())


def test_a_run_without_frozen_roles_says_nothing_of_them(toy, tmp_path, origins):
  meta = json.loads((tmp_path / "origin_0/checkpoints/1/meta/metadata").read_text())
  assert "frozen" not in meta and meta["name"] == "model"
