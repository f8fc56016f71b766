"""Plans of small models: numbers that agree with each other, and mistakes that are told."""

import dataclasses
import importlib.util
import json
import math

import jax
import pytest

from experiments import t2v_256, t2v_768, tae
from mg_jax.core.cuda_target import installed
from mg_jax.core.errors import UserError
from mg_jax.core.topology import Pod, gpu_pod, tpu_pod
from mg_jax.plan import planner as plan_module
from mg_jax.plan import report as plan_report
from mg_jax.plan.planner import check, plan

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="the TPU compiler (libtpu) is not installed"
)
needs_cuda = pytest.mark.skipif(
  not installed(), reason="the compiler for GPUs (jax's CUDA plugin and cuDNN) is not installed"
)


def _tiny(**data):
  config = t2v_256.get_config("tiny")
  config.model.dit.update(layers=2, unroll=1, width=128, mlp_dim=256)
  config.model.encoders.text.update(layers=1)
  config.data.update(data)
  return config


@pytest.mark.parametrize(
  "change, words",
  [
    ({"price": 0.0}, "above 0"),
    ({"remat": "half"}, "'half' is unknown; known are none, full"),
    ({"config": tae.get_config("tiny"), "remat": "full"}, "no layers to rematerialise"),
    ({"what": "evaluate"}, "--what=evaluate is unknown; known are train, sample, encode, decode"),
    ({"size": {"frames": 8}}, "apply to a clip to sample or to code"),
    ({"what": "sample", "size": {"frames": 0}}, "--frames=0: give at least 1"),
    ({"config": {"stage": "curation"}}, "the config has no model to plan"),
    ({"mesh": (1, 3, 1, 1)}, "takes 3 devices, v5p:2x2x1 x 1 has 4; give --mesh=1,4,1,1"),
  ],
)
def test_mistakes_are_told_before_anything_is_compiled(change, words):
  pod = Pod("v5p:2x2x1", "v5p", "tpu", jax.devices()[:4], 1, 95.0, ("ici", "dcn"))
  arguments = {"config": _tiny(), **change}
  with pytest.raises(UserError, match=words):
    plan(arguments.pop("config"), pod, **arguments)


def test_what_can_be_planned_gives_the_generators_fields():
  assert check({"model": {"dit": {"width": 8}}}, what="train", remat="full") == {"width": 8}
  assert check({"model": {"channels": 8}}, what="decode", size={"height": 8}) == {}


def test_less_effort_is_an_option_of_this_jax():
  lowered = jax.jit(lambda x: x + 1).lower(1.0)
  assert lowered.compile(compiler_options=plan_module._QUICK)(1.0) == 2.0


def _agrees(p, sizes):
  shards = sizes[1] * sizes[3]
  assert p.fits and "fits: peak" in plan_report.verdict(p.to_dict())
  # Norms are whole on every device, and what is wide in one dimension only is split over one axis.
  assert 1 <= p.memory.params * 2**30 / (4 * p.parameters / shards) < 1.25
  assert p.memory.optimizer == pytest.approx(2 * p.memory.params, rel=0.01)
  assert p.memory.ema == p.memory.params
  assert p.memory.temporaries > 0 and p.memory.peak < p.memory.limit
  along = {axis for c in p.collectives for axis in c.axes}
  assert along == {axis for axis, size in p.mesh.items() if size > 1}
  assert all(0 <= c.overlapped <= 1 for c in p.collectives)
  assert 0 < p.bound.mfu_serial <= p.bound.mfu_scheduled <= p.bound.mfu_overlapped <= 1
  assert json.loads(json.dumps(p.to_dict()))["bound"]["cost"] > 0


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 2, 1, 2), (4, 1, 1, 1), (1, 2, 2, 1)])
def test_a_plan_agrees_with_itself(sizes):
  p = plan(_tiny(), tpu_pod("v5p:2x2x1"), mesh=sizes, price=4.0)
  _agrees(p, sizes)
  assert p.scheme == ("gather" if sizes[2] > 1 else "")
  assert {c.network for c in p.collectives} == {"ici"}


@needs_libtpu
@pytest.mark.slow
def test_what_the_compiler_refuses_does_not_fit():
  config = _tiny(global_batch=4, frames=256, height=512, width=512)
  config.model.dit.update(layers=12, width=4096, heads=32, mlp_dim=16384, max_thw=(32, 32, 32))
  p = plan(config, tpu_pod("v5e:2x2"), mesh=(1, 4, 1, 1))
  assert not p.fits and p.bound is None and p.memory.peak is None
  assert "RESOURCE_EXHAUSTED" in p.refusal
  assert "does not fit: " in plan_report.verdict(p.to_dict())


def test_products_that_triton_cannot_tile_are_left_to_others():
  class Lowered:
    def compile(self, compiler_options):
      if able and compiler_options.get("xla_gpu_enable_triton_gemm") is False:
        return compiler_options
      raise jax.errors.JaxRuntimeError("INTERNAL: Couldn't find output tile sizes that satisfy")

  able = True
  options, refusal = plan_module._compile(Lowered(), {"a": 1})
  assert options["a"] == 1 and not refusal
  able = False
  with pytest.raises(jax.errors.JaxRuntimeError, match="tile sizes"):
    plan_module._compile(Lowered(), {"a": 1})


@needs_libtpu
def test_the_papers_model_fits_128_chips():
  config = t2v_768.get_config()
  config.data.global_batch = 16
  p = plan(config, tpu_pod("v5p:4x4x8"), mesh=(1, 16, 1, 8), remat="full", quick=True)
  assert p.tokens >= 73_728 and p.memory.peak < 0.9 * p.memory.limit
  assert p.model_flops == pytest.approx(p.formula_flops, rel=0.1)
  assert math.isclose(p.hardware_flops / p.model_flops, 4 / 3, rel_tol=0.1)
  assert {c.axes for c in p.collectives} >= {("fsdp",), ("tensor",)}
  assert jax.default_backend() == "cpu"


@needs_cuda
@pytest.mark.slow
def test_the_papers_model_fits_64_gpus():
  config = t2v_768.get_config()
  config.data.global_batch = 8
  pod = gpu_pod("h200", gpus=64, hosts=8)
  # The compiler for GPUs refuses nothing: a card that is too small is found by its peak.
  small = dataclasses.replace(pod, memory_gib=20.0)
  p = plan(config, small, mesh=(1, 8, 1, 8), remat="full", price=4.0)
  assert p.tokens >= 73_728 and 20.0 < p.memory.peak < 0.9 * pod.memory_gib
  assert not p.fits and not p.refusal
  assert "does not fit: peak" in plan_report.verdict(p.to_dict())
  assert p.bound.mfu_overlapped > 0.65 and p.bound.overlapped_s < p.bound.scheduled_s
  networks = {c.axes: c.network for c in p.collectives}
  assert networks["tensor",] == "nvlink" and networks["fsdp",] == "infiniband"
