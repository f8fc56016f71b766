"""What runs beside what, in small texts of the compilers' forms."""

import pytest

from mg_jax.plan.hlo import Module

KERNEL = '  %k = f32[8] custom-call(%a), custom_call_target="tpu_custom_call"'
PRODUCT = "  %c = f32[8,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}"
CHEAP = "  %m = f32[8]{0} add(%a, %b)"
START = "  %s.1 = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), channel_id=1"
DONE = "  %d = f32[8]{0} all-gather-done(%s.1)"


def _module(*entry, **computations):
  text = "HloModule jit_step, is_scheduled=true\n"
  for name, lines in computations.items():
    text += f"\n%{name} (p: f32[4]) -> f32[4] {{\n" + "\n".join(lines) + "\n}\n"
  return Module(text + "\nENTRY %main (a: f32[4]) -> f32[4] {\n" + "\n".join(entry) + "\n}\n")


def _beside(module, name="main"):
  return [found.overlapped for found in module.collectives(name)]


@pytest.mark.parametrize(
  "lines, beside",
  [
    ((START, PRODUCT, DONE), True),
    ((START, KERNEL, DONE), True),
    ((START, CHEAP, DONE), False),
    ((START, DONE, PRODUCT), False),
    ((PRODUCT, START, DONE), False),
    (("  %s = f32[8]{0} all-gather(%x)", PRODUCT), False),
  ],
)
def test_work_between_start_and_end_hides_a_collective(lines, beside):
  assert _beside(_module(*lines)) == [beside]


def test_work_in_a_fusion_or_a_loop_counts():
  fusion = "  %f = f32[8]{0} fusion(%a), kind=kOutput, calls=%fused"
  loop = "  %w = f32[8]{0} while(%a), condition=%cond, body=%fused"
  for line in (fusion, loop):
    assert _beside(_module(START, line, DONE, fused=[PRODUCT], cond=[])) == [True]
    assert _beside(_module(START, line, DONE, fused=[CHEAP], cond=[])) == [False]


def test_a_collective_that_is_wrapped_is_as_asynchronous_as_its_wrapper():
  wrapped = {"async": ["  %r = f32[4]{0} reduce-scatter(%p), channel_id=3"]}
  start = "  %s = ((f32[8]{0}), f32[4]{0}) async-start(%x), calls=%async"
  done = "  %d = f32[4]{0} async-done(%s)"
  assert _beside(_module(start, PRODUCT, done, **wrapped)) == [True]
  assert _beside(_module(start, done, PRODUCT, **wrapped)) == [False]


def test_the_steps_of_a_fused_collective_are_one():
  gather = "  %g = f32[8]{0} all-gather(%p), channel_id=7"
  steps = {"first": [gather], "second": [gather, PRODUCT], "third": [gather]}
  calls = [f"  %f.{n} = f32[8]{{0}} fusion(%a), calls=%{n}" for n in steps]
  assert _beside(_module(*calls, **steps)) == [True]
  other = {**steps, "third": [gather.replace("=7", "=8")]}
  assert sorted(_beside(_module(*calls, **other))) == [False, True]


def test_a_fused_scatter_is_told_however_deep_it_lies():
  reduce = "  %r = f32[8]{0} all-reduce(%p), to_apply=%add"
  inner = "  %i = f32[8]{0} fusion(%p), calls=%all-reduce-scatter.2"
  call = "  %f = f32[8]{0} fusion(%a), calls=%outer"
  module = _module(call, **{"outer": [inner], "all-reduce-scatter.2": [reduce]})
  assert [found.fused_scatter for found in module.collectives("main")] == [True]


def test_loops_and_branches_are_left_to_the_caller():
  lines = {"body": [START, DONE], "cond": [], "one": [START, DONE], "two": []}
  loop = (
    '  %w = f32[8]{0} while(%a), condition=%cond, body=%body, backend_config={"known_trip_count":'
    '{"n":"5"}}'
  )
  branch = "  %b = f32[8]{0} conditional(%p, %a, %a), branch_computations={%one, %two}"
  module = _module(loop, branch, **lines)
  assert module.collectives("main") == [] and list(module.branches("main")) == ["one", "two"]
  ((line, called),) = module.loops("main")
  assert module.trips(line) == 5 and [module.communicates(c) for c in called] == [False, True]
