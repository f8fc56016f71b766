"""Classifier-free guidance for any set of conditions, as weighted branches [MG 3.4].

A branch says which named conditions are kept and what weight its velocity has; all branches of a
step run in one batched call of the network. For text alone,

  u = u_null + s (u_text - u_null)  =  [Branch(1 - s, {}), Branch(s, {"text"})].

Conditions that no scale names are kept in every branch. In and out: latents (B, T, H, W, C), times
(B,), conditions by name with the batch first.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.typing import Array

GUIDANCE = 7.5  # [MG 3.4] text scale of the final model


@dataclasses.dataclass(frozen=True)
class Branch:
  """One evaluation of the network: its weight, and the conditions it keeps; the others are null."""

  weight: float
  keep: frozenset[str]


def read(value: str | float) -> float | str:
  """The value of a flag: a number, or scales by name as `parse` takes them."""
  try:
    return float(value)
  except ValueError:
    return value


def parse(
  value: float | int | str, names: Collection[str] | None
) -> tuple[tuple[tuple[str, ...], float], ...]:
  """The scales of a setting, in the form that `chain` takes.

  Args:
    value: one scale for all conditions, or entries "NAMES:SCALE" separated by commas, each with one
      or several names joined by "+", such as "first:1.5,text+byt5:7.5".
    names: conditions that may be guided; None for any, to check the form of a value.

  Raises:
    UserError: an entry of another form, an unknown or repeated name, a scale that is negative or
      not finite.
  """
  if not isinstance(value, str):
    every = ("all",) if names is None else tuple(names)
    entries = [("+".join(every), value)] if every else []
  else:
    entries = [entry.partition(":")[::2] for entry in value.split(",")]
  scales = []
  for entry, scale in entries:
    try:
      number = float(scale)
    except ValueError:
      number = float("nan")
    if not (np.isfinite(number) and number >= 0):
      raise UserError(
        f"guidance is {value}; give a number of at least 0, or NAME:SCALE,NAME+NAME:SCALE"
      )
    unknown = [] if names is None else sorted(set(entry.split("+")) - set(names))
    if unknown:
      raise UserError(f"guidance names {unknown[0]!r}; this model has {', '.join(sorted(names))}")
    scales.append((tuple(entry.split("+")), number))
  chain(*scales)
  return tuple(scales)


def branches(
  value: float | int | str, names: Collection[str], *, default: Collection[str] | None = None,
  whole: bool = False,
) -> tuple[Branch, ...]:
  """The branches of a setting, as `parse` reads it; conditions without a scale are kept in all.

  Args:
    value: of the setting.
    names: all conditions of the model.
    default: those that a single number guides; all by default.
    whole: as for `chain`.
  """
  guided = names if isinstance(value, str) or default is None else default
  scales = parse(value, guided)
  named = {name for entry, _ in scales for name in entry}
  return chain(*scales, kept=set(names) - named, whole=whole)


def chain(
  *scales: tuple[str | Collection[str], float | int], kept: Collection[str] = (),
  whole: bool = False,
) -> tuple[Branch, ...]:
  """Branches that switch conditions on one after the other, each step with its own scale.

  With u_k the velocity under the first k entries, u = u_0 + sum_k s_k (u_k - u_{k-1}). One entry is
  plain guidance; ("video", 1.5), ("text", 7.5) is the two-scale form of instruction editing; an
  entry may name several conditions that share a scale. The weights sum to 1. Branches of weight 0
  are left out, unless `whole`, so scale 1 costs one branch, and scale 0 keeps none of the entries.
  Every branch keeps the conditions in `kept` too.

  Raises:
    UserError: when a condition appears twice.
  """
  always = kept = frozenset(kept)
  steps = []
  for names, scale in scales:
    names = frozenset([names] if isinstance(names, str) else names)
    if names & kept:
      raise UserError(f"guidance names {sorted(names & kept)} twice; give each condition one scale")
    steps.append((kept := kept | names, float(scale)))
  sets = [always, *(names for names, _ in steps)]
  bounds = [1.0, *(scale for _, scale in steps), 0.0]
  branches = [
    Branch(upper - lower, names)
    for names, upper, lower in zip(sets, bounds[:-1], bounds[1:], strict=True)
  ]
  return tuple(b for b in branches if whole or b.weight != 0)


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
  apply_fn: Callable[[Array, Array, Mapping[str, Any]], Array],
  branches: Sequence[Branch],
  *,
  weights: Array | None = None,
  rising: bool = False,
) -> Callable[[Array, Array, Mapping[str, Any]], Array]:
  """The guided velocity (x, t_B, cond) -> v: one call of `apply_fn` on n branches times B rows.

  Args:
    apply_fn: (x, t_B, cond) -> velocity, batch first everywhere.
    branches: those that `cond` was expanded for; x and t_B are not expanded.
    weights: (n,) of the branches, by default their own; as an argument of what is compiled, one
      program serves every scale.
    rising: scales rise linearly with time from 1, and the given ones are their means; with
      `chain(whole=True)`, whose last branch keeps all conditions.
  """
  count = len(branches)
  weights_n = jnp.asarray([b.weight for b in branches], jnp.float32) if weights is None else weights
  plain_n = np.eye(count, dtype=np.float32)[-1]

  def velocity(x: Array, t_B: Array, cond: Mapping[str, Any]) -> Array:
    v = apply_fn(jnp.repeat(x, count, axis=0), jnp.repeat(t_B, count, axis=0), cond)
    if count == 1:
      return v
    v = v.astype(jnp.float32).reshape((x.shape[0], count) + v.shape[1:])
    # Weights are linear in the scales.
    now_n = plain_n + 2 * t_B[0] * (weights_n - plain_n) if rising else weights_n
    return sum(now_n[i] * v[:, i] for i in range(count))

  return velocity
