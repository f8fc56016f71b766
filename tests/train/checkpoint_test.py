"""Checkpoints: exact on any mesh, loud on damage, drift and strangers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.tree import fingerprint, flatten_paths
from mg_jax.train.checkpoint import Checkpointer, DamagedError
from mg_jax.train.integrity import describe, inspect
from mg_jax.train.runs import load_params
from mg_jax.train.state import abstract_state


def _abstract(s, shape=(1, 1, 1, 1), objective=None, **changes):
  args = {**s.config.state_args, **changes}
  return abstract_state(objective or s.objective, s.optimizers, make_mesh(shape), s.batch, **args)


def _saved(toy, folder, steps=(1,), **kwargs):
  """A workdir with checkpoints, and what they hold."""
  s = toy.setup(**kwargs)
  saver = Checkpointer(folder, name="toy", keep=3)
  for step in steps:
    state = s.state.replace(step=jnp.int32(step))
    saver.save(step, state, data={"next": step}, elapsed=1.5, config={"lr": 0.1})
  saver.close()
  return s


def test_roundtrip_over_three_meshes_is_exact(toy, tmp_path):
  s = toy.setup(mesh_shape=(8, 1, 1, 1))
  want = fingerprint(s.state)
  state = s.state
  for step, shape in enumerate([(1, 2, 2, 2), (1, 1, 1, 1), (2, 4, 1, 1)]):
    saver = Checkpointer(tmp_path, name="toy")
    saver.save(step, state, data={"next": 5}, elapsed=2.5, config={"a": [1, "b"]})
    saver.wait()
    target = _abstract(s, shape)
    restored = saver.restore(target)
    saver.close()
    state = restored.state
    assert fingerprint(state) == want
    assert (restored.step, restored.data, restored.elapsed) == (step, {"next": 5}, 2.5)
    assert restored.config == {"a": [1, "b"]}
    assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, state, target))


def test_the_state_may_be_donated_while_it_is_being_written(toy, tmp_path):
  s = toy.setup()
  want = fingerprint(s.state)
  saver = Checkpointer(tmp_path)
  saver.save(0, s.state, data=None)
  wipe = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 + 3, state), donate_argnums=0)
  jax.block_until_ready(wipe(s.state))
  saver.wait()
  assert fingerprint(saver.restore(_abstract(s)).state) == want
  saver.close()


def test_a_flipped_byte_never_passes(toy, tmp_path):
  s = _saved(toy, tmp_path, objective=toy.Pair(hidden=512, roles=("model",)))
  files = [p for p in (tmp_path / "checkpoints/1/state").rglob("d/*") if p.is_file()]
  path = max(files, key=lambda p: p.stat().st_size)
  clean = path.read_bytes()
  want, target = fingerprint(s.state.replace(step=jnp.int32(1))), _abstract(s)
  named = 0
  for place in np.linspace(0, len(clean) - 1, 6).astype(int):
    content = bytearray(clean)
    content[place] ^= 0x04
    path.write_bytes(content)
    reader = Checkpointer(tmp_path, read_only=True)
    try:
      # Some bytes of the container carry nothing; then the values have to be right.
      assert fingerprint(reader.restore(target).state) == want
    except DamagedError as e:
      assert "step 1" in str(e)
      named += "_kernel differs from its checksum" in str(e)
    reader.close()
  assert named, "no flip reached the values, so the checksum was not tried"


def test_fallback_goes_to_an_older_step_and_sets_the_damaged_one_aside(toy, tmp_path):
  s = _saved(toy, tmp_path, steps=(1, 2))
  (tmp_path / "checkpoints/2/state/manifest.ocdbt").unlink()
  saver = Checkpointer(tmp_path, name="toy")
  with pytest.raises(DamagedError, match="step 2"):
    saver.restore(_abstract(s))
  assert saver.restore(_abstract(s), fallback=True).step == 1
  assert saver.steps() == [1] and (tmp_path / "damaged_2").is_dir()
  saver.save(2, s.state, data=None)
  saver.close()


@pytest.mark.parametrize("item", ["data", "meta"])
def test_changed_meta_and_position_are_noticed(toy, tmp_path, item):
  s = _saved(toy, tmp_path)
  path = next((tmp_path / "checkpoints/1" / item).glob("metadata"))
  content = json.loads(path.read_text())
  content["position" if item == "data" else "elapsed"] = 4.0
  path.write_text(json.dumps(content))
  with pytest.raises(DamagedError, match="step 1"):
    Checkpointer(tmp_path, read_only=True).restore(_abstract(s))


def test_drift_is_shown_leaf_by_leaf(toy, tmp_path):
  s = _saved(toy, tmp_path)
  reader = Checkpointer(tmp_path, read_only=True)
  with pytest.raises(UserError) as caught:
    reader.restore(_abstract(s, objective=toy.Pair(hidden=24, roles=("model",))))
  assert "params/model/net/bias: saved float32[16], wanted float32[24]" in str(caught.value)
  with pytest.raises(UserError, match=r"ema/model/net/bias: saved float32\[16\], not wanted"):
    reader.restore(_abstract(s, ema=False))
  with pytest.raises(UserError, match=r"history: not saved, wanted float32\[2,8\]"):
    reader.restore(_abstract(s, window=8))
  half = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding), _abstract(s)
  )
  with pytest.raises(UserError, match=r"saved float32\[16\], wanted bfloat16\[16\]"):
    reader.restore(half)


def test_another_experiment_is_refused(toy, tmp_path):
  _saved(toy, tmp_path)
  with pytest.raises(UserError, match="holds experiment 'toy', this is 'other'"):
    Checkpointer(tmp_path, name="other")


def test_parameters_that_are_not_finite_are_not_saved(toy, tmp_path):
  s = _saved(toy, tmp_path)
  bad = s.state.params["model"]["net"]["bias"].at[2].set(jnp.nan)
  s.state.params["model"]["net"]["bias"] = bad
  saver = Checkpointer(tmp_path, name="toy")
  with pytest.raises(UserError, match=r"params/model/net/bias holds NaN.* good checkpoint is 1"):
    saver.save(2, s.state, data=None)
  assert saver.steps() == [1]
  saver.close()


def test_a_step_is_written_once_and_the_latest_are_kept(toy, tmp_path):
  s = _saved(toy, tmp_path, steps=(1, 2, 3, 4, 5))
  saver = Checkpointer(tmp_path, name="toy", keep=3)
  assert saver.steps() == [3, 4, 5]
  with pytest.raises(UserError, match="already holds step 5"):
    saver.save(5, s.state, data=None)
  with pytest.raises(UserError, match="no JSON"):
    saver.save(6, s.state, data={1, 2})
  saver.close()


def test_leftovers_of_an_interrupted_save_are_removed_by_a_writer_only(toy, tmp_path):
  s = _saved(toy, tmp_path)
  left = tmp_path / "checkpoints/2.orbax-checkpoint-tmp"
  left.mkdir()
  (left / "x").write_text("half")
  reader = Checkpointer(tmp_path, read_only=True)
  assert reader.latest == 1 and left.exists()
  writer = Checkpointer(tmp_path, name="toy")
  writer.save(2, s.state, data=None)  # waits for the removal, which runs beside the start
  writer.close()
  assert writer.steps() == [1, 2] and not left.exists()


def test_a_failed_write_is_told_with_the_last_good_step(toy, tmp_path, monkeypatch):
  s = _saved(toy, tmp_path)
  saver = Checkpointer(tmp_path, name="toy")

  def full():
    raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

  monkeypatch.setattr(saver._manager, "check_for_errors", full)
  told = "the disk is full; the newest good checkpoint is step 1, free some space and run"
  with pytest.raises(UserError, match=told):
    saver.save(2, s.state, data=None)


def test_params_load_alone(toy, tmp_path):
  s = toy.setup(toy.Pair())
  s.state = s.state.replace(ema=jax.tree.map(lambda x: x + 1, s.state.params))
  saver = Checkpointer(tmp_path, name="toy")
  saver.save(4, s.state, data=None)
  saver.close()
  assert fingerprint(load_params(tmp_path, "critic")) == fingerprint(s.state.ema["critic"])
  plain = load_params(tmp_path, "model", ema=False, step=4)
  assert fingerprint(plain) == fingerprint(s.state.params["model"])
  target = _abstract(s, (1, 8, 1, 1)).params["model"]
  placed = load_params(tmp_path, "model", target=target)
  assert placed["net"]["in_kernel"].sharding == target["net"]["in_kernel"].sharding
  with pytest.raises(UserError, match="has no ema/modle: it trained critic, model; give one"):
    load_params(tmp_path, "modle")
  with pytest.raises(UserError, match="no step 7"):
    load_params(tmp_path, "model", step=7)
  with pytest.raises(UserError, match="no checkpoints in"):
    load_params(tmp_path / "none", "model")


def test_checksums_do_not_depend_on_sharding_and_see_every_bit():
  x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
  mesh = make_mesh((8, 1, 1, 1))
  split = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
  clean = inspect({"x": jnp.asarray(x)}).checksums["x"]
  assert inspect({"x": split}).checksums["x"] == clean
  sums = {clean}
  for bit in range(32):
    y = x.copy().view(np.uint32)
    y[3, 4] ^= np.uint32(1 << bit)
    sums.add(inspect({"x": jnp.asarray(y.view(np.float32))}).checksums["x"])
  assert len(sums) == 33
  swapped = x[:, ::-1]
  assert inspect({"x": jnp.asarray(swapped)}).checksums["x"] != clean


@pytest.mark.parametrize("dtype", ["bool", "int8", "bfloat16", "int32", "float32"])
def test_checksums_cover_every_dtype(dtype):
  zeros = jnp.zeros((5,), dtype)
  one = zeros.at[4].set(jnp.ones((), dtype))
  first, second = (inspect({"x": v}).checksums["x"] for v in (zeros, one))
  assert first != second
  assert describe(zeros) == f"{dtype}[5]"


def test_paths_of_a_state_are_readable(toy):
  paths = set(flatten_paths(toy.setup().state))
  assert {"step", "params/model/net/bias", "ema/model/net/bias", "skipped_total"} <= paths
