"""The training step of any experiment as a program to plan, at its largest batch.

No data is opened and no file of weights is read, so a loss whose network comes from files (LPIPS)
is left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.tree import count_params
from mg_jax.core.typing import PyTree
from mg_jax.kernels.platform import platform
from mg_jax.models import patches, zoo
from mg_jax.objectives.base import Objective
from mg_jax.plan.program import Program, check_divides, device_bytes, row_bytes, section
from mg_jax.stages.experiment import optim_config, role_loss
from mg_jax.stages.table import stage_of
from mg_jax.train import flops
from mg_jax.train.loop import TrainConfig
from mg_jax.train.optim import Optimizer, build_optimizers
from mg_jax.train.state import abstract_key, abstract_params, abstract_state
from mg_jax.train.step import build_step


def training(config: Mapping[str, Any], mesh: Mesh) -> Program:
  """The step of a config on a mesh.

  Raises:
    UserError: on a stage without a model, and on sizes that do not divide over the mesh.
  """
  objective, batch, clip = abstract_training(config)
  settings = configs.build(TrainConfig, section(config, "train"), where="train")
  rows, dit = jax.tree.leaves(batch)[0].shape[0], config["model"].get("dit", {})
  tokens = latent_tokens(dit, batch["latent"].shape[1:4]) if dit else 0
  check_divides(mesh, rows=rows, accumulate=settings.accumulate, tokens=tokens,
                heads=dit.get("heads", 0))  # fmt: skip
  optimizers = build_optimizers(optim_config(config), objective.roles)
  state = abstract_state(objective, optimizers, mesh, batch, **settings.state_args)
  step = build_step(objective, optimizers, settings, mesh, state=state)
  params = abstract_params(objective, batch)
  model, hardware = training_flops(objective, params, batch, optimizers)
  blocks = zoo.block_parameters(params)
  draws = getattr(objective, "draws", 1)
  formula = rows * draws * (6 * blocks * tokens + 12 * dit["layers"] * dit["width"] * tokens**2) \
    if dit else None  # fmt: skip
  return Program(
    lower=lambda: step.lower(state, batch),
    held={
      "params": device_bytes((state.params, state.frozen)),
      "optimizer": device_bytes(state.opt_state),
      "ema": 0 if state.ema is None else device_bytes(state.ema), "batch": row_bytes(batch, mesh),
    },
    clip=clip, rows=rows, samples=rows, tokens=tokens, parameters=count_params(params),
    block_parameters=blocks, model_flops=model, hardware_flops=hardware, formula_flops=formula,
    accumulate=settings.accumulate,
  )  # fmt: skip


def abstract_training(
  config: Mapping[str, Any],
) -> tuple[Objective, dict[str, Any], tuple[int, int, int]]:
  """(objective, shapes of its largest batch, (frames, height, width) of a sample).

  For sound, latents are frames of one pixel each; for its codec, samples are.
  """
  stage = stage_of(config)
  if not config.get("model"):
    raise UserError("the config has no model to plan; give one of experiments/")
  data = configs.build(stage.data, section(config, "data"), where="data")
  return stage.objective(config, data), *stage.abstract_batch(config, data)


def latent_tokens(dit: Mapping[str, Any], latent: Sequence[int]) -> int:
  """Tokens of a latent of (frames, height, width)."""
  return math.prod(patches.grid(tuple(latent), tuple(dit["patch"])))


def training_flops(
  objective: Objective, params: PyTree, batch: PyTree, optimizers: Mapping[str, Optimizer]
) -> tuple[float, float]:
  """FLOPs of a step over all devices, without and with recomputation; shapes suffice.

  Frozen parameters cost no gradient, and of a role that steps every n-th time only, a step has the
  n-th part. The FLOPs of attention are read off the loops of the blocked
  kernel, which computes what the fused ones compute.
  """
  model = hardware = 0.0
  key, carry = abstract_key(), {}
  with platform("cpu"):
    for role in objective.roles:
      loss = role_loss(objective, role)
      stop = optimizers[role].stop_frozen
      scalar = lambda tree, *rest, loss=loss, stop=stop: loss(stop(tree), *rest)[0]  # noqa: E731
      args = params[role], params, batch, key, carry
      total, forward = flops.count(jax.grad(scalar), *args), flops.count(scalar, *args)
      every = optimizers[role].config.every
      model, hardware = model + min(total, 3 * forward) / every, hardware + total / every
      _, (_, carry) = jax.eval_shape(loss, *args)
  return model, hardware
