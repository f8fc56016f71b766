"""Collectives read off small texts in the compiler's forms."""

import pytest

from mg_jax.plan import collectives
from mg_jax.plan.collectives import Collective

MESH = {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}


def _program(*entry, body=(), condition="  %c = s32[]{:T(128)} constant(6)", extra=""):
  loop = "\n".join(body)
  lines = "\n".join(entry)
  return f"""HloModule jit_step, num_partitions=8

%body.1 (p.0: (s32[], f32[4])) -> (s32[], f32[4]) {{
{loop}
}}

%condition.1 (p.1: (s32[], f32[4])) -> pred[] {{
{condition}
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}}
{extra}
ENTRY %main (a: f32[4]) -> f32[4] {{
{lines}
}}
"""


LOOP = (
  "  %w = (s32[]{:T(128)}, /*index=1*/f32[4]{0:T(256)}) while(%t), condition=%condition.1, "
  "body=%body.1"
)
GATHER = (
  "  %g = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=1, "
  "replica_groups=[4,2]<=[8], dimensions={0}"
)


def _read(text, **kwargs):
  return collectives.read(text, MESH, **kwargs)


def test_a_gather_over_one_axis():
  assert _read(_program(GATHER)) == (
    Collective("all-gather", ("tensor",), 1, 256, 128.0, 0.0, "ici", 0.0),
  )


@pytest.mark.parametrize(
  "groups, axes",
  [
    ("[4,2]<=[8]", ("tensor",)),
    ("[4,2]<=[2,2,2]T(0,2,1)", ("fsdp",)),
    ("[4,2]<=[2,4]T(1,0)", ("data",)),
    ("[2,4]<=[8]", ("fsdp", "tensor")),
    ("{{0,2,4,6},{1,3,5,7}}", ("data", "fsdp")),
    ("mesh['axis_0'=4,'axis_1'=2,'axis_2'=1] {'axis_0'}", ("data", "fsdp")),
    ("mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", ("tensor",)),
    ("{}", ("data", "fsdp", "tensor")),
  ],
)
def test_axes_follow_from_the_groups(groups, axes):
  text = _program(GATHER.replace("[4,2]<=[8]", groups))
  assert [c.axes for c in _read(text)] == [axes]


def test_what_a_device_sends():
  groups = "replica_groups=[2,4]<=[8]"
  sent = {
    c.kind: (c.result_bytes, c.sent_bytes)
    for c in _read(_program(
      f"  %a = (f32[100]{{0}}, bf16[200]{{0}}) all-reduce(%x, %y), {groups}, to_apply=%add",
      f"  %b = f32[100]{{0}} reduce-scatter(%x), {groups}, dimensions={{0}}, to_apply=%add",
      f"  %c = f32[100]{{0}} all-to-all(%x), {groups}",
      "  %d = f32[100]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}",
    ))
  }  # fmt: skip
  assert sent == {
    "all-reduce": (800, 1200.0), "reduce-scatter": (400, 1200.0), "all-to-all": (400, 300.0),
    "collective-permute": (400, 400.0),
  }  # fmt: skip


def test_loops_count_as_often_as_they_run():
  (found,) = _read(_program(GATHER, LOOP, body=[GATHER, GATHER]))
  assert found.count == 1 + 2 * 6 and found.result_bytes == 13 * 256
  known = LOOP + ', backend_config={"known_trip_count":{"n":"9"}}'
  assert _read(_program(known, body=[GATHER]))[0].count == 9


def test_a_loop_that_does_not_tell_is_an_error_only_where_it_matters():
  silent = {"condition": "  %c = s32[] parameter(0)"}
  assert _read(_program(LOOP, **silent)) == ()
  with pytest.raises(ValueError, match="no known trip count"):
    _read(_program(LOOP, body=[GATHER], **silent))


def test_asynchronous_collectives_count_once():
  (found,) = _read(_program(
    "  %s = (f32[4]{0}, f32[8]{0}, u32[], u32[]) all-gather-start(%x), replica_groups=[4,2]<=[8]",
    "  %d = f32[8]{0} all-gather-done(%s)",
  ))  # fmt: skip
  assert (found.count, found.result_bytes) == (1, 32)


def test_a_fused_reduce_scatter_is_no_all_reduce():
  fused = """
%all-reduce-scatter.3 (p: f32[100]) -> f32[25] {
  %r = f32[100]{0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %s = f32[25]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={25}
}
"""
  call = "  %f = f32[25]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3"
  (found,) = _read(_program(call, extra=fused))
  assert (found.kind, found.result_bytes, found.sent_bytes) == ("reduce-scatter", 100, 300.0)


def test_texts_of_embedded_kernels_end_no_computation():
  kernel = ["  %k = f32[4] custom-call(%x), backend_config={\"code\": \"func {", "}\"}", GATHER]
  assert _read(_program(LOOP, body=kernel))[0].count == 6


def test_starts_of_several_arrays_and_of_scatters_count_their_results():
  found = {c.kind: c.result_bytes for c in _read(_program(
    "  %s = ((f32[1,4]{1,0}, bf16[2]{0}), (f32[2,4]{1,0}, bf16[4]{0})) all-gather-start(%x, %y), "
    "replica_groups=[4,2]<=[8]",
    "  %r = ((f32[8]{0}), f32[4]{0}) reduce-scatter-start(%x), replica_groups=[4,2]<=[8]",
  ))}  # fmt: skip
  assert found == {"all-gather": 40, "reduce-scatter": 16}


HALVES = [0, 0, 0, 0, 1, 1, 1, 1]  # "data" joins two islands


def test_only_groups_across_islands_use_the_slow_network():
  across = GATHER.replace("[4,2]<=[8]", "[4,2]<=[2,4]T(1,0)")
  found = {c.axes: c for c in _read(_program(GATHER, across), islands=HALVES)}
  inside, between = found["tensor",], found["data",]
  assert (inside.network, inside.sent_bytes, inside.outer_bytes) == ("ici", 128.0, 0.0)
  assert (between.network, between.sent_bytes, between.outer_bytes) == ("dcn", 0.0, 128.0)


def test_members_of_an_island_share_what_goes_between():
  groups = "replica_groups=[1,8]<=[8]"
  found = {
    c.kind: (c.sent_bytes, c.outer_bytes)
    for c in _read(_program(
      f"  %g = f32[400]{{0}} all-gather(%x), {groups}",
      f"  %a = f32[400]{{0}} all-reduce(%x), {groups}, to_apply=%add",
      f"  %s = f32[50]{{0}} reduce-scatter(%x), {groups}, to_apply=%add",
      f"  %t = f32[400]{{0}} all-to-all(%x), {groups}",
    ), islands=HALVES, networks=("nvlink", "infiniband"))
  }  # fmt: skip
  # Of 1600 bytes half has to cross, a quarter of it from each of four; then three quarters travel.
  assert found == {
    "all-gather": (1200.0, 200.0), "all-reduce": (2400.0, 400.0),
    "reduce-scatter": (1200.0, 200.0), "all-to-all": (600.0, 800.0),
  }  # fmt: skip


def test_a_permutation_may_use_both_networks():
  pairs = "source_target_pairs={{0,4},{4,1},{1,0}}"
  (found,) = _read(_program(f"  %p = f32[10]{{0}} collective-permute(%x), {pairs}"), islands=HALVES)
  assert (found.sent_bytes, found.outer_bytes, found.network) == (40.0, 40.0, "dcn")


def test_bytes_beside_work_are_told_from_others():
  start = "  %s = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[4,2]<=[8]"
  done = "  %d = f32[8]{0} all-gather-done(%s)"
  work = "  %c = f32[8,8]{1,0} convolution(%a, %b), dim_labels=bf_io->bf"
  (hidden,), (shown,) = _read(_program(start, work, done)), _read(_program(start, done, work))
  assert (hidden.overlapped, shown.overlapped) == (1.0, 0.0)
  both = _read(_program(start, work, done, GATHER.replace("bf16[8,16]", "f32[8]")))[0]
  assert both.overlapped == 0.5
