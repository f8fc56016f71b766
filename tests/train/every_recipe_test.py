"""Every recipe of experiments/ trains two steps from the runs that it needs; losses are pinned.

By default with small networks; the slow tests train what `:tiny` says, with few clips.
"""

import functools
import json
import os
from pathlib import Path

import pytest

from mg_jax.core import config as configs
from mg_jax.train import experiment
from mg_jax.train.writer import FILE as METRICS
from tests.configs_test import NAMES
from tests.train import tiny

_GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
# Recipe: that of the run it starts from, that of its autoencoder or codec.
NEEDS = {
  "tae": ("tae_image", ""), "tae_gan": ("tae", ""), "clip_long": ("clip", ""),
  "t2i_256": ("", "tae"), "t2v_256": ("t2i_256", "tae"), "t2v_768": ("t2v_256", "tae"),
  "t2v_sft": ("t2v_768", "tae"), "t2i_1024": ("t2i_256", "tae"),
  "t2i_1024_tune": ("t2i_1024", "tae"), "ablation_t2i": ("", "tae"),
  "ablation_t2v": ("ablation_t2i", "tae"), "soundtrack": ("", "dacvae"),
  "soundtrack_finetune": ("soundtrack", "dacvae"),
}  # fmt: skip


def _tiny(folder, name):
  config = tiny.load(name, "tiny,toy" if name == "dacvae" else "tiny")
  config.mesh = (1, 1, 1, 1)
  config.data.update(clips=4, held_out=2, global_batch=2)
  if "image_batch" in config.data:
    config.data.image_batch = 0
  if "cache" in config.data:
    config.data.cache = str(folder / "data")
  return configs.to_dict(config)


def _config(folder, name, build):
  config = build(folder, name)
  before, codec = NEEDS.get(name, ("", ""))
  if before:
    config["train"]["warm_start"]["workdir"] = str(folder / before)
  if codec:
    config["codec" if codec == "dacvae" else "autoencoder"] = str(folder / codec)
  config["train"] |= {"steps": 2, "log_every": 1}
  config["eval"] |= {"every": 1000, "previews": 0}
  return config


def _trainer(folder, build):
  """Name of a recipe -> the metrics of its steps; whatever it needs is trained first."""

  @functools.cache
  def train(name):
    for other in filter(None, NEEDS.get(name, ())):
      train(other)
    assert experiment.run(_config(folder, name, build), str(folder / name)).step == 2
    lines = [json.loads(line) for line in (folder / name / METRICS).read_text().splitlines()]
    return {
      str(line["step"]): {k: v for k, v in line.items() if k.endswith(("loss", "grad_norm"))}
      for line in lines if line["step"] in (1, 2)
    }  # fmt: skip

  return train


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  return _trainer(tmp_path_factory.mktemp("small"), tiny.smallest)


@pytest.fixture(scope="module")
def as_tiny(tmp_path_factory):
  return _trainer(tmp_path_factory.mktemp("tiny"), _tiny)


def _compare(name, found, path):
  golden = json.loads(path.read_text()) if path.exists() else {}
  if os.environ.get("MG_UPDATE_GOLDENS"):
    path.write_text(json.dumps(dict(sorted((golden | {name: found}).items())), indent=1) + "\n")
    return
  # Between processors sums differ in their last bits, which a step of Adam spreads.
  for step, tolerance in (("1", 1e-4), ("2", 1e-2)):
    assert found[step] and golden[name][step].keys() == found[step].keys()
    for key, value in golden[name][step].items():
      assert found[step][key] == pytest.approx(value, rel=tolerance, abs=1e-6), (step, key)


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_small_networks(name, small):
  _compare(name, small(name), _GOLDENS / "losses.json")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_tiny(name, as_tiny):
  _compare(name, as_tiny(name), _GOLDENS / "losses_tiny.json")
