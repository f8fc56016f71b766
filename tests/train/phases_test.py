"""Phases of training with other batches in one workdir, and batches that differ within one."""

import dataclasses

import numpy as np

from mg_jax.core.mesh import make_mesh
from mg_jax.data.pipeline import Entry, Feed
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.loop import TrainConfig, train
from mg_jax.train.optim import OptimConfig
from mg_jax.train.writer import read_metrics

_CONFIG = TrainConfig(experiment="phases", steps=3, checkpoint_every=100, log_every=1)


def _row(index, record, rng):
  x = np.random.default_rng(index).normal(size=8).astype(np.float32)
  return {"x": x, "y": np.sin(x), "index": np.int32(index)}


class _Noted:
  """The stream of a feed, with the records of every batch that was drawn since it was set."""

  def __init__(self, batch, rows=1):
    self.drawn = []
    entries = (Entry("a", list(range(40)), _row), Entry("b", list(range(30)), _row, rows=rows))
    self.feed = Feed(entries, batch)
    self._stream = self.feed.stream(threads=0)
    self.get_state = self._stream.get_state

  def set_state(self, state):
    self.drawn = []
    self._stream.set_state(state)

  def __next__(self):
    batch = next(self._stream)
    self.drawn.append(batch["index"].tolist())
    return batch


def _run(toy, workdir, stream, steps, mesh=(1, 1, 1, 1)):
  config = dataclasses.replace(_CONFIG, steps=steps)
  objective = toy.Pair(roles=("model",))
  return train(objective, stream, config, workdir, make_mesh(mesh), optim=OptimConfig(lr=1e-2))


def test_a_run_goes_on_with_another_batch_at_the_next_whole_block(toy, tmp_path, caplog):
  _run(toy, tmp_path / "run", _Noted(8), steps=3)
  saver = Checkpointer(tmp_path / "run")
  assert saver._item(3, "data")["position"] == {"global_next_index": 24, "global_batch": 8}
  saver.close()
  later = _Noted(16)
  assert _run(toy, tmp_path / "run", later, steps=5).step == 5
  fresh = later.feed.stream(threads=0)
  expected = [next(fresh)["index"].tolist() for _ in range(4)]
  assert later.drawn[:2] == expected[2:]
  assert "was 8 and is 16: the data continue at element 32, 8 are skipped" in caplog.text
  # On another mesh, and from there with the old batch again.
  assert _run(toy, tmp_path / "run", _Noted(8), steps=6, mesh=(2, 2, 1, 1)).step == 6
  assert "was 16 and is 8: the data continue at element 64, 0 are skipped" in caplog.text


def test_samples_are_counted_by_the_batches_that_there_were(toy, tmp_path):
  stream = _Noted(8, rows=4)
  _run(toy, tmp_path / "run", stream, steps=4)
  lines = sorted(read_metrics(tmp_path / "run"), key=lambda line: line["step"])
  rates = [
    line["time/samples_per_second"] / line["time/steps_per_second"]
    for line in lines if "time/steps_per_second" in line
  ]  # fmt: skip
  np.testing.assert_allclose(rates, [len(rows) for rows in stream.drawn[:4]], rtol=1e-6)
  assert sorted(set(np.rint(rates).tolist())) == [8, 32]
