"""Ahead-of-time compilation for a topology that is not attached: memory, collectives, time bounds.

The training step, a solver step of sampling or a tile of an autoencoder is compiled for the devices
of a pod, from shapes only and with the flags of its chip: the compiler's peak memory, collectives
and schedule are those of the real run. Nothing is executed, so speed is only bounded from above
(`plan.roofline`), never measured. [MG 3.1.6]
"""

import dataclasses
import re
import time
import typing
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core import flags
from mg_jax.core.chips import CHIPS, GIB
from mg_jax.core.errors import UserError
from mg_jax.core.remat import Policy
from mg_jax.core.topology import Pod
from mg_jax.kernels.platform import platform
from mg_jax.plan import collectives
from mg_jax.plan.inference import coding, sampling
from mg_jax.plan.program import Program, plan_mesh, section
from mg_jax.plan.roofline import Bound, bound, check_price
from mg_jax.plan.training import training

_QUICK = {"optimization_level": 9}  # O0; jax 0.10 only takes the number
_QUICK_TPU = {
  **_QUICK,
  # At this optimization level libtpu 0.0.42 crashes on some fusions of reduce-scatters.
  "xla_tpu_decompose_every_reduce_scatters_hlos": "true",
  # The more VMEM a fusion may use, the longer libtpu searches for tilings.
  "xla_tpu_scoped_vmem_limit_kib": "16384",
}
# With a GPU, XLA measures which products to give to Triton; without one it guesses, and fails with
# this message if Triton cannot tile a product (heads split from a length of 750).
_UNTILED, _NO_TRITON = "Couldn't find output tile sizes", {"xla_gpu_enable_triton_gemm": False}
WHAT = ("train", "sample", "encode", "decode")


@dataclasses.dataclass(frozen=True)
class Memory:
  """GiB on one device. `peak` and `temporaries` are None if the compiler rejected the program.

  Attributes:
    params, optimizer, ema: parts of the training state; frozen roles are among the params.
    batch: the step's inputs.
    temporaries: activations, gradients, gathered weights: the peak minus the above.
    peak: peak memory.
    limit: memory that a program may use.
  """

  params: float
  optimizer: float
  ema: float
  batch: float
  temporaries: float | None
  peak: float | None
  limit: float


@dataclasses.dataclass(frozen=True)
class Plan:
  """The plan of one call of a program on one pod.

  Attributes:
    what: one of WHAT.
    topology: name of the pod.
    scheme: how attention is split over "context", if the model offers a choice; else "".
    rows: samples per call, a batch; calls: solver steps or rounds of tiles per clip.
    quick: see `plan`.
    fits: whether the compiler accepts it and its peak is within the limit.
    refusal: the compiler's message if it rejects the program, else "".
    clip: (frames, height, width) of the largest bucket, or of a tile.
    tokens: video tokens per sample.
    parameters: all parameters; block_parameters: those in layers.
    model_flops: FLOPs per call without recomputation; hardware_flops: with it.
    formula_flops: 6 N tokens + 12 layers width tokens^2 per sample, for comparison, or None.
    networks: names of the fast and the slow network.
    compile_s: wall time of tracing, lowering and compiling on this machine.
    versions: versions of jax and of the compiler.
  """

  what: str
  experiment: str
  topology: str
  chip: str
  slices: int
  devices: int
  mesh: dict[str, int]
  remat: str
  scheme: str
  rows: int
  accumulate: int
  calls: int
  clip: tuple[int, int, int]
  tokens: int
  parameters: int
  block_parameters: int
  quick: bool
  fits: bool
  refusal: str
  memory: Memory
  collectives: tuple[collectives.Collective, ...]
  networks: tuple[str, str]
  model_flops: float
  hardware_flops: float
  formula_flops: float | None
  bound: Bound | None
  compile_s: float
  versions: dict[str, str]

  def to_dict(self) -> dict[str, Any]:
    """Plain values, for JSON."""
    return dataclasses.asdict(self)


def plan(
  config: Mapping[str, Any],
  pod: Pod,
  *,
  what: str = "train",
  mesh: Sequence[int] | None = None,
  remat: str = "",
  size: Mapping[str, int] | None = None,
  price: float | None = None,
  quick: bool = False,
) -> Plan:
  """Plans one call of an experiment's program.

  Args:
    config: config of the experiment.
    pod: the devices, see `core.topology`.
    what: "train" for a step at the largest bucket, "sample" for a guided solver step, "encode" or
      "decode" for tiles of a clip.
    mesh: sizes of (data, fsdp, context, tensor) instead of the config's.
    remat: policy instead of the config's.
    size: frames, height and width of the clip to sample or code, instead of the config's.
    price: price of a chip-hour.
    quick: compiles with less optimization: about half the time, a quarter on v6e and tpu7x, where
      fusions also get less VMEM. The peak then differs by the memory of overlap (15.0 instead of
      18.8 GiB in one case) and the collectives may differ; TPU schedules overlap nothing, so that
      part of the bound is left out.

  Raises:
    UserError: on anything that cannot be planned, with the nearest valid choice.
  """
  config, size = configs.to_dict(config), dict(size or {})
  check_price(price)
  dit = check(config, what=what, remat=remat, size=size)
  if remat:
    dit["remat"] = remat
  place = plan_mesh(pod, _mesh_sizes(config, what) if mesh is None else mesh)
  begin = time.monotonic()
  with platform(pod.platform):
    program = _program(config, place, what, size)
    options = flags.compiler_options(pod.chip)
    if quick:
      options |= _QUICK_TPU if pod.platform == "tpu" else _QUICK
    compiled, refusal = _compile(program.lower(), options)
  memory = _memory(program, compiled, pod.memory_gib)
  sent, limit = (), None
  if compiled is not None:
    sent = collectives.read(
      compiled.as_text(), place.shape, networks=pod.networks,
      islands=[pod.island(device) for device in place.devices.flat],
    )  # fmt: skip
    limit = _bound(program, compiled, sent, pod, price)
  return Plan(
    what=what, experiment=config["train"]["experiment"], topology=pod.name, chip=pod.chip,
    slices=pod.slices, devices=place.size, mesh=dict(place.shape), remat=dit.get("remat", ""),
    scheme=dit.get("context_parallel", "") if place.shape["context"] > 1 else "", rows=program.rows,
    accumulate=program.accumulate, calls=program.calls, clip=program.clip, tokens=program.tokens,
    parameters=program.parameters, block_parameters=program.block_parameters, quick=quick,
    fits=memory.peak is not None and memory.peak <= memory.limit, refusal=refusal, memory=memory,
    collectives=sent, networks=pod.networks, model_flops=program.model_flops,
    hardware_flops=program.hardware_flops, formula_flops=program.formula_flops, bound=limit,
    compile_s=time.monotonic() - begin, versions=_versions(pod.platform),
  )  # fmt: skip


def _versions(platform_name: str) -> dict[str, str]:
  compilers = {"tpu": "libtpu", "cuda": "jax-cuda13-pjrt"}
  names = [name for name in ("jax", compilers.get(platform_name)) if name]
  installed = {dist.name: dist.version for dist in metadata.distributions() if dist.name in names}
  return {name: installed.get(name, "unknown") for name in names}


def check(
  config: Mapping[str, Any], *, what: str, remat: str = "", size: Mapping[str, int] | None = None
) -> dict[str, Any]:
  """The config of the generator, {} if the model has none.

  Raises:
    UserError: on anything that cannot be planned on any pod.
  """
  if what not in WHAT:
    raise UserError(f"--what={what} is unknown; known are {', '.join(WHAT)}")
  if not isinstance(config.get("model"), Mapping) or not config["model"]:
    raise UserError("the config has no model to plan; give one of experiments/")
  if what == "train" and size:
    raise UserError(
      "frames, height and width apply to a clip to sample or to code; a training step is planned "
      "at the largest bucket of its data (--config.data.height=N and so on)"
    )
  for name, value in (size or {}).items():
    if value < 1:
      raise UserError(f"--{name}={value}: give at least 1")
  dit = config["model"].get("dit", {})
  known = typing.get_args(Policy)
  if remat and (not dit or remat not in known):
    raise UserError(
      f"remat {remat!r} is unknown; known are {', '.join(known)}" if dit else
      f"stage {config.get('stage')!r} has no layers to rematerialise; leave --remat out"
    )  # fmt: skip
  return dit


def _mesh_sizes(config: Mapping[str, Any], what: str) -> Sequence[int]:
  # A config's mesh is for training; the tiles of one clip need no split weights.
  return (-1, 1, 1, 1) if what in ("encode", "decode") else section(config, "mesh")


def _program(
  config: Mapping[str, Any], mesh: Mesh, what: str, size: Mapping[str, int]
) -> Program:
  if what == "train":
    return training(config, mesh)
  if what == "sample":
    return sampling(config, mesh, size)
  return coding(config, mesh, size, what=what)


def _compile(
  lowered: jax.stages.Lowered, options: Mapping[str, Any]
) -> tuple[jax.stages.Compiled | None, str]:
  """The compiled program, or the compiler's message if it does not fit."""
  try:
    return lowered.compile(compiler_options=dict(options)), ""
  except jax.errors.JaxRuntimeError as e:
    if _UNTILED in str(e) and not _NO_TRITON.items() <= options.items():
      return _compile(lowered, {**options, **_NO_TRITON})
    if "RESOURCE_EXHAUSTED" not in str(e):
      raise
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return None, re.sub(r"\s+", " ", " ".join(lines[:2]))[:400]


def _memory(program: Program, compiled, limit: float) -> Memory:
  held = {name: size / GIB for name, size in program.held.items()}
  peak = None if compiled is None else compiled.memory_analysis().peak_memory_in_bytes / GIB
  rest = None if peak is None else peak - sum(held.values())
  return Memory(**held, temporaries=rest, peak=peak, limit=limit)


def _bound(program: Program, compiled, sent, pod: Pod, price: float | None) -> Bound:
  memory = compiled.memory_analysis()
  inputs, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
  # Inputs and outputs once; temporaries at the peak are written and read.
  traffic = inputs + outputs + 2 * max(0, memory.peak_memory_in_bytes - inputs)
  return bound(
    CHIPS[pod.chip], devices=len(pod.devices), model_flops=program.model_flops,
    hardware_flops=program.hardware_flops, hbm_bytes=traffic, samples=program.samples,
    tokens=program.tokens, calls=program.calls, price=price,
    ici_bytes=sum(c.sent_bytes for c in sent), dcn_bytes=sum(c.outer_bytes for c in sent),
    hidden_ici=sum(c.sent_bytes * c.overlapped for c in sent),
    hidden_dcn=sum(c.outer_bytes * c.overlapped for c in sent),
  )  # fmt: skip
