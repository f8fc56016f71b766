"""Plans of small models: numbers that agree with each other, and mistakes that are told."""

import functools
import importlib.util
import json
import math

import jax
import pytest

from experiments import t2v_256, t2v_768, tae
from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.data.recipe import DataConfig
from mg_jax.models.generator import Generator
from mg_jax.objectives.flow_matching import FlowMatching
from mg_jax.train import plan_report
from mg_jax.train.experiment import abstract_params
from mg_jax.train.plan import (
  abstract_clips,
  check_divides,
  largest_clip,
  plan,
  plan_mesh,
  training_flops,
)

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="the TPU compiler (libtpu) is not installed"
)
LATENT = (2, 4, 4, 16)


def _tiny(**data):
  config = t2v_256.get_config("tiny")
  config.model.dit.update(layers=2, unroll=1, width=128, mlp_dim=256)
  config.model.encoders.text.update(layers=1)
  config.data.update(data)
  return config


@functools.cache
def _flops(rows, remat="none"):
  config = configs.to_dict(_tiny(global_batch=rows))
  config["model"]["dit"]["remat"] = remat
  model = configs.build(Generator, config["model"], where="model")
  objective = configs.build(FlowMatching, config["objective"], where="objective", model=model)
  batch = abstract_clips(config, rows, LATENT)
  return training_flops(objective, abstract_params(objective, batch), batch)


def test_flops_scale_with_the_batch():
  model, hardware = _flops(4)
  assert _flops(8) == (2 * model, 2 * hardware)


def test_recomputation_costs_a_forward_pass_that_the_model_does_not_count():
  model, hardware = _flops(4)
  again, recomputed = _flops(4, "full")
  assert again == pytest.approx(model, rel=0.02)
  assert 1.15 * hardware < recomputed < 1.35 * hardware


def test_the_largest_bucket_is_planned():
  paper = configs.build(DataConfig, configs.to_dict(t2v_768.get_config())["data"])
  frames, height, width = largest_clip(paper)
  assert frames == 256 and 768**2 <= height * width < 1.01 * 768**2
  single = configs.build(DataConfig, configs.to_dict(_tiny(frames=8, width=48))["data"])
  assert largest_clip(single) == (8, 32, 48)


def test_a_batch_holds_features_of_frozen_encoders_and_ids_of_others():
  tiny = abstract_clips(configs.to_dict(_tiny()), 4, LATENT)
  assert tiny["latent"].shape == (4, *LATENT) and tiny["text"]["ids"].shape == (4, 40)
  paper = abstract_clips(configs.to_dict(t2v_768.get_config()), 4, LATENT)
  assert paper["ul2"]["features"].shape == (4, 512, 4096)
  assert set(paper) == {"latent", "index", "ul2", "metaclip", "byt5"}


@pytest.mark.parametrize(
  "sizes, words",
  [
    ({"rows": 6}, r"global_batch is 6, .* over 4 groups .* nearest that does is 8"),
    ({"rows": 4, "accumulate": 2}, "accumulate=2; the nearest that does is 8"),
    ({"heads": 3}, "3 heads do not divide over tensor = 2; the nearest smaller that does is 1"),
    ({"tokens": 9}, "9 tokens do not divide over context x tensor = 2"),
  ],
)
def test_what_does_not_divide_is_told_with_the_nearest_that_does(sizes, words):
  good = {"rows": 8, "accumulate": 1, "tokens": 8, "heads": 4}
  mesh = make_mesh((2, 2, 1, 2))
  check_divides(mesh, **good)
  with pytest.raises(UserError, match=words):
    check_divides(mesh, **good | sizes)


@pytest.mark.parametrize(
  "change, words",
  [
    ({"config": tae.get_config("tiny")}, "'autoencoding' has no generator"),
    ({"price": 0.0}, "above 0"),
    ({"remat": "half"}, "'half' is unknown; known are none, full"),
    ({"slices": 0}, "slices is 0"),
    ({"topology": "v4:2x2"}, "write a chip"),
  ],
)
def test_mistakes_are_told_before_anything_is_compiled(change, words):
  arguments = {"config": _tiny(), "topology": "v5p:2x2x1"} | change
  with pytest.raises(UserError, match=words):
    plan(arguments.pop("config"), arguments.pop("topology"), **arguments)


@needs_libtpu
def test_a_mesh_has_to_take_every_device():
  for sizes, near in (((1, 2, 1, 1), "1,4,1,1"), ((1, 3, 1, 2), "1,2,1,2"), ((3, -1, 1, 1), "1,4")):
    with pytest.raises(UserError, match=f"has 4; give --mesh={near}"):
      plan_mesh("v5p:2x2x1", 1, sizes)
  assert plan_mesh("v5p:2x2x1", 1, (1, -1, 1, 2)).shape["fsdp"] == 2
  with pytest.raises(UserError, match="3x3x1' does not exist"):
    plan_mesh("v5p:3x3x1", 1, (1, -1, 1, 1))


@needs_libtpu
def test_slices_are_joined_along_data():
  mesh = plan_mesh("v5p:2x2x1", 2, (2, 2, 1, 2))
  assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {1}]
  with pytest.raises(UserError, match="data=1, which does not divide over 2 slices"):
    plan_mesh("v5p:2x2x1", 2, (1, 8, 1, 1))


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 2, 1, 2), (4, 1, 1, 1)])
def test_a_plan_agrees_with_itself(sizes):
  p = plan(_tiny(), "v5p:2x2x1", mesh=sizes, price=4.0)
  shards = sizes[1] * sizes[3]
  assert p.fits and "fits: peak" in plan_report.verdict(p)
  # Norms are whole on every device, and what is wide in one dimension only is split over one axis.
  assert 1 <= p.memory.params * 2**30 / (4 * p.parameters / shards) < 1.25
  assert p.memory.optimizer == pytest.approx(2 * p.memory.params, rel=0.01)
  assert p.memory.ema == p.memory.params
  assert p.memory.temporaries > 0 and p.memory.peak < p.memory.limit
  along = {axis for c in p.collectives for axis in c.axes}
  assert along == {axis for axis, size in p.mesh.items() if size > 1}
  assert 0 < p.bound.mfu_serial <= p.bound.mfu_overlapped <= 1
  assert json.loads(json.dumps(p.to_dict()))["bound"]["cost"] > 0
  assert "bounds from published peak rates, not measurements" in plan_report.text(p)
  assert plan_report.row(p).count("|") == 11


@needs_libtpu
@pytest.mark.slow
def test_what_the_compiler_refuses_does_not_fit():
  config = _tiny(global_batch=4, frames=256, height=512, width=512)
  config.model.dit.update(layers=12, width=4096, heads=32, mlp_dim=16384, max_thw=(32, 32, 32))
  p = plan(config, "v5e:2x2", mesh=(1, 4, 1, 1))
  assert not p.fits and p.bound is None and p.memory.peak is None
  assert "RESOURCE_EXHAUSTED" in p.refusal and "does not fit: " in plan_report.verdict(p)


@needs_libtpu
@pytest.mark.slow
def test_the_papers_model_fits_128_chips():
  config = t2v_768.get_config()
  config.data.global_batch = 16
  p = plan(config, "v5p:4x4x8", mesh=(1, 16, 1, 8), remat="full")
  assert p.tokens >= 73_728 and p.memory.peak < 0.9 * p.memory.limit
  assert p.model_flops == pytest.approx(p.formula_flops, rel=0.1)
  assert math.isclose(p.hardware_flops / p.model_flops, 4 / 3, rel_tol=0.1)
  assert {c.axes for c in p.collectives} >= {("fsdp",), ("tensor",)}
  assert jax.default_backend() == "cpu"
