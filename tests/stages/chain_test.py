"""The stages of the generator follow one another, each from the parameters of the one before."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import config as configs
from mg_jax.core.tree import fingerprint, flatten_paths
from mg_jax.inference import load
from mg_jax.models.generator import Generator
from mg_jax.objectives.flow_matching import FlowMatching
from mg_jax.stages import chain, experiment
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.growth import interpolate
from mg_jax.train.runs import load_role
from mg_jax.train.state import abstract_params
from mg_jax.train.warmstart import WarmStartConfig, warm_start
from tests.train import tiny

SWITCHES = [
  ("t2i_256", "t2v_256", ("time", "height", "width")),
  ("t2v_256", "t2v_768", ("height", "width")),
  ("t2v_768", "t2v_sft", ()),
  ("t2i_256", "t2i_1024", ("height", "width")),
  ("t2i_1024", "t2i_1024_tune", ()),
]


def _objective(tmp_path, name):
  config = tiny.generator(tmp_path, name)
  model = configs.build(Generator, config["model"])
  return config, configs.build(FlowMatching, config["objective"], model=model)


def _batch(config, frames, side):
  tokens = (2, config["text"]["text"]["length"])
  channels = config["model"]["dit"]["channels"]
  return {
    "latent": np.random.default_rng(0).normal(size=(2, frames, side, side, channels)),
    "text": {"ids": np.ones(tokens, np.int32), "mask": np.ones(tokens, bool)},
    "index": np.arange(2, dtype=np.int32),
  }  # fmt: skip


def _filled(objective, batch, seed):
  """Parameters that are no zeros, as trained ones are."""
  shapes = abstract_params(objective, batch)
  leaves, tree = jax.tree.flatten(shapes)
  draws = np.random.default_rng(seed)
  return jax.tree.unflatten(tree, [
    jnp.asarray(0.1 * draws.normal(size=leaf.shape), leaf.dtype) for leaf in leaves
  ])  # fmt: skip


@pytest.mark.parametrize("before, after, grown", SWITCHES)
def test_a_switch_keeps_what_fits_and_stretches_position_tables(before, after, grown, tmp_path):
  config, objective = _objective(tmp_path, before)
  batch = _batch(config, 1, 4)
  params = _filled(objective, batch, seed=1)
  saver = Checkpointer(tmp_path / before, name=before)
  saver.save(1, {"params": params, "ema": params}, data=None)
  saver.close()
  config, objective = _objective(tmp_path, after)
  start = configs.build(
    WarmStartConfig, config["train"]["warm_start"] | {"workdir": str(tmp_path / before)}
  )
  fresh = _filled(objective, batch, seed=2)
  found, old = (flatten_paths(tree) for tree in (warm_start(fresh, start), params))
  tables = {f"model/dit/positions/{name}" for name in grown}
  assert {path for path in found if found[path].shape != old[path].shape} == tables
  for path, leaf in found.items():
    want = interpolate(np.asarray(old[path]), leaf.shape) if path in tables else old[path]
    np.testing.assert_allclose(leaf, want, rtol=1e-6, err_msg=path)
  for name in {"time"} & set(grown):
    # An image sees the row that it was trained with, at whatever latent frame it stands.
    assert (found[f"model/dit/positions/{name}"] == old[f"model/dit/positions/{name}"][0]).all()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_stage_runs_from_the_one_before(tmp_path):
  links = [
    chain.Link("tae", tiny.autoencoder(tmp_path, "tae")),
    chain.Link("t2i_256", tiny.generator(tmp_path, "t2i_256")),
    chain.Link("t2v_256", tiny.generator(tmp_path, "t2v_256"), "t2i_256"),
    chain.Link("t2v_256", tiny.generator(tmp_path, "t2v_256", phase=2)),
    chain.Link("t2v_768", tiny.generator(tmp_path, "t2v_768"), "t2v_256"),
    *(
      chain.Link("t2v_768", tiny.generator(tmp_path, "t2v_768", phase=phase))
      for phase in (2, 3, 4)
    ),
    chain.Link("sft_a", tiny.generator(tmp_path, "t2v_sft"), "t2v_768"),
    chain.Link("sft_b", tiny.generator(tmp_path, "t2v_sft", seed=1), "t2v_768"),
    chain.Link("t2i_1024", tiny.generator(tmp_path, "t2i_1024"), "t2i_256"),
    chain.Link("tuned", tiny.generator(tmp_path, "t2i_1024_tune"), "t2i_1024"),
  ]
  switches = chain.run(links, tmp_path, mean=("sft_a", "sft_b"))
  assert [switch.stage for switch in switches] == [
    "t2i_256", "t2v_256", "t2v_256, phase 2", "t2v_768",
    *(f"t2v_768, phase {phase}" for phase in (2, 3, 4)), "sft_a", "sft_b", "t2i_1024", "tuned",
  ]  # fmt: skip
  for switch in switches:
    assert np.isfinite(switch.end)
    assert (switch.grown is None) == (switch.fresh is None) == (not switch.after)
  # Where no table grows and the clips are the same, a stage begins as the one before has ended.
  tuned = switches[-1]
  assert tuned.grown == pytest.approx(tuned.before, rel=1e-5)
  assert json.loads((tmp_path / "chain.json").read_text())["switches"][1]["stage"] == "t2v_256"
  assert load.load_text_to_video(str(tmp_path / "mean"))
  again = {name: fingerprint(load_role(str(tmp_path / name), "model").params)
           for name in ("t2v_768", "sft_a", "mean")}  # fmt: skip
  assert len(set(again.values())) == 3
  assert chain.run(links, tmp_path, mean=("sft_a", "sft_b")) == switches, "all is finished"


@pytest.mark.slow
def test_a_phase_goes_on_from_the_state_of_the_one_before(tmp_path):
  experiment.run(tiny.autoencoder(tmp_path, "tae"), str(tmp_path / "tae"))
  run = str(tmp_path / "t2v")
  first = experiment.run(tiny.generator(tmp_path, "t2v_256"), run)
  config = tiny.generator(tmp_path, "t2v_256", phase=2)
  config["optim"]["lr"] = 0.0
  second = experiment.run(config, run)
  assert (first.step, second.step) == (2, 4)
  # With a rate of zero nothing moves but Adam's moments, which go on as well.
  assert fingerprint(first.state.params) == fingerprint(second.state.params)
  counts = [
    leaf for path, leaf in flatten_paths(second.state.opt_state).items() if path.endswith("count")
  ]
  assert counts and all(int(count) == 4 for count in counts)
