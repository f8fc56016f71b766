import json

import jax
import jax.numpy as jnp
import pytest

from experiments import tae
from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.evaluation import held_out
from mg_jax.inference.export import export
from mg_jax.models.codecs.tae import TAE
from mg_jax.train.checkpoint import Checkpointer


@pytest.fixture
def autoencoder(tmp_path):
  config = tae.get_config("tiny,size=16,frames=4")
  config.model.update(channels=4, multipliers=(1,), groups=2, attention=False, shortcut=False)
  config.data.update(cache=str(tmp_path / "data"), global_batch=2)
  config.eval.update(batch=2)
  plain = configs.to_dict(config)
  plain["train"]["of_an_older_version"] = 1
  model = configs.build(TAE, plain["model"])
  shapes = unbox(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3))))
  # Reconstructions of zero parameters are all alike: the error is that of the data.
  params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes["params"])
  saver = Checkpointer(tmp_path / "tae")
  saver.save(7, {"params": {"autoencoder": params}}, data=None, config=plain)
  saver.close()


def test_every_set_is_drawn_anew_and_gives_an_interval(autoencoder, tmp_path):
  table, rates = held_out.score_held_out(tmp_path / "tae", tmp_path / "out", count=3, seed=5)
  psnr = rates["eval/psnr"]
  assert 0 < psnr["low"] < psnr["mean"] < psnr["high"] < 30
  assert "eval/psnr" in table and f"{psnr['mean']:.4g}" in table
  written = json.loads((tmp_path / "out" / "scores.json").read_text())
  assert written["eval/psnr"] == psnr and written["step"] == 7
  again = held_out.score_held_out(tmp_path / "tae", tmp_path / "out", count=3, seed=5)[1]
  assert again == rates
  other = held_out.score_held_out(tmp_path / "tae", tmp_path / "out", count=3, seed=50)[1]
  assert other["eval/psnr"]["mean"] != psnr["mean"]


def test_an_export_scores_like_its_run(autoencoder, tmp_path):
  export(tmp_path / "tae", tmp_path / "ours")
  want = held_out.score_held_out(tmp_path / "tae", tmp_path / "out", count=2)[1]
  have = held_out.score_held_out(tmp_path / "ours", tmp_path / "out", count=2)[1]
  assert have == want
  path = tmp_path / "ours" / "config.json"
  described = json.loads(path.read_text())
  del described["run"]
  path.write_text(json.dumps(described))
  with pytest.raises(UserError, match="ours has no config of its data; give a run, or"):
    held_out.score_held_out(tmp_path / "ours", tmp_path / "out", count=2)


def test_the_world_that_training_evaluates_on_is_left_out(autoencoder, tmp_path, monkeypatch):
  seeds = []

  def measure(config, role, folder):
    seeds.append(config["data"]["seed"])
    entry = config["data"]["mixture"]["a"]
    assert (entry["seed"], entry["held_out"], entry["clips"]) == (seeds[-1], 4, 2)
    assert config["data"]["cache"] == str(tmp_path / "out" / "data")
    return {"eval/psnr": float(len(seeds))}

  monkeypatch.setattr(held_out, "_measure", measure)
  def mix(config):
    config["data"]["mixture"] = {"a": {"source": "toy", "seed": 3, "clips": 900, "held_out": 9}}
    return config

  saved = held_out.saved_config
  monkeypatch.setattr(held_out, "saved_config", lambda workdir: mix(saved(workdir)))
  rates = held_out.score_held_out(tmp_path / "tae", tmp_path / "out", count=4)[1]
  assert seeds == [1, 2, 4, 5, 6], "the worlds of the run have the seeds 0 and 3"
  # 3 -+ 2.776 * sqrt(2.5 / 5): the interval of the mean of 1 to 5.
  assert rates["eval/psnr"] == pytest.approx({"mean": 3, "low": 1.037, "high": 4.963}, abs=1e-3)


def test_a_generator_is_measured_otherwise(tmp_path):
  saver = Checkpointer(tmp_path / "t2v")
  saver.save(1, {"params": {"model": jnp.ones(1)}}, data=None, config={"stage": "flow_matching"})
  saver.close()
  with pytest.raises(UserError, match="is a run of flow_matching: it has no held-out metrics"):
    held_out.score_held_out(tmp_path / "t2v", tmp_path / "out")
