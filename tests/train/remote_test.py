"""A store that fails now and then, is slow and lists late: tried again, in order, and told."""

import functools
import os
import pathlib
import time

import fsspec
import pytest
from etils import epath
from fsspec.implementations.local import LocalFileSystem
from orbax.checkpoint._src.path import gcs_utils

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.tree import fingerprint
from mg_jax.train import remote
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.loop import TrainConfig, train
from mg_jax.train.optim import OptimConfig
from mg_jax.train.workdir import prepare, resolve, write_text


class Store(LocalFileSystem):
  """Buckets as folders of `root`, where tests run; some operations fail."""

  protocol = "gcs"
  cachable = False
  root = ""
  period = 0  # every so manieth operation fails, done or not; 0 for none
  late = ""  # what is in the name of an object that is not listed yet
  count = 0
  done: list[tuple[str, str]] = []

  @classmethod
  def _strip_protocol(cls, path):
    return os.fspath(path).removeprefix("gs://").rstrip("/")

  def _turn(self, name, path):
    Store.count += 1
    time.sleep(0.0005)
    Store.done.append((name, self._strip_protocol(path)))
    return bool(Store.period) and Store.count % Store.period == 0

  def ls(self, path, detail=False, **kwargs):
    entries = super().ls(path, detail=True, **kwargs)
    if Store.late:
      entries = [e for e in entries if Store.late not in e["name"]]
    return entries if detail else [e["name"] for e in entries]


def _flaky(name):
  method = getattr(LocalFileSystem, name)

  @functools.wraps(method)
  def operation(self, path, *args, **kwargs):
    fails = self._turn(name, path)
    if fails and Store.count % 2:
      raise OSError("503 backend error")
    result = method(self, path, *args, **kwargs)
    if fails:  # done, but the answer was lost
      raise TimeoutError("the answer did not come")
    return result

  setattr(Store, name, operation)


for _name in ("info", "_open", "mkdir", "makedirs", "rm", "mv"):
  _flaky(_name)


@pytest.fixture
def store(tmp_path, monkeypatch):
  """gs:// paths in a folder; arrays go there as well, past the failures."""
  fsspec.register_implementation("gcs", Store, clobber=True)
  (tmp_path / "store/bucket").mkdir(parents=True)
  fresh = {"root": str(tmp_path / "store"), "period": 0, "late": "", "count": 0}
  for name, value in fresh.items():
    monkeypatch.setattr(Store, name, value)
  monkeypatch.setattr(Store, "done", [])
  monkeypatch.chdir(tmp_path / "store")
  monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
  monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)

  def arrays(path):
    end = "" if path.endswith("_sharding") else "/"  # which is a file
    return {"driver": "file", "path": f"{Store.root}/{Store._strip_protocol(path)}{end}"}

  monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", arrays)
  return pathlib.Path(Store.root)


def _train(toy, workdir, steps, **changes):
  config = TrainConfig(experiment="toy", steps=steps, ema=0.9, checkpoint_every=2, **changes)
  return train(
    toy.Pair(roles=("model",)), toy.Stream(), config, workdir, make_mesh((1, 1, 1, 1)),
    optim=OptimConfig(lr=1e-2),
  )  # fmt: skip


def test_a_run_on_a_flaky_store_resumes_exactly_and_commits_last(toy, store, tmp_path):
  want = fingerprint(_train(toy, tmp_path / "local", 4).state)
  Store.period = 7
  _train(toy, "gs://bucket/run", 2)
  assert fingerprint(_train(toy, "gs://bucket/run", 4).state) == want
  assert Store.count > 100, "the store was used"
  with_reader = Checkpointer("gs://bucket/run", read_only=True)
  assert with_reader.steps() == [2, 4]
  with_reader.close()
  for step in (2, 4):
    folder = store / "bucket/run/checkpoints" / str(step)
    files = [p for p in folder.rglob("*") if p.is_file()]
    last = max(files, key=lambda p: p.stat().st_mtime_ns)
    assert last == folder / "commit_success.txt", "complete before it is announced"
    opened = [path for name, path in Store.done if name == "_open"]
    assert opened.index(f"bucket/run/checkpoints/{step}/commit_success.txt") > opened.index(
      f"bucket/run/checkpoints/{step}/meta/metadata"
    )


def test_a_step_without_its_commit_is_never_seen(toy, store):
  _train(toy, "gs://bucket/run", 4)
  (store / "bucket/run/checkpoints/4/commit_success.txt").unlink()
  with_reader = Checkpointer("gs://bucket/run", read_only=True)
  assert with_reader.steps() == [2]
  with_reader.close()
  assert _train(toy, "gs://bucket/run", 4).step == 4


def test_a_listing_that_lacks_new_parts_is_told_at_the_next_save(toy, store):
  _train(toy, "gs://bucket/run", 2)
  Store.late = "ocdbt.process"
  with pytest.raises(UserError, match="step 4 cannot be saved .* cannot be read"):
    _train(toy, "gs://bucket/run", 4)
  Store.late = ""
  config = {"restore_fallback": True}
  assert _train(toy, "gs://bucket/run", 4, **config).step == 4
  assert (store / "bucket/run/damaged_4").is_dir()


def test_a_store_that_stays_away_is_one_sentence(toy, store):
  _train(toy, "gs://bucket/run", 2)
  Store.period = 1
  with pytest.raises(UserError) as caught:
    prepare("gs://bucket/run")
  text = str(caught.value)
  assert f"failed {remote.ATTEMPTS} times" in text and "check the connection to the store" in text
  assert len(text.splitlines()) == 1


def test_small_files_survive_lost_answers(store):
  Store.period = 5
  path = resolve("gs://bucket/a.json")
  for turn in range(6):
    write_text(path, f"{turn}")
    assert path.read_text() == f"{turn}" and path.exists()
  target = path.rename("gs://bucket/b.json")
  assert isinstance(target, remote.RemotePath) and target.read_text() == "5"
  assert [p.name for p in resolve("gs://bucket").iterdir()] == ["b.json"]
  target.unlink()
  assert not target.exists()
  Store.period = 0
  with pytest.raises(FileNotFoundError):
    target.unlink()
  with pytest.raises(FileNotFoundError):
    target.read_text()


def test_waits_grow_are_random_and_end(monkeypatch):
  waits, calls = [], []
  monkeypatch.setattr(time, "sleep", waits.append)

  def fail():
    calls.append(1)
    raise ConnectionError("reset")

  with pytest.raises(UserError, match="writing failed 6 times, the last time with 'reset'"):
    remote.retry(fail, "writing")
  assert len(calls) == remote.ATTEMPTS and len(waits) == remote.ATTEMPTS - 1
  assert all(0.25 * 2**i <= wait <= 0.5 * 2**i for i, wait in enumerate(waits))
  assert sum(waits) <= 15.5


class _Answer(Exception):
  def __init__(self, code):
    self.code = code


@pytest.mark.parametrize(
  ("error", "tries"),
  [
    (FileNotFoundError("a"), 1), (PermissionError("a"), 1), (OSError(28, "No space"), 1),
    (_Answer(403), 1), (ValueError("a"), 1), (_Answer(503), 6), (_Answer("429"), 6),
    (TimeoutError("a"), 6),
  ],
)  # fmt: skip
def test_only_what_may_pass_is_tried_again(error, tries, monkeypatch):
  calls = []
  monkeypatch.setattr(time, "sleep", lambda seconds: None)

  def fail():
    calls.append(1)
    raise error

  with pytest.raises(type(error) if tries == 1 else UserError):
    remote.retry(fail, "writing")
  assert len(calls) == tries


def test_unknown_stores_and_missing_packages_are_told(monkeypatch):
  with pytest.raises(UserError, match="ftp://a/b names no known store; known are gs://"):
    resolve("ftp://a/b")
  assert isinstance(epath.Path("gs://bucket/x") / "y", remote.RemotePath)

  def missing(*args, **kwargs):
    raise ImportError("Please install gcsfs to access Google Storage")

  monkeypatch.setattr(remote.RemotePath, "mkdir", missing)
  with pytest.raises(UserError, match="needs another package: Please install gcsfs"):
    prepare("gs://bucket/run")
