"""Classifier-free guidance for any set of conditions, as weighted branches [MG 3.4].

A branch says which named conditions are kept and what weight its velocity has; all branches of a
step run in one batched call of the network. For text alone,

  u = u_null + s (u_text - u_null)  =  [Branch(1 - s, {}), Branch(s, {"text"})].

In and out: latents (B, T, H, W, C), times (B,), conditions by name with the batch first.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.core.typing import Array

GUIDANCE = 7.5  # [MG 3.4] text scale of the final model


@dataclasses.dataclass(frozen=True)
class Branch:
  """One evaluation of the network: its weight, and the conditions it keeps; the others are null."""

  weight: float
  keep: frozenset[str]


def chain(*scales: tuple[str | Collection[str], float | int]) -> tuple[Branch, ...]:
  """Branches that switch conditions on one after the other, each step with its own scale.

  With u_k the velocity under the first k entries, u = u_0 + sum_k s_k (u_k - u_{k-1}). One entry is
  plain guidance; ("video", 1.5), ("text", 7.5) is the two-scale form of instruction editing; an
  entry may name several conditions that share a scale. The weights sum to 1. Branches of weight 0
  are left out, so scale 1 costs one branch, and scale 0 keeps no condition at all.

  Raises:
    UserError: when a condition appears twice.
  """
  kept: frozenset[str] = frozenset()
  steps = []
  for names, scale in scales:
    names = frozenset([names] if isinstance(names, str) else names)
    if names & kept:
      raise UserError(f"guidance names {sorted(names & kept)} twice; give each condition one scale")
    steps.append((kept := kept | names, float(scale)))
  sets = [frozenset(), *(names for names, _ in steps)]
  bounds = [1.0, *(scale for _, scale in steps), 0.0]
  branches = [
    Branch(upper - lower, names)
    for names, upper, lower in zip(sets, bounds[:-1], bounds[1:], strict=True)
  ]
  return tuple(b for b in branches if b.weight != 0)


def expand(
  cond: Mapping[str, Any],
  branches: Sequence[Branch],
  *,
  keep_only: Callable[[Mapping[str, Any], Collection[str]], dict[str, Any]],
) -> dict[str, Any]:
  """Conditions of n branches times B rows, the branches of a sample next to each other.

  Neighbours along the batch leave a batch that is sharded over devices where it is.

  Args:
    cond: conditions by name, batch first.
    branches: at least one.
    keep_only: (cond, names) -> cond with every other condition at its null.

  Raises:
    UserError: no branches.
  """
  if not branches:
    raise UserError("guidance without any branch has no velocity; give at least one.")

  def interleave(*leaves: Array) -> Array:
    return jnp.stack(leaves, axis=1).reshape((-1,) + leaves[0].shape[1:])

  return jax.tree.map(interleave, *(keep_only(cond, branch.keep) for branch in branches))


def guided(
  apply_fn: Callable[[Array, Array, Mapping[str, Any]], Array], branches: Sequence[Branch]
) -> Callable[[Array, Array, Mapping[str, Any]], Array]:
  """The guided velocity (x, t_B, cond) -> v: one call of `apply_fn` on n branches times B rows.

  Args:
    apply_fn: (x, t_B, cond) -> velocity, batch first everywhere.
    branches: those that `cond` was expanded for; x and t_B are not expanded.
  """
  count = len(branches)
  weights = [branch.weight for branch in branches]

  def velocity(x: Array, t_B: Array, cond: Mapping[str, Any]) -> Array:
    v = apply_fn(jnp.repeat(x, count, axis=0), jnp.repeat(t_B, count, axis=0), cond)
    if weights == [1.0]:
      return v
    v = v.astype(jnp.float32).reshape((x.shape[0], count) + v.shape[1:])
    return sum(weight * v[:, i] for i, weight in enumerate(weights))

  return velocity
