"""Damaged checkpoints of every kind: exact or refused in one sentence, and never in silence."""

import gc
import shutil

import jax
import jax.numpy as jnp
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.tree import fingerprint
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.damage import DamagedError, find_leaf
from mg_jax.train.loop import TrainConfig, train
from mg_jax.train.optim import OptimConfig
from mg_jax.train.runs import load_params
from mg_jax.train.state import abstract_state
from mg_jax.train.warmstart import WarmStartConfig, warm_start

# Errors of tasks that the storage library leaves behind come up as it is garbage collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected():
  """Does that now, not at the end of all tests."""
  yield
  gc.collect()


@pytest.fixture
def saved(toy, tmp_path):
  """A workdir of steps 1 and 2, the abstract state to restore, and the states that were saved."""
  s = toy.setup(toy.Pair(hidden=64, roles=("model",)))
  states = {step: s.state.replace(step=jnp.int32(step)) for step in (1, 2)}
  with_saver = Checkpointer(tmp_path / "clean", name="toy")
  for step, state in states.items():
    with_saver.save(step, state, data={"next": step}, elapsed=1.0, config={"lr": 0.1})
  with_saver.close()
  mesh = make_mesh((1, 1, 1, 1))
  target = abstract_state(s.objective, s.optimizers, mesh, s.batch, **s.config.state_args)
  return tmp_path / "clean", target, {step: fingerprint(state) for step, state in states.items()}


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


WAYS = {
  "flip": _flip,
  "truncate": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
  "delete": lambda path: path.unlink(),
  "garbage": lambda path: path.write_bytes(b"{garbage" * 10),
  "empty": lambda path: path.write_bytes(b""),
}


def _hollow(path):
  shutil.rmtree(path)
  path.mkdir()


def _restore(workdir, target, **options):
  with_reader = Checkpointer(workdir, name="toy")
  try:
    return with_reader.restore(target, **options)
  finally:
    with_reader.close()


def _sentence(error, folder):
  text = str(error)
  assert text.startswith(f"step 2 in {folder}/checkpoints is damaged: "), text
  assert text.endswith(
    "; train with --config.train.restore_fallback=true to set it aside and continue from step 1"
  )
  assert len(text.splitlines()) == 1 and len(text) < 400, text
  assert not any(word in text.lower() for word in ("tensorstore", "ocdbt", "zarr", "slice("))
  return text.split(": ", 1)[1].split(";")[0]


def test_every_file_in_every_way(saved, tmp_path):
  clean, target, prints = saved
  files = [p.relative_to(clean) for p in sorted((clean / "checkpoints/2").rglob("*"))]
  cases = [(p, way) for p in files if (clean / p).is_dir() for way in (_hollow, shutil.rmtree)]
  for i, path in enumerate(p for p in files if (clean / p).is_file()):
    # Names within d/ are random, so the files of arrays (the large ones) take every way.
    ways = list(WAYS.values())
    turns = len(ways) if (clean / path).stat().st_size > 4096 else 2
    cases += [(path, ways[(i + turn) % len(ways)]) for turn in range(turns)]
  said = set()
  for path, damage in cases:
    work = tmp_path / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(clean, work)
    damage(work / path)
    try:
      restored = _restore(work, target)
      assert fingerprint(restored.state) == prints[restored.step] and restored.step == 2, path
    except DamagedError as e:
      said.add(_sentence(e, work))
    assert (work / "checkpoints/1").is_dir() and (work / "checkpoints/2").is_dir()
  assert {
    "the list of arrays cannot be read", "the data position cannot be read",
    "the description (meta) cannot be read",
  } <= said  # fmt: skip
  leaves = {text for text in said if text.startswith(("params/", "ema/", "opt_state/"))}
  assert any("differs from its checksum" in text for text in leaves), said
  assert any("cannot be read" in text for text in leaves), said


@pytest.mark.parametrize(
  ("file", "way"),
  [("state/_METADATA", "garbage"), ("meta/metadata", "delete"), ("data/metadata", "truncate")],
)
def test_fallback_goes_on_from_the_older_step_which_stays_exact(saved, file, way):
  workdir, target, prints = saved
  (workdir / "damaged_2").mkdir()  # of an earlier accident
  (workdir / "damaged_2/kept").write_text("")
  WAYS[way](workdir / "checkpoints/2" / file)
  restored = _restore(workdir, target, fallback=True)
  assert restored.step == 1 and fingerprint(restored.state) == prints[1]
  assert (workdir / "damaged_2/kept").exists() and (workdir / "damaged_2_2/state").is_dir()


def test_an_array_that_vanished_from_the_list_is_damage_and_not_drift(saved):
  workdir, target, _ = saved
  path = workdir / "checkpoints/2/state/_METADATA"
  path.write_text(path.read_text().replace("norm_scale", "norm_scald"))
  with pytest.raises(DamagedError) as caught:
    _restore(workdir, target)
  assert "cannot be read" in str(caught.value) or "was changed" in str(caught.value)


def test_the_only_step_damaged_is_told_so(saved):
  workdir, target, _ = saved
  shutil.rmtree(workdir / "checkpoints/1")
  WAYS["delete"](workdir / "checkpoints/2/meta/metadata")
  for fallback in (False, True):
    with pytest.raises(DamagedError, match="no older step is left, so restore it from a copy"):
      _restore(workdir, target, fallback=fallback)
  assert (workdir / "checkpoints/2").is_dir(), "the last one is not set aside"


def test_resume_from_a_damaged_run_leaves_it_alone(toy, saved, tmp_path):
  workdir, _, _ = saved
  WAYS["garbage"](workdir / "checkpoints/2/state/_METADATA")
  config = TrainConfig(experiment="other", steps=3, ema=0.9, resume=str(workdir))
  run = lambda **changes: train(  # noqa: E731
    toy.Pair(hidden=64, roles=("model",)), toy.Stream(),
    TrainConfig(**{**vars(config), **changes}), tmp_path / "run", make_mesh((1, 1, 1, 1)),
    optim=OptimConfig(lr=1e-2),
  )  # fmt: skip
  with pytest.raises(DamagedError, match="restore_fallback=true .* continue from step 1"):
    run()
  assert not list((tmp_path / "run/checkpoints").iterdir())
  assert run(restore_fallback=True).step == 3
  assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["1", "2"]


def test_a_warm_start_and_a_sampler_say_what_is_damaged(toy, saved):
  workdir, _, _ = saved
  params = toy.setup(toy.Pair(hidden=64, roles=("model",))).state.params
  WAYS["delete"](workdir / "checkpoints/2/state/manifest.ocdbt")
  for call in (
    lambda: warm_start(params, WarmStartConfig(workdir=str(workdir))),
    lambda: load_params(workdir, "model"),
  ):
    with pytest.raises(DamagedError) as caught:
      call()
    assert "cannot be read" in _sentence(caught.value, workdir)
  older = warm_start(params, WarmStartConfig(workdir=str(workdir), step=1))
  assert jax.tree.structure(older) == jax.tree.structure(params)


def test_a_step_that_its_run_removed_meanwhile_is_not_called_damaged(saved):
  workdir, target, _ = saved
  reader = Checkpointer(workdir, read_only=True)
  shutil.rmtree(workdir / "checkpoints/2")
  with pytest.raises(UserError, match="was removed while it was read, as its run") as caught:
    reader.read({"step": jax.ShapeDtypeStruct((), jnp.int32)}, 2)
  assert not isinstance(caught.value, DamagedError)


def test_leaves_are_found_in_what_the_storage_library_says():
  inner = ValueError('DATA_LOSS: Error reading "ema.model.net.bias/.zarray" in OCDBT database')
  outer = Exception("while reading array index: (slice(0, 8, 1),)")
  outer.__cause__ = inner
  for leaves in ([], ["step", "ema/model/net/bias"]):
    assert find_leaf(outer, leaves) == "ema/model/net/bias"
  spec = Exception("TensorStore({'x': '/tmp/a.b/', 'path': 'params.model.net.out_kernel/'})")
  assert find_leaf(spec, ["params/model/net/out_kernel"]) == "params/model/net/out_kernel"
  assert find_leaf(ValueError("Unterminated string")) is None
