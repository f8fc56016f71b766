"""Analytical FLOPs of a function from its jaxpr: matrix products and convolutions only.

Loops count as often as they run, so a scanned stack of layers and a blocked attention are fully
counted, unlike in compilers' own estimates. Nothing is compiled or allocated.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count(fn: Callable, *args: Any) -> float:
  """FLOPs (a multiply-add is two) of one call, for arrays or ShapeDtypeStructs."""
  return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def count_training(loss: Callable, params: Any, *args: Any) -> float:
  """FLOPs of a scalar `loss(params, *args)` and its gradient with respect to `params`.

  A backward pass needs at most twice the products of the forward pass; anything beyond that is
  recomputation, which model FLOPs utilisation leaves out.
  """
  return min(count(jax.grad(loss), params, *args), 3 * count(loss, params, *args))


def _count(jaxpr: core.Jaxpr) -> float:
  return sum(_equation(eqn) for eqn in jaxpr.eqns)


def _equation(eqn) -> float:
  name = eqn.primitive.name
  if name == "dot_general":
    (contract, _), _ = eqn.params["dimension_numbers"]
    depth = math.prod(eqn.invars[0].aval.shape[d] for d in contract)
    return 2.0 * depth * math.prod(eqn.outvars[0].aval.shape)
  if name == "conv_general_dilated":
    kernel = eqn.invars[1].aval.shape
    out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(kernel) / out_features * math.prod(eqn.outvars[0].aval.shape)
  if name == "cond":
    return max(_count(branch.jaxpr) for branch in eqn.params["branches"])
  # A while loop's trip count is not in its jaxpr: its body counts once.
  times = eqn.params["length"] if name == "scan" else 1
  return times * sum(_count(inner) for inner in _inner(eqn.params))


def _inner(params: dict[str, Any]):
  """The jaxprs among an equation's parameters; functions with custom gradients have one."""
  for key, value in params.items():
    if key in ("branches", "cond_jaxpr"):
      continue
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item
