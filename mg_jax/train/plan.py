"""A training step planned for a pod that is not here: does it fit, what it sends, how fast at best.

The step that training runs is compiled for the devices of a named topology, from shapes alone: the
compiler's peak memory and its collectives are those of the real run. Nothing is executed, so speed
is only bounded from above (`train.roofline`), never measured. [MG 3.1.6]
"""

import dataclasses
import math
import re
import time
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import AXES, batch_axes, make_mesh
from mg_jax.core.remat import Policy
from mg_jax.core.topology import HBM_GIB, tpu_devices
from mg_jax.core.tree import count_params
from mg_jax.core.typing import PyTree
from mg_jax.data import buckets
from mg_jax.data.recipe import DataConfig
from mg_jax.data.streams import TextConfig
from mg_jax.kernels.platform import platform
from mg_jax.models import patches, zoo
from mg_jax.models.generator import Generator
from mg_jax.models.tae import TAE
from mg_jax.objectives.flow_matching import FlowMatching
from mg_jax.train import collectives, flops
from mg_jax.train.experiment import abstract_params
from mg_jax.train.loop import TrainConfig
from mg_jax.train.optim import OptimConfig, build_optimizers
from mg_jax.train.roofline import CHIPS, Bound, bound, check_price
from mg_jax.train.state import abstract_key, abstract_state
from mg_jax.train.step import build_step

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Memory:
  """GiB on one device. `peak` and `temporaries` are None where the compiler refused.

  Attributes:
    params, optimizer, ema: of the state.
    batch: of the step's inputs.
    temporaries: activations, gradients, gathered weights: what the peak has besides the above.
    peak: what has to fit.
    limit: what a program may use.
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
  """What is known about one step on one pod.

  Attributes:
    fits: whether the compiler accepts it and its peak is within the limit.
    refusal: the compiler's own words where it does not accept it, else "".
    clip: (frames, height, width) of the largest bucket.
    tokens: video tokens of a sample.
    parameters: all that are trained; block_parameters: those of the layers alone.
    model_flops: of a step, recomputation not counted; hardware_flops: counted.
    formula_flops: 6 N tokens + 12 layers width tokens^2 for each sample, to compare with.
    compile_s: wall time of lowering and compiling here.
  """

  experiment: str
  topology: str
  slices: int
  devices: int
  mesh: dict[str, int]
  remat: str
  global_batch: int
  accumulate: int
  clip: tuple[int, int, int]
  tokens: int
  parameters: int
  block_parameters: int
  fits: bool
  refusal: str
  memory: Memory
  collectives: tuple[collectives.Collective, ...]
  model_flops: float
  hardware_flops: float
  formula_flops: float
  bound: Bound | None
  compile_s: float

  def to_dict(self) -> dict[str, Any]:
    """Plain values, for JSON."""
    return dataclasses.asdict(self)


def plan(
  config: Mapping[str, Any],
  topology: str,
  *,
  slices: int = 1,
  mesh: Sequence[int] | None = None,
  remat: str = "",
  price: float | None = None,
) -> Plan:
  """Plans one step of a generator's experiment, at its largest bucket.

  Args:
    config: of the experiment.
    topology: such as "v5p:8x8x8".
    slices: of them, joined along the mesh axis "data".
    mesh: sizes of (data, fsdp, context, tensor) instead of the config's.
    remat: policy instead of the config's.
    price: of a chip-hour.

  Raises:
    UserError: on what cannot be planned, in a sentence with the nearest valid choice.
  """
  config = configs.to_dict(config)
  check_price(price)
  if config.get("stage") != "flow_matching":
    raise UserError(
      f"stage {config.get('stage')!r} has no generator to plan; give one of "
      "experiments/t2i_256.py, t2v_256.py or t2v_768.py"
    )
  dit = config["model"]["dit"]
  if remat:
    known = typing.get_args(Policy)
    if remat not in known:
      raise UserError(f"remat {remat!r} is unknown; known are {', '.join(known)}")
    dit["remat"] = remat
  place = plan_mesh(topology, slices, config["mesh"] if mesh is None else mesh)
  generator = configs.build(Generator, config["model"], where="model")
  objective = configs.build(FlowMatching, config["objective"], where="objective", model=generator)
  settings = configs.build(TrainConfig, config["train"], where="train")
  data = configs.build(DataConfig, config["data"], where="data")
  clip = largest_clip(data)
  latent = TAE(latent=dit["channels"], parent=None).latent_shape(*clip)
  tokens = math.prod(patches.grid(latent[:3], tuple(dit["patch"])))
  batch = abstract_clips(config, data.global_batch, latent)
  check_divides(place, rows=data.global_batch, accumulate=settings.accumulate, tokens=tokens,
                heads=dit["heads"])  # fmt: skip

  optimizers = build_optimizers(
    configs.build(OptimConfig, config["optim"], where="optim"), objective.roles
  )
  begin = time.monotonic()
  with platform("tpu"):
    state = abstract_state(objective, optimizers, place, batch, **settings.state_args)
    step = build_step(objective, optimizers, settings, place, state=state)
    compiled, refusal = _compile(step.lower(state, batch))
  seconds = time.monotonic() - begin

  chip = topology.partition(":")[0]
  memory = _memory(state, batch, place, compiled, HBM_GIB[chip])
  params = abstract_params(objective, batch)
  counted = training_flops(objective, params, batch)
  blocks = zoo.block_parameters(params)
  formula = data.global_batch * objective.draws * (
    6 * blocks * tokens + 12 * dit["layers"] * dit["width"] * tokens**2
  )
  sent, limit = (), None
  if compiled is not None:
    sent = collectives.read(compiled.as_text(), place.shape, slices=slices)
    limit = bound(
      CHIPS[chip], devices=place.size, model_flops=counted[0], hardware_flops=counted[1],
      hbm_bytes=_traffic(compiled.memory_analysis()), samples=data.global_batch, tokens=tokens,
      ici_bytes=sum(c.sent_bytes for c in sent if c.network == "ici"),
      dcn_bytes=sum(c.sent_bytes for c in sent if c.network == "dcn"), price=price,
    )  # fmt: skip
  return Plan(
    experiment=settings.experiment, topology=topology, slices=slices, devices=place.size,
    mesh=dict(place.shape), remat=dit["remat"], global_batch=data.global_batch,
    accumulate=settings.accumulate, clip=clip, tokens=tokens, parameters=count_params(params),
    block_parameters=blocks, fits=memory.peak is not None and memory.peak <= memory.limit,
    refusal=refusal, memory=memory, collectives=sent, model_flops=counted[0],
    hardware_flops=counted[1], formula_flops=float(formula), bound=limit, compile_s=seconds,
  )  # fmt: skip


def largest_clip(data: DataConfig) -> tuple[int, int, int]:
  """(frames, height, width) of the bucket with the most pixels."""
  if data.durations == "single":
    return (data.frames if data.video_weight else 1), data.height, data.width
  rows = buckets.PAPER_DURATIONS if data.video_weight else buckets.IMAGE_DURATIONS
  clips = [(b.duration.frames, b.height, b.width) for b in buckets.make_buckets(rows, data.height)]
  return max(clips, key=math.prod)


def abstract_clips(
  config: Mapping[str, Any], rows: int, latent: Sequence[int]
) -> dict[str, Any]:
  """Shapes of a batch of cached latents, with features of frozen encoders and ids of others."""
  shape = jax.ShapeDtypeStruct
  batch: dict[str, Any] = {
    "latent": shape((rows, *latent), jnp.float32), "index": shape((rows,), jnp.int32)
  }  # fmt: skip
  routes, trained = config["model"]["dit"]["routes"], config["model"]["encoders"]
  for name, fields in config["text"].items():
    length = configs.build(TextConfig, fields, where=f"text.{name}").length
    if name in trained:
      entry = {"ids": shape((rows, length), jnp.int32)}
    else:
      entry = {"features": shape((rows, length, routes[name]["features"]), jnp.float32)}
    batch[name] = entry | {"mask": shape((rows, length), jnp.bool_)}
  return batch


def plan_mesh(topology: str, slices: int, sizes: Sequence[int]) -> Mesh:
  """The mesh of a topology. Raises UserError where it does not take every device once."""
  if slices < 1:
    raise UserError(f"slices is {slices}; it is at least 1")
  devices = tpu_devices(topology, slices=slices)
  sizes = list(sizes)
  count = math.prod(size for size in sizes if size != -1)
  if len(sizes) == len(AXES) and min(sizes) != 0:
    whole = count if -1 not in sizes else count * max(1, len(devices) // count)
    if whole != len(devices):
      rest = sizes[0] * math.prod(sizes[2:]) if sizes[1] != -1 else count
      fit = len(devices) // rest if rest > 0 and len(devices) % rest == 0 else 0
      near = (sizes[0], fit, *sizes[2:]) if fit else (1, len(devices), 1, 1)
      raise UserError(
        f"mesh {tuple(sizes)} takes {whole} devices, {topology} x {slices} has {len(devices)}; "
        f"give --mesh={','.join(map(str, near))}"
      )
  return make_mesh(sizes, devices)


def check_divides(mesh: Mesh, *, rows: int, accumulate: int, tokens: int, heads: int) -> None:
  """Raises UserError where batch, tokens or heads do not divide over the mesh."""
  ways = batch_axes(mesh) * accumulate
  if rows % ways:
    raise UserError(
      f"data.global_batch is {rows}, which does not divide over {batch_axes(mesh)} groups of "
      f"devices times accumulate={accumulate}; the nearest that does is "
      f"{max(1, round(rows / ways)) * ways}"
    )
  context, tensor = mesh.shape["context"], mesh.shape["tensor"]
  for what, size, axes, count in (
    ("heads", heads, "tensor", tensor), ("tokens", tokens, "context x tensor", context * tensor),
  ):  # fmt: skip
    if size % count:
      near = max(n for n in range(1, count + 1) if size % n == 0)
      raise UserError(
        f"{size} {what} do not divide over {axes} = {count}; the nearest smaller that does is "
        f"{near}"
      )


def _compile(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled | None, str]:
  """The program, or the compiler's words on why it does not fit."""
  try:
    return lowered.compile(), ""
  except jax.errors.JaxRuntimeError as e:
    if "RESOURCE_EXHAUSTED" not in str(e):
      raise
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return None, re.sub(r"\s+", " ", " ".join(lines[:2]))[:400]


def device_bytes(tree: PyTree) -> int:
  """Bytes of a tree of placed shapes on one device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def _memory(state, batch, mesh: Mesh, compiled, limit: float) -> Memory:
  params, optimizer = device_bytes(state.params), device_bytes(state.opt_state)
  ema = 0 if state.ema is None else device_bytes(state.ema)
  rows = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch)) // batch_axes(mesh)
  peak = None if compiled is None else compiled.memory_analysis().peak_memory_in_bytes
  rest = None if peak is None else (peak - params - optimizer - ema - rows) / GIB
  return Memory(
    params=params / GIB, optimizer=optimizer / GIB, ema=ema / GIB, batch=rows / GIB,
    temporaries=rest, peak=None if peak is None else peak / GIB, limit=limit,
  )  # fmt: skip


def _traffic(memory) -> float:
  """Bytes that memory moves at least: inputs, outputs, and what lives at the peak in and out."""
  inputs, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
  return inputs + outputs + 2 * max(0, memory.peak_memory_in_bytes - inputs)


def training_flops(objective: FlowMatching, params: PyTree, batch: PyTree) -> tuple[float, float]:
  """FLOPs of a step over all devices, without and with recomputation; shapes are enough.

  They are read off the loops of the blocked kernel, which computes what the fused ones compute.
  """

  def loss(tree, batch, key):
    return objective.loss("model", {"model": tree}, batch, key, jnp.int32(0), {})[0]

  args = params["model"], batch, abstract_key()
  with platform("cpu"):
    total, forward = flops.count(jax.grad(loss), *args), flops.count(loss, *args)
  return min(total, 3 * forward), total
