"""Optimizers for one role: AdamW, or Muon for small runs; the paper is silent on both.

The transform yields updates for a learning rate of one; the step multiplies them by the rate of
the moment, which is a traced scalar. So a schedule over steps or over wall-clock time never
recompiles. Which leaves are frozen, scaled or not decayed is given by regular expressions on
slash-separated parameter paths.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from mg_jax.core.errors import UserError
from mg_jax.core.tree import flatten_paths, map_paths
from mg_jax.core.typing import Array, PyTree


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """How the parameters of one role are updated.

  Attributes:
    kind: "adamw", or "muon" (matrices by orthogonalised momentum, the rest by AdamW).
    lr: peak learning rate.
    warmup: steps of linear warm-up from lr / warmup.
    schedule: decay over the progress of the run.
    final: fraction of `lr` that is left at the end of a decaying schedule.
    weight_decay: decoupled decay, times the learning rate.
    no_decay: patterns of paths that never decay; leaves of at most one dimension never do either.
    moments: type in which the first moment is kept, "float32" or "bfloat16", which saves two bytes
      for each parameter. The second stays float32: bfloat16 would lose its small changes.
    clip: largest global norm of the gradient; 0 switches clipping off.
    freeze: patterns of paths that keep their values; they get no optimizer state.
    multipliers: (pattern, factor) pairs on the learning rate; the first match counts.
    every: the role is updated, averaged and reported in steps `every`, 2 `every`, ... of the run,
      and rests between them. Schedules count all steps.
  """

  kind: Literal["adamw", "muon"] = "adamw"
  lr: float = 1e-4
  warmup: int = 0
  schedule: Literal["constant", "cosine", "linear"] = "constant"
  final: float = 0.0
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.1
  no_decay: tuple[str, ...] = (
    r"(^|/)bias", r"norm", r"(^|/)scale$", r"table", r"embedding$", r"position",
  )
  moments: Literal["float32", "bfloat16"] = "float32"
  clip: float = 1.0
  freeze: tuple[str, ...] = ()
  multipliers: tuple[tuple[str, float], ...] = ()
  every: int = 1

  def __post_init__(self):
    if self.every < 1:
      raise UserError(f"optim.every is {self.every}; a role steps every 1, 2, ... steps")
    if self.kind not in ("adamw", "muon"):
      raise UserError(f"optimizer {self.kind!r} is unknown; use 'adamw' or 'muon'")
    if self.moments not in ("float32", "bfloat16"):
      raise UserError(f"optim.moments is {self.moments!r}; use 'float32' or 'bfloat16'")
    if self.schedule not in ("constant", "cosine", "linear"):
      raise UserError(f"schedule {self.schedule!r} is unknown; use constant, cosine or linear")
    for pattern in (*self.no_decay, *self.freeze, *(p for p, _ in self.multipliers)):
      try:
        re.compile(pattern)
      except re.error as e:
        raise UserError(f"optimizer pattern {pattern!r} is no regular expression: {e}") from e


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """A config and the gradient transformation it stands for."""

  config: OptimConfig
  transform: optax.GradientTransformation

  def init(self, params: PyTree) -> PyTree:
    """Optimizer state. Raises UserError when a pattern of the config matches no parameter."""
    paths = list(flatten_paths(params))
    for pattern in (*self.config.freeze, *(p for p, _ in self.config.multipliers)):
      if not any(re.search(pattern, path) for path in paths):
        raise UserError(
          f"optimizer pattern {pattern!r} matches no parameter; paths look like {paths[0]!r}"
        )
    return self.transform.init(params)

  def update(self, grads: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
    """Descent directions to be subtracted after multiplication by the rate, and the new state."""
    return self.transform.update(grads, state, params)

  def freezes(self, path: str) -> bool:
    """Whether the parameter of a path keeps its value."""
    return _any(self.config.freeze, path)

  def stop_frozen(self, params: PyTree) -> PyTree:
    """The same values, with no gradient into the frozen leaves."""
    return map_paths(
      lambda path, leaf: jax.lax.stop_gradient(leaf) if self.freezes(path) else leaf, params
    )

  def rate(self, step: Array, progress: Array) -> Array:
    """Learning rate at a step, where `progress` in [0, 1] is the part of the run that is over."""
    c = self.config
    warm = jnp.minimum(1.0, (step + 1.0) / c.warmup) if c.warmup else jnp.float32(1.0)
    progress = jnp.clip(progress, 0.0, 1.0)
    if c.schedule == "cosine":
      left = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    elif c.schedule == "linear":
      left = 1.0 - progress
    else:
      return jnp.float32(c.lr) * warm
    return jnp.float32(c.lr) * warm * (c.final + (1.0 - c.final) * left)


def build_optimizer(config: OptimConfig) -> Optimizer:
  """The optimizer of one role."""

  def decays(params: PyTree) -> PyTree:
    return map_paths(lambda p, x: x.ndim > 1 and not _any(config.no_decay, p), params)

  adamw = optax.chain(
    optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=config.moments),
    optax.add_decayed_weights(config.weight_decay, mask=decays),
  )
  groups = {"adamw": adamw, "frozen": optax.set_to_zero()}
  if config.kind == "muon":
    groups["muon"] = optax.chain(
      contrib.scale_by_muon(
        beta=config.b2, weight_dimension_numbers=_matrices, mu_dtype=config.moments
      ),
      optax.stateless(lambda updates, _: jax.tree.map(_match_adam, updates)),
      optax.add_decayed_weights(config.weight_decay, mask=decays),
    )

  def label(path: str, leaf) -> str:
    if _any(config.freeze, path):
      return "frozen"
    by_muon = config.kind == "muon" and _is_matrix(path, leaf) and not _any(config.no_decay, path)
    return "muon" if by_muon else "adamw"

  transform = optax.partition(groups, lambda params: map_paths(label, params))
  if config.multipliers:
    transform = optax.chain(transform, _scale_by_path(config.multipliers))
  return Optimizer(config, transform)


def build_optimizers(
  optim: OptimConfig | Mapping[str, OptimConfig], roles: tuple[str, ...]
) -> dict[str, Optimizer]:
  """One optimizer for each role, from one config for all or one config per role.

  Raises:
    UserError: when the mapping and the objective disagree on the roles, or all of them rest in
      some steps.
  """
  if isinstance(optim, OptimConfig):
    optim = dict.fromkeys(roles, optim)
  if set(optim) != set(roles):
    raise UserError(
      f"optimizers are for {sorted(optim)}, the objective trains {sorted(roles)}; let config.optim "
      "be one section for all, or one for each of those"
    )
  every = {role: optim[role].every for role in roles}
  if min(every.values()) > 1:
    raise UserError(f"optim.every is {every}: some steps train nothing; let one role have every=1")
  return {role: build_optimizer(optim[role]) for role in roles}


def _any(patterns: tuple[str, ...], path: str) -> bool:
  return any(re.search(pattern, path) for pattern in patterns)


def _is_matrix(path: str, leaf) -> bool:
  """Matrices, alone or stacked over scanned layers; convolution kernels are not."""
  return leaf.ndim in (2, 3) and "conv" not in path.lower()


def _matrices(params: PyTree) -> PyTree:
  return jax.tree.map(lambda x: contrib.MuonDimensionNumbers(x.ndim - 2, x.ndim - 1), params)


def _match_adam(update: Array) -> Array:
  """Scales an orthogonal matrix to the RMS of Adam's updates, about 0.2 (arXiv 2502.16982)."""
  return update * (0.2 * max(update.shape[-2:]) ** 0.5)


def _scale_by_path(multipliers: tuple[tuple[str, float], ...]) -> optax.GradientTransformation:
  def factor(path: str) -> float:
    return next((f for pattern, f in multipliers if re.search(pattern, path)), 1.0)

  return optax.stateless(lambda updates, _: map_paths(lambda p, u: u * factor(p), updates))
