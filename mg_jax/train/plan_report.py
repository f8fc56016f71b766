"""A plan as text: one table for a terminal, and one row of a table for the docs."""

from mg_jax.train.plan import Plan

GB = 1e9
# Fragmentation, the runtime and a next version of the compiler want some room.
COMFORT = 0.9


def verdict(plan: Plan) -> str:
  """One line: fits, fits with little room, or does not fit, and why."""
  if plan.fits:
    share = plan.memory.peak / plan.memory.limit
    return f"fits: peak {plan.memory.peak:.2f} of {plan.memory.limit:.2f} GiB ({share:.0%})" + (
      "" if share <= COMFORT else f"; more than {COMFORT:.0%} leaves little room"
    )
  rows = plan.global_batch // plan.accumulate // (plan.mesh["data"] * plan.mesh["fsdp"])
  advice = (
    f"--config.train.accumulate={plan.accumulate * rows} would take 1 row at a time instead of "
    f"{rows}"
    if rows > 1
    else "--remat=full, more tensor or context parallelism, or more devices would take less"
  )
  why = plan.refusal or f"peak {plan.memory.peak:.2f} of {plan.memory.limit:.2f} GiB"
  return f"does not fit: {why}; {advice}"


def text(plan: Plan) -> str:
  """Everything that is known, for people."""
  mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
  frames, height, width = plan.clip
  lines = [
    f"{plan.experiment} on {plan.topology} x {plan.slices} slice(s): {plan.devices} devices",
    f"mesh {mesh}; remat {plan.remat}; global batch {plan.global_batch} in {plan.accumulate} "
    "microbatch(es)",
    f"largest bucket {frames} x {height} x {width}: {plan.tokens:,} tokens; "
    f"{plan.parameters:,} parameters, {plan.block_parameters:,} of them in layers",
    f"lowered and compiled in {plan.compile_s:.0f} s",
    "",
    verdict(plan),
    "",
    "memory of one device                 GiB",
    *(
      f"  {name:<32} {'-' if value is None else format(value, '.3f'):>8}"
      for name, value in (
        ("parameters", plan.memory.params),
        ("optimizer state", plan.memory.optimizer),
        ("averaged weights (EMA)", plan.memory.ema),
        ("batch", plan.memory.batch),
        ("activations and temporaries", plan.memory.temporaries),
        ("peak", plan.memory.peak),
      )
    ),
  ]
  if plan.collectives:
    lines += ["", "collectives of one step   axes          network   count  result GB    sent GB"]
    lines += [
      f"  {c.kind:<23} {'+'.join(c.axes):<13} {c.network:<7} {c.count:>7} "
      f"{c.result_bytes / GB:>10.3f} {c.sent_bytes / GB:>10.3f}"
      for c in plan.collectives
    ]
  ratio = plan.model_flops / plan.formula_flops
  lines += [
    "",
    f"FLOPs of a step: {plan.model_flops:.3e} of the model, {plan.hardware_flops:.3e} with "
    f"recomputation; 6 N tokens + 12 L D s^2 gives {plan.formula_flops:.3e} (ratio {ratio:.3f})",
  ]
  if plan.bound is not None:
    b = plan.bound
    lines += [
      f"least time: matrix unit {b.matmul_s:.3f} s, HBM {b.hbm_s:.3f} s, ICI {b.ici_s:.3f} s, "
      f"DCN {b.dcn_s:.3f} s",
      f"step at least {b.overlapped_s:.3f} s (MFU at most {b.mfu_overlapped:.1%}) with "
      f"communication hidden, {b.serial_s:.3f} s (MFU at most {b.mfu_serial:.1%}) with none hidden",
      f"at most {b.samples_s:.3f} samples/s, {b.tokens_s:,.0f} tokens/s",
    ]
    if b.cost is not None:
      lines.append(
        f"cost at least {b.cost:.2f} a step, {b.cost_per_million:,.0f} a million samples"
      )
    lines.append("These are bounds from published peak rates, not measurements: runs are slower.")
  return "\n".join(lines)


def row(plan: Plan) -> str:
  """The plan as a row of a Markdown table."""
  mesh = ",".join(str(size) for size in plan.mesh.values())
  peak = "-" if plan.memory.peak is None else f"{plan.memory.peak:.1f}"
  limits = "-" if plan.bound is None else (
    f"{plan.bound.overlapped_s:.2f} / {plan.bound.serial_s:.2f}"
  )
  slices = f" x {plan.slices}" if plan.slices > 1 else ""
  return (
    f"| {plan.topology}{slices} | {plan.devices} | {mesh} | {plan.remat} | {plan.global_batch} | "
    f"{plan.accumulate} | {peak} of {plan.memory.limit:g} | {'yes' if plan.fits else 'no'} | "
    f"{limits} | {plan.compile_s:.0f} |"
  )
