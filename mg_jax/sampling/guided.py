"""From conditions and noise to latents: the function that samplers compile, and plans with them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mg_jax.core.typing import Array, PyTree
from mg_jax.models import conditioning
from mg_jax.models.conditioning import KNOWN
from mg_jax.models.encoders.streams import Streams
from mg_jax.sampling import guidance as cfg
from mg_jax.sampling import sampler
from mg_jax.sampling.sampler import Known


def sample_latents(
  model: nn.Module, text: Streams, branches: Sequence[cfg.Branch], params: PyTree,
  text_params: PyTree, cond: Mapping[str, Any], noise: Array, times: Array, *, method: str,
  weights: Array | None = None, known: Known | None = None,
) -> Array:
  """Conditions and noise to normalised latents: what a sampler compiles, and a plan with it.

  Args:
    model: the generator.
    text: its streams; frozen encoders read a prompt once, before it is laid out in branches.
    branches: of guidance.
    params, text_params: of the generator and of the frozen encoders.
    cond: conditions by name, (B, ...).
    noise: (B, t, h, w, C).
    times: (steps + 1,).
    method: of the solver.
    weights: of the branches, where one program is to serve all.
    known: latents that are held.
  """
  routes, variables = model.routes(), {"params": params}
  keep_only = functools.partial(conditioning.keep_only, routes=routes)
  cond = text.encode(text_params, cond)
  if known is not None and KNOWN in routes:
    cond = {**cond, KNOWN: jnp.broadcast_to(known.mask, noise.shape[:-1])}
  cond = cfg.expand(cond, branches, keep_only=keep_only)
  cond = model.apply(variables, cond, method="encode")
  velocity = cfg.guided(
    lambda x, t_B, c: model.apply(variables, x, t_B, c), branches, weights=weights
  )

  def field(x: Array, t: Array, window: Array, beside: Any) -> Array:
    del window, beside
    return velocity(x, jnp.broadcast_to(t, x.shape[:1]), cond)

  return sampler.sample(field, noise, times, method=method, known=known)
