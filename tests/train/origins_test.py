"""Warm starts from several origins, and from one to several roles."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.tree import flatten_paths
from mg_jax.data import tensors
from mg_jax.models.weights import converted
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.loop import TrainConfig
from mg_jax.train.warmstart import Origin, WarmStartConfig, fill, warm_start


def _save(folder, roles, step=1):
  """A run whose parameters are given; its averages are a hundred above them."""
  saver = Checkpointer(folder, name="old")
  ema = jax.tree.map(lambda x: x + 100, roles)
  saver.save(step, {"params": roles, "ema": ema}, data=None)
  saver.close()
  return str(folder)


@pytest.fixture
def video(tmp_path):
  """A run of a generator, with a critic that nobody asks for."""
  model = {"blocks": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "table": jnp.ones(4)}
  return _save(tmp_path / "video", {"model": model, "critic": {"w": jnp.ones(3)}}), model


@pytest.fixture
def faces(tmp_path):
  """A run of an encoder of pictures."""
  tower = {"patch": jnp.arange(4.0), "norm": jnp.ones(2)}
  return _save(tmp_path / "faces", {"model": tower}), tower


def _zeros(tree):
  return jax.tree.map(jnp.zeros_like, tree)


def _same(found, wanted):
  found, wanted = flatten_paths(found), flatten_paths(wanted)
  assert found.keys() == wanted.keys()
  for path, leaf in wanted.items():
    np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_two_origins_fill_one_role_together(video, faces):
  (workdir, model), (other, tower) = video, faces
  target = {"model": _zeros({"dit": model, "face": tower})}
  config = WarmStartConfig(
    workdir=workdir, ema=False, roles=(("model", "model"),), rename=(("^model/", "model/dit/"),),
    more={"face": Origin(workdir=other, rename=(("^model/", "model/face/"),))},
  )
  filled, origins = fill(target, config)
  _same(filled, {"model": {"dit": model, "face": jax.tree.map(lambda x: x + 100, tower)}})
  assert origins == {"model": f"{workdir}:1, {other}:1"}


def test_a_run_and_converted_weights_are_origins_alike(video, tmp_path, monkeypatch):
  workdir, model = video
  weights = {"dense": np.arange(3.0, dtype=np.float32)}
  (tmp_path / "clip").mkdir()
  tensors.write(
    tmp_path / "clip" / converted.WEIGHTS,
    {p: (x.shape, x.dtype) for p, x in weights.items()}, [(p, [x]) for p, x in weights.items()],
  )  # fmt: skip
  (tmp_path / "clip" / converted.CONFIG).write_text(json.dumps({}))
  file = tensors.TensorFile(tmp_path / "clip" / converted.WEIGHTS)
  monkeypatch.setattr(converted, "open_weights", lambda folder: ({"kind": ""}, file))
  clip = Origin(
    workdir=str(tmp_path / "clip"), into="tower/vision", roles=(("tower", "face"), ("tower", "id"))
  )
  roles = (("model", "model"),)
  config = WarmStartConfig(workdir=workdir, ema=False, roles=roles, more={"clip": clip})
  tower = {"vision": {"dense": jnp.zeros(3)}}
  filled, origins = fill({"model": _zeros(model), "face": tower, "id": tower}, config)
  wanted = {"vision": weights}
  _same(filled, {"model": model, "face": wanted, "id": wanted})
  assert origins["face"] == origins["id"] == str(tmp_path / "clip")


def test_one_origin_fills_three_roles_each_with_memory_of_its_own(video):
  workdir, model = video
  roles = tuple(("model", role) for role in ("student", "teacher", "critic"))
  target = {role: _zeros(model) for _, role in roles}
  # A frozen role has shapes in the place of initial values.
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  target["teacher"] = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), target["teacher"]
  )
  filled, origins = fill(target, WarmStartConfig(workdir=workdir, ema=False, roles=roles))
  _same(filled, {role: model for _, role in roles})
  assert set(origins.values()) == {f"{workdir}:1"} and set(origins) == set(target)
  twice = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)
  _same(twice(filled)["teacher"], jax.tree.map(lambda x: 2 * x, model))


def test_overlapping_origins_are_refused(video, tmp_path):
  workdir, model = video
  other = _save(tmp_path / "other", {"model": {"table": jnp.zeros(4)}}, step=7)
  roles = (("model", "model"),)
  config = WarmStartConfig(workdir=workdir, roles=roles, more={"table": Origin(workdir=other)})
  told = f"leaves 1 parameters unsettled.*\n  model/table: both {workdir}:1 and {other}:7 fill it"
  with pytest.raises(UserError, match=f"(?s){told}"):
    warm_start({"model": _zeros(model)}, config)
  # What one of them gives up the other fills.
  config = WarmStartConfig(
    workdir=workdir, roles=roles, grow=(("table", "fresh"),),
    more={"table": Origin(workdir=other, ema=False)},
  )
  assert not np.any(warm_start({"model": model}, config)["model"]["table"])


def test_every_leftover_is_told_with_its_origin(video, faces):
  (workdir, model), (other, tower) = video, faces
  target = {
    "model": _zeros({"dit": model | {"table": jnp.ones(5)}, "new": jnp.ones(2)}),
    "face": _zeros({"patch": tower["patch"]}), "judge": _zeros(model),
  }  # fmt: skip
  config = WarmStartConfig(
    workdir=workdir, roles=(("model", "model"),), rename=(("^model/", "model/dit/"),),
    more={"face": Origin(workdir=other, roles=(("model", "face"),))},
  )
  with pytest.raises(UserError) as caught:
    warm_start(target, config)
  assert str(caught.value).splitlines() == [
    f"warm start from {workdir}:1, {other}:1 leaves 5 parameters unsettled; use roles, rename, "
    "grow, allow_missing or allow_unexpected:",
    f"  model/dit/table: saved float32[4], wanted float32[5] ({workdir}:1)",
    f"  face/norm: saved float32[2], not in this model (unexpected) ({other}:1)",
    "  judge: no origin fills this role, 2 are missing",
    "  model/new: wanted float32[2], not saved (missing)",
  ]


def test_mistakes_in_roles_are_told(video):
  workdir, model = video
  with pytest.raises(UserError, match="fills student twice"):
    Origin(roles=(("model", "student"), ("critic", "student")))
  config = WarmStartConfig(workdir=workdir, roles=(("modle", "model"),))
  with pytest.raises(UserError, match="roles names modle, which it has not; there are critic, mod"):
    warm_start({"model": _zeros(model)}, config)


def test_roles_that_are_not_wanted_are_passed_over(video):
  workdir, model = video
  target = {"critic": {"w": jnp.zeros(3)}}
  config = WarmStartConfig(workdir=workdir, ema=False)
  with pytest.raises(UserError, match="model/table: .* not in this model"):
    fill(target, config)
  _same(fill(target, config, without=("model",))[0], {"critic": {"w": jnp.ones(3)}})


def test_a_config_names_its_further_origins(video):
  train = configs.section(TrainConfig, experiment="x")
  train.warm_start.more.face = configs.section(Origin, after="a run of experiments/clip.py")
  config = ConfigDict({"train": train}).lock()
  config.train.warm_start.more.face.workdir = "runs/clip"
  config.train.warm_start.more.face.roles = (("model", "teacher"),)
  start = configs.build(TrainConfig, config.train, where="train").warm_start
  assert start.more == {
    "face": Origin("runs/clip", after="a run of experiments/clip.py", roles=(("model", "teacher"),))
  }
  assert list(start.sections) == ["train.warm_start", "train.warm_start.more.face"]
  assert [origin.workdir for origin in start.origins] == ["runs/clip"]
  described = json.loads(json.dumps(configs.to_dict(config.train)))
  assert configs.build(TrainConfig, described, where="train").warm_start == start
  described["warm_start"]["more"]["face"]["workdri"] = ""
  with pytest.raises(UserError, match="train.warm_start.more.face has no field 'workdri'"):
    configs.build(TrainConfig, described, where="train")
  described["warm_start"]["more"] = {"face": "runs/clip"}
  with pytest.raises(UserError, match="more is {'face': 'runs/clip'}, which is not of type"):
    configs.build(TrainConfig, described, where="train")
