"""Plans as text: everything that is known, and nothing that is not."""

import copy

import pytest

from mg_jax.plan import report as plan_report

PLAN = {
  "what": "train", "experiment": "t2v", "topology": "v5p:4x4x8", "chip": "v5p", "slices": 1,
  "devices": 128, "mesh": {"data": 1, "fsdp": 16, "context": 1, "tensor": 8}, "remat": "full",
  "scheme": "", "rows": 64, "accumulate": 2, "calls": 1, "clip": [256, 672, 880], "tokens": 73920,
  "parameters": 1000, "block_parameters": 900, "quick": False, "fits": True, "refusal": "",
  "memory": {
    "params": 1.0, "optimizer": 2.0, "ema": 1.0, "batch": 0.1, "temporaries": 15.9, "peak": 20.0,
    "limit": 95.0,
  },
  "collectives": [{
    "kind": "all-gather", "axes": ["data", "fsdp"], "count": 3, "result_bytes": 4e9,
    "sent_bytes": 3e9, "outer_bytes": 5e8, "network": "dcn", "overlapped": 0.25,
  }],
  "networks": ["ici", "dcn"], "model_flops": 2e15, "hardware_flops": 3e15, "formula_flops": 2.5e15,
  "bound": {
    "matmul_s": 12.09, "hbm_s": 0.2, "ici_s": 1.5, "dcn_s": 0.0, "overlapped_s": 12.09,
    "scheduled_s": 13.0, "serial_s": 13.59, "mfu_overlapped": 0.695, "mfu_scheduled": 0.65,
    "mfu_serial": 0.6, "samples_s": 1.3, "tokens_s": 97000.0, "cost": None,
    "cost_per_million": None,
  },
  "compile_s": 844.0, "versions": {"jax": "0.12.0", "libtpu": "0.0.50"},
}  # fmt: skip


def _changed(**changes):
  plan = copy.deepcopy(PLAN)
  for path, value in changes.items():
    *parents, last = path.split("__")
    place = plan
    for parent in parents:
      place = place[parent]
    place[last] = value
  return plan


def test_what_fits_says_how_well():
  assert plan_report.verdict(PLAN) == "fits: peak 20.00 of 95.00 GiB (21%)"
  assert "leaves little room" in plan_report.verdict(_changed(memory__peak=90.0))


@pytest.mark.parametrize(
  "changes, words",
  [
    ({}, "peak 20.00 of 95.00 GiB; --config.train.accumulate=4 processes 1 row at a time"),
    ({"rows": 32}, "--remat=full, more tensor or context"),
    ({"what": "decode"}, "smaller tiles"),
    ({"refusal": "RESOURCE_EXHAUSTED: 18G", "memory__peak": None}, "RESOURCE_EXHAUSTED: 18G; "),
  ],
)
def test_what_does_not_fit_says_why_and_what_to_do(changes, words):
  line = plan_report.verdict(_changed(fits=False, **changes))
  assert line.startswith("does not fit: ") and words in line


def test_everything_is_told():
  text = plan_report.text(PLAN)
  for words in (
    "t2v, train, on v5p:4x4x8: 128 devices", "remat full; global batch 64 in 2 microbatch(es)",
    "largest bucket 256 x 672 x 880: 73,920 tokens; 1,000 parameters, 900 of them in layers",
    "optimizer state                     2.000", "data+fsdp     DCN", "25%",
    "6 N tokens + 12 L D s^2 gives 2.500e+15 (ratio 0.800)", "ICI 1.500 s, DCN 0.000 s",
    "overlap of the schedule hidden: at least 13.000 s, MFU at most 65.0%",
    "at most 1.300 samples/s, 97,000 tokens/s", "bounds from published peak rates, not measur",
    "They are under revision",
  ):  # fmt: skip
    assert words in text
  assert "cost" not in text and "slices" not in text


def test_what_is_not_known_is_left_out():
  quick = plan_report.text(_changed(quick=True))
  assert "schedule" not in quick and "25%" not in quick and ", quickly" in quick
  refused = _changed(bound=None, collectives=[], memory__peak=None, memory__temporaries=None,
                     fits=False, refusal="no")  # fmt: skip
  assert "least time" not in plan_report.text(refused)
  assert "peak                                    -" in plan_report.text(refused)
  tiles = plan_report.text(
    _changed(what="decode", formula_flops=None, tokens=0, calls=4, remat="", block_parameters=0)
  )
  assert "64 tiles at once, 4 call(s) per clip" in tiles and "tokens" not in tiles
  assert "cost at least 3.00 per step" in plan_report.text(
    _changed(bound__cost=3.0, bound__cost_per_million=5.0)
  )


def test_a_row_has_the_columns_of_its_head():
  head = plan_report.ROW_HEAD.count("|")
  for plan in (PLAN, _changed(quick=True), _changed(bound=None, memory__peak=None)):
    assert plan_report.row(plan).count("|") == head
  row = plan_report.row(_changed(slices=2))
  assert "| v5p:4x4x8 x 2 | 128 | 1,16,1,8 | full | 64 / 2 | 20.0 of 95.0 (21%) | yes |" in row
  assert "| yes | 3.00 / 0.50 | 844 s |" in row and "%" not in row.split("| yes")[1]
  assert "| 844 s, quick |" in plan_report.row(_changed(quick=True))
  assert "| 123 / 0 |" in plan_report.row(
    _changed(collectives=[PLAN["collectives"][0] | {"sent_bytes": 123.4e9, "outer_bytes": 1e5}])
  )
  assert "| 1,16,1,8 ring | full |" in plan_report.row(_changed(scheme="ring"))
