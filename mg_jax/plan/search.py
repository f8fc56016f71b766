"""Searches the best mesh and rematerialisation policy for a generator on a pod.

Splits that do not divide are left out, splits estimated not to fit are not compiled, and the rest
is compiled in order of estimated least time. The estimates are coarse and only used for ranking;
what is printed are plans. [MG 3.1.6]
"""

import copy
import dataclasses
import itertools
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from mg_jax.core import config as configs
from mg_jax.core.chips import CHIPS, GB, GIB, TERA
from mg_jax.core.errors import UserError
from mg_jax.core.topology import Pod, parse_topology
from mg_jax.core.tree import count_params, flatten_paths
from mg_jax.core.typing import PyTree
from mg_jax.kernels.context import Scheme
from mg_jax.models import zoo
from mg_jax.plan import report as plan_report
from mg_jax.plan.planner import Plan, check, plan
from mg_jax.plan.training import abstract_training, latent_tokens
from mg_jax.stages.experiment import optim_config
from mg_jax.train.optim import build_optimizers
from mg_jax.train.state import abstract_params, wrap_params

POLICIES = ("none", "mlp", "attention", "full")
# Activations that a layer saves per token, in units of the model's width, and the fraction of its
# forward pass that is recomputed. Counted on the block of `models.transformer`, whose MLP is 8 / 3
# as wide as the model.
_KEPT = {"none": 34.0, "mlp": 6.0, "attention": 4.0, "full": 1.0}
_AGAIN = {"none": 0.0, "mlp": 0.4, "attention": 0.6, "full": 1.0}
# Relative to gathering keys and values, see `kernels.context`.
_SENT = {"ulysses": 0.2, "ring": 2.0}


@dataclasses.dataclass(frozen=True)
class Choice:
  """One way to split a step.

  Attributes:
    mesh: sizes of (data, fsdp, context, tensor).
    remat: policy.
    scheme: how attention is split over "context", "" if it is not.
    memory: estimated bytes on a device.
    seconds: estimated least time with all communication hidden; serial: with none hidden.
  """

  mesh: tuple[int, int, int, int]
  remat: str
  scheme: str
  memory: float
  seconds: float
  serial: float


@dataclasses.dataclass(frozen=True)
class Work:
  """Inputs of the estimates: sizes of the model and of its batch.

  Attributes:
    layers, width, heads: of the transformer.
    tokens: of a sample.
    rows: of a batch.
    accumulate: microbatches of a step.
    blocks: parameters of the layers.
    trained: parameters that have a gradient, in all roles.
    state: bytes of all parameters, frozen ones too, of the optimizers' state and of averages.
  """

  layers: int
  width: int
  heads: int
  tokens: int
  rows: int
  accumulate: int
  blocks: int
  trained: int
  state: int


def work_of(config: Mapping[str, Any]) -> Work:
  """The sizes of a generator's step. Raises UserError on a config without a generator."""
  dit = check(config, what="train")
  if not dit:
    raise UserError(
      f"stage {config.get('stage')!r} has no generator; --search splits one of "
      "experiments/t2i_256.py, t2v_256.py, t2v_768.py or soundtrack.py"
    )
  objective, batch, _ = abstract_training(config)
  params = abstract_params(objective, batch)
  optimizers = build_optimizers(optim_config(config), objective.roles)
  updated = {role: params[role] for role in objective.roles}
  state = jax.eval_shape(
    lambda trees: wrap_params(trees, optimizers, ema=config["train"]["ema"] > 0, window=0), updated
  )
  trained = [
    leaf for role, tree in updated.items() for path, leaf in flatten_paths(tree).items()
    if not optimizers[role].freezes(path)
  ]  # fmt: skip
  return Work(
    dit["layers"], dit["width"], dit["heads"], latent_tokens(dit, batch["latent"].shape[1:4]),
    config["data"]["global_batch"], config["train"]["accumulate"], zoo.block_parameters(params),
    count_params(trained), _bytes((params, state.opt_state, state.ema)),
  )  # fmt: skip


def _bytes(tree: PyTree) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def choices(work: Work, pod: Pod) -> list[Choice]:
  """All splits that divide and are estimated to fit, the best first.

  Most are bound by the matrix unit alike. Among those, the one that sends least is most likely to
  hide it, and the one that saves least is most likely to fit. Of splits that only differ in data
  and fsdp, all but the best come last.
  """
  candidates = [
    Choice(mesh, remat, scheme, *estimate(work, pod, mesh, remat, scheme))
    for mesh in meshes(work, len(pod.devices), slices=pod.slices)
    for remat in POLICIES
    for scheme in schemes(work, mesh)
  ]
  fit = [c for c in candidates if c.memory <= pod.memory_gib * GIB]
  # Communication only counts to a hundredth of the least time, so that memory breaks ties.
  fit.sort(key=lambda c: (c.seconds, round(c.serial / c.seconds, 2), c.memory))
  kinds, first, later = set(), [], []
  for choice in fit:
    kind = choice.mesh[2:], choice.remat, choice.scheme
    (later if kind in kinds else first).append(choice)
    kinds.add(kind)
  return first + later


def schemes(work: Work, mesh: Sequence[int]) -> tuple[str, ...]:
  """Ways to split attention over "context" that the mesh allows, ("",) if it is not split."""
  _, _, context, tensor = mesh
  if context == 1:
    return ("",)
  known = typing.get_args(Scheme)
  return tuple(s for s in known if s != "ulysses" or work.heads % (context * tensor) == 0)


def meshes(work: Work, devices: int, *, slices: int) -> Iterator[tuple[int, int, int, int]]:
  """Meshes that use all devices and divide heads, tokens and rows.

  Slices are along "data"; one slice may be split along it too, so that weights travel less far.
  """
  sizes = [n for n in range(1, 33) if devices % n == 0]
  for data, context, tensor in itertools.product(sizes if slices == 1 else [slices], sizes, sizes):
    fsdp, odd = divmod(devices, data * context * tensor)
    if odd or not fsdp or work.heads % tensor or work.tokens % (context * tensor):
      continue
    if work.rows % (data * fsdp * work.accumulate) == 0:
      yield data, fsdp, context, tensor


def estimate(
  work: Work, pod: Pod, mesh: Sequence[int], remat: str, scheme: str = ""
) -> tuple[float, float, float]:
  """(bytes on a device, least seconds per step, seconds with no communication hidden)."""
  data, fsdp, context, tensor = mesh
  rows = work.rows // (data * fsdp * work.accumulate)
  local = work.tokens / (context * tensor)
  # float32 gradients are live at the end of the step.
  state = (work.state + 4 * work.trained) / (fsdp * tensor)
  kept = rows * local * work.width * 2 * _KEPT[remat] * work.layers
  # One layer's work: the stream and its activations, temporarily whole over "tensor".
  layer = rows * work.tokens / context * work.width * 2 * (8 + 40 / tensor)
  gathered = 2 * work.blocks / work.layers * 2 * 2 / tensor
  memory = state + kept + layer + gathered

  chip = CHIPS[pod.chip]
  forward = work.rows * (2 * work.blocks * work.tokens + 4 * work.layers * work.width
                         * work.tokens**2)  # fmt: skip
  compute = forward * (3 + _AGAIN[remat]) / len(pod.devices) / (chip.tflops * TERA / chip.devices)
  passes = 2 + (_AGAIN[remat] > 0)  # weights are gathered forward, backward and to recompute
  weights = passes * work.blocks * 2 / tensor * (fsdp - 1) / fsdp * work.accumulate
  solid = pod.platform == "tpu" and sum(n > 1 for n in parse_topology(pod.name)[1]) == 3
  if solid and fsdp == len(pod.devices):
    weights *= 2  # Over all of a three-dimensional torus they are gathered by all-reduces.
  gradients = work.blocks * 4 / tensor * (fsdp - 1) / fsdp * work.accumulate
  stream = work.rows / (data * fsdp) * work.tokens / context * work.width * 2 * work.layers
  # Two all-gathers and two reduce-scatters of the stream forward, and as many backward.
  along_tensor = stream * (4 * passes + 2) * (tensor - 1) / tensor
  along_context = stream * 2 * (passes + 1) * (context - 1) / tensor * _SENT.get(scheme, 1.0)
  reach = 8 if pod.platform == "cuda" else math.inf  # devices that the fast network joins
  if pod.slices > 1:
    reach = min(reach, fsdp * context * tensor)
  along_data = 2 * work.trained * 4 / (fsdp * tensor) * (data - 1) / data
  fast = slow = 0.0
  stride = 1
  for size, sent in ((tensor, along_tensor), (context, along_context),
                     (fsdp, weights + gradients), (data, along_data)):  # fmt: skip
    stride *= size
    if stride <= reach:
      fast += sent
    else:
      slow += sent
  part = 1 / chip.devices
  fast, slow = fast / (chip.ici_gb_s * GB * part), slow / (chip.dcn_gb_s * GB * part)
  return memory, max(compute, fast, slow), compute + fast + slow


def search(
  config: Mapping[str, Any],
  pod: Pod,
  *,
  budget: int,
  price: float | None = None,
  show: Callable[[str], None] = print,
) -> list[Plan]:
  """Plans of the best splits that fit; prints each as it is computed.

  Sorted by bound, as scheduled if known, else with communication hidden; ties by bytes sent, then
  by memory.

  Args:
    config: config of a generator.
    pod: the devices.
    budget: number of plans to compile. If one does not fit, none with as large an estimate is
      compiled after it.
    price: price of a chip-hour.
    show: prints a line of the table.

  Raises:
    UserError: on a config without a generator, a budget below 1, and if nothing may fit.
  """
  if budget < 1:
    raise UserError(f"--budget={budget}: give at least 1 plan")
  config = configs.to_dict(config)
  work = work_of(config)
  splits = choices(work, pod)
  if not splits:
    raise UserError(
      f"no split of {pod.name} x {pod.slices} is estimated to fit; give more devices, a smaller "
      "--config.data.global_batch or a larger --config.train.accumulate"
    )
  show(f"{len(splits)} splits are estimated to fit; planning up to {budget} of them")
  show(plan_report.ROW_HEAD)
  show("|---" * plan_report.ROW_HEAD.count(" | ") + "|---|")
  plans, limit = [], math.inf
  for choice in splits:
    if len(plans) == budget:
      break
    if choice.memory >= limit:
      continue
    tried = copy.deepcopy(config)
    if choice.scheme:
      tried["model"]["dit"]["context_parallel"] = choice.scheme
    # Only the TPU compiler is slow enough to need the quick mode.
    quick = pod.platform == "tpu"
    plans.append(
      plan(tried, pod, mesh=choice.mesh, remat=choice.remat, price=price, quick=quick)
    )
    show(plan_report.row(plans[-1].to_dict()))
    if not plans[-1].fits:
      limit = choice.memory
  return sorted((p for p in plans if p.fits), key=_rank)


def _rank(p: Plan) -> tuple[float, float, float]:
  b = p.bound
  # A quick plan has no schedule.
  least = b.overlapped_s if p.quick else b.scheduled_s
  return least, round(b.serial_s / b.overlapped_s, 2), p.memory.peak


def main(config: Mapping[str, Any], pod: Pod, *, budget: int, price: float | None) -> int:
  """Searches and prints the best plan; the exit code of `launch/plan.py`."""
  ranked = search(config, pod, budget=budget, price=price)
  if not ranked:
    print("none of them fits; a larger --budget tries more")
    return 1
  print("\nthe best first, by the bound, by bytes sent, by memory:")
  for p in ranked:
    print(plan_report.row(p.to_dict()))
  print()
  print(plan_report.text(ranked[0].to_dict()))
  return 0
