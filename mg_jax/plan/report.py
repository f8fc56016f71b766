"""A plan as text: a report for a terminal, and a table row for the docs."""

import math
from collections.abc import Mapping
from typing import Any

GB = 1e9
# Leaves room for fragmentation, the runtime and the next version of the compiler.
COMFORT = 0.9
# Display names of the networks.
NETWORKS = {"ici": "ICI", "dcn": "DCN", "nvlink": "NVLink", "infiniband": "InfiniBand"}


def verdict(plan: Mapping[str, Any]) -> str:
  """One line: fits, fits with little room, or does not fit, and why; from `Plan.to_dict()`."""
  memory = plan["memory"]
  if plan["fits"]:
    share = memory["peak"] / memory["limit"]
    return (
      f"fits: peak {memory['peak']:.2f} of {memory['limit']:.2f} GiB ({share:.0%})"
      + ("" if share <= COMFORT else f"; more than {COMFORT:.0%} leaves little room")
    )
  why = plan["refusal"] or f"peak {memory['peak']:.2f} of {memory['limit']:.2f} GiB"
  return f"does not fit: {why}; {_advice(plan)}"


def _advice(plan: Mapping[str, Any]) -> str:
  if plan["what"] != "train":
    return "try smaller tiles, more tensor or context parallelism, or more devices"
  rows = plan["rows"] // plan["accumulate"] // (plan["mesh"]["data"] * plan["mesh"]["fsdp"])
  if rows > 1:
    return (
      f"--config.train.accumulate={plan['accumulate'] * rows} processes 1 row at a time instead "
      f"of {rows}"
    )
  return "try --remat=full, more tensor or context parallelism, or more devices"


def text(plan: Mapping[str, Any]) -> str:
  """The full report; from `Plan.to_dict()`."""
  return "\n".join([
    *_head(plan), "", verdict(plan), "", *_memory(plan), *_collectives(plan), "", *_flops(plan),
    *_bound(plan),
  ])  # fmt: skip


def _head(plan) -> list[str]:
  mesh = " x ".join(f"{name} {size}" for name, size in plan["mesh"].items())
  frames, height, width = plan["clip"]
  slices = f" x {plan['slices']} slices" if plan["slices"] > 1 else ""
  notes = [f"remat {plan['remat']}"] if plan["what"] == "train" and plan["remat"] else []
  notes += [f"attention over context by {plan['scheme']}"] if plan["scheme"] else []
  if plan["what"] == "train":
    notes += [f"global batch {plan['rows']} in {plan['accumulate']} microbatch(es)"]
    what = "largest bucket"
  else:
    unit = "branches of guidance" if plan["what"] == "sample" else "tiles"
    notes += [f"{plan['rows']} {unit} at once, {plan['calls']} call(s) per clip"]
    what = "clip" if plan["what"] == "sample" else "tile"
  tokens = f"{plan['tokens']:,} tokens; " if plan["tokens"] else ""
  layers = f", {plan['block_parameters']:,} of them in layers" if plan["block_parameters"] else ""
  return [
    f"{plan['experiment']}, {plan['what']}, on {plan['topology']}{slices}: {plan['devices']} "
    "devices",
    f"mesh {mesh}; {'; '.join(notes)}",
    f"{what} {frames} x {height} x {width}: {tokens}{plan['parameters']:,} parameters{layers}",
    f"traced and compiled in {plan['compile_s']:.0f} s" + (", quickly" if plan["quick"] else ""),
  ]


def _memory(plan) -> list[str]:
  rows = (
    ("parameters", "params"), ("optimizer state", "optimizer"), ("averaged weights (EMA)", "ema"),
    ("batch", "batch"), ("activations and temporaries", "temporaries"), ("peak", "peak"),
  )  # fmt: skip
  lines = ["memory per device                    GiB"]
  for name, key in rows:
    value = plan["memory"][key]
    lines.append(f"  {name:<32} {'-' if value is None else format(value, '.3f'):>8}")
  return lines


def _collectives(plan) -> list[str]:
  if not plan["collectives"]:
    return []
  head = (
    f"collectives per {'step' if plan['what'] == 'train' else 'call'}      axes          network"
    "       count  result GB    sent GB  between GB  overlapped"
  )
  return ["", head] + [
    f"  {c['kind']:<23} {'+'.join(c['axes']):<13} {NETWORKS[c['network']]:<11} {c['count']:>7} "
    f"{c['result_bytes'] / GB:>10.3f} {c['sent_bytes'] / GB:>10.3f} {c['outer_bytes'] / GB:>11.3f} "
    + ("          -" if plan["quick"] else f"{c['overlapped']:>10.0%}")
    for c in plan["collectives"]
  ]


def _flops(plan) -> list[str]:
  line = (
    f"FLOPs per {'step' if plan['what'] == 'train' else 'call'}: {plan['model_flops']:.3e} of the "
    f"model, {plan['hardware_flops']:.3e} with recomputation"
  )
  if plan["formula_flops"]:
    ratio = plan["model_flops"] / plan["formula_flops"]
    formula = "6 N tokens + 12 L D s^2" if plan["what"] == "train" else "2 N tokens + 4 L D s^2"
    line += f"; {formula} gives {plan['formula_flops']:.3e} (ratio {ratio:.3f})"
  return [line]


def _bound(plan) -> list[str]:
  b = plan["bound"]
  if b is None:
    return []
  fast, slow = (NETWORKS[name] for name in plan["networks"])
  times = [("all communication hidden", "overlapped"), ("none hidden", "serial")]
  if not plan["quick"]:
    times.insert(1, ("overlap of the schedule hidden", "scheduled"))
  lines = [
    f"least time: matrix unit {b['matmul_s']:.3f} s, HBM {b['hbm_s']:.3f} s, {fast} "
    f"{b['ici_s']:.3f} s, {slow} {b['dcn_s']:.3f} s",
    *(
      f"{name}: at least {b[f'{key}_s']:.3f} s, MFU at most {b[f'mfu_{key}']:.1%}"
      for name, key in times
    ),
    f"at most {b['samples_s']:.3f} samples/s"
    + (f", {b['tokens_s']:,.0f} tokens/s" if plan["tokens"] else ""),
  ]
  if b["cost"] is not None:
    lines.append(
      f"cost at least {b['cost']:.2f} per step, {b['cost_per_million']:,.0f} per million samples"
    )
  return lines + [_CAVEAT]


# The page of plans leaves times out until the model is correct.
_CAVEAT = (
  "These are bounds from published peak rates, not measurements: runs are slower. They are under "
  "revision: they undercount products of attention's backward pass on TPUs and bytes of HBM, and "
  "count links of a torus that a mesh axis cannot use."
)
ROW_HEAD = (
  "| pod | devices | mesh | remat | batch | peak GiB, of | fits | sent GB: fast / slow network | "
  "planned in |"
)


def row(plan: Mapping[str, Any]) -> str:
  """The plan as a row of a Markdown table, under ROW_HEAD; from `Plan.to_dict()`."""
  memory = plan["memory"]
  mesh = ",".join(map(str, plan["mesh"].values())) + (plan["scheme"] and f" {plan['scheme']}")
  peak = "-" if memory["peak"] is None else f"{memory['peak']:.1f}"
  share = "" if memory["peak"] is None else f" ({memory['peak'] / memory['limit']:.0%})"
  micro = f" / {plan['accumulate']}" if plan["accumulate"] > 1 else ""
  batch = f"{plan['rows']}{micro}" + (f", {plan['calls']} calls" if plan["calls"] > 1 else "")
  sent = (sum(c[key] for c in plan["collectives"]) for key in ("sent_bytes", "outer_bytes"))
  sent = " / ".join(_digits(size / GB) for size in sent) if memory["peak"] is not None else "-"
  pod = plan["topology"] + (f" x {plan['slices']}" if plan["slices"] > 1 else "")
  return (
    f"| {pod} | {plan['devices']} | {mesh} | {plan['remat'] or '-'} | {batch} | {peak} of "
    f"{memory['limit']:.1f}{share} | {'yes' if plan['fits'] else 'no'} | {sent} | "
    f"{plan['compile_s']:.0f} s{', quick' if plan['quick'] else ''} |"
  )


def _digits(value: float) -> str:
  """Three significant digits from 0.01 on."""
  if value < 0.005:
    return "0"
  return f"{value:.{max(0, min(2, 2 - math.floor(math.log10(value))))}f}"
