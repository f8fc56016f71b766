"""Every recipe of experiments/ trains two steps from the runs that it needs; losses are pinned.

With small networks and few clips.
"""

import functools
import json
import os
from pathlib import Path

import pytest

from mg_jax.stages import experiment
from mg_jax.train.writer import FILE as METRICS
from tests.train import tiny
from tests.train.tiny import NAMES

_GOLDEN = Path(__file__).resolve().parents[1] / "goldens/losses.json"
# Recipe: that of the run it starts from, that of its autoencoder or codec.
NEEDS = {
  "tae": ("tae_image", ""), "tae_gan": ("tae", ""), "clip_long": ("clip", ""),
  "t2i_256": ("", "tae"), "t2v_256": ("t2i_256", "tae"), "t2v_768": ("t2v_256", "tae"),
  "t2v_sft": ("t2v_768", "tae"), "t2i_1024": ("t2i_256", "tae"),
  "t2i_1024_tune": ("t2i_1024", "tae"), "ablation_t2i": ("", "tae"),
  "ablation_t2v": ("ablation_t2i", "tae"), "soundtrack": ("", "dacvae"),
  "soundtrack_finetune": ("soundtrack", "dacvae"),
}  # fmt: skip


def _config(folder, name):
  config = tiny.smallest(folder, name)
  before, codec = NEEDS.get(name, ("", ""))
  if before:
    config["train"]["warm_start"]["workdir"] = str(folder / before)
  if codec:
    config["codec" if codec == "dacvae" else "autoencoder"] = str(folder / codec)
  config["train"] |= {"steps": 2, "log_every": 1}
  config["eval"] |= {"every": 1000, "previews": 0}
  return config


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
  """Name of a recipe -> the losses of its steps; whatever it needs is trained first."""
  folder = tmp_path_factory.mktemp("recipes")

  @functools.cache
  def train(name):
    for other in filter(None, NEEDS.get(name, ())):
      train(other)
    assert experiment.run(_config(folder, name), str(folder / name)).step == 2
    found = {"1": {}, "2": {}}
    for text in (folder / name / METRICS).read_text().splitlines():
      line = json.loads(text)  # a step has one line of training and may have one of evaluation
      kept = {k: v for k, v in line.items() if k.endswith(("loss", "grad_norm"))}
      found.setdefault(str(line["step"]), {}).update(kept)
    return found

  return train


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_lose_what_the_golden_says(name, losses):
  found = losses(name)
  golden = json.loads(_GOLDEN.read_text()) if _GOLDEN.exists() else {}
  if os.environ.get("MG_UPDATE_GOLDENS"):
    rows = sorted((golden | {name: found}).items())
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in rows]
    _GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return
  # Between processors sums differ in their last bits, which a step of Adam spreads.
  for step, tolerance in (("1", 1e-4), ("2", 1e-2)):
    assert found[step] and golden[name][step].keys() == found[step].keys()
    for key, value in golden[name][step].items():
      assert found[step][key] == pytest.approx(value, rel=tolerance, abs=1e-6), (step, key)
