"""Rematerialisation by name: which activations a layer keeps for its backward pass.

Modules mark a few values with `name(x, "attention")`; a policy says which of them are kept.
"""

from typing import Literal

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

Policy = Literal["none", "full", "attention", "mlp", "offload"]

NAMES = ("attention", "mlp")

_POLICIES = {
  # Recompute everything; only the layer's input is kept.
  "full": lambda: jax.checkpoint_policies.nothing_saveable,
  # Keep the output of the self- and cross-attention: the costly part at long sequences.
  "attention": lambda: jax.checkpoint_policies.save_only_these_names("attention"),
  "mlp": lambda: jax.checkpoint_policies.save_only_these_names("attention", "mlp"),
  # As "mlp", with the kept values in host memory.
  "offload": lambda: jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=list(NAMES),
    offload_src="device",
    offload_dst="pinned_host",
  ),
}


def name(x: jax.Array, label: str) -> jax.Array:
  """Names a value that policies can choose to keep."""
  if label not in NAMES:
    raise ValueError(f"unknown checkpoint name {label!r}; core/remat.py knows {NAMES}")
  return checkpoint_name(x, label)


def remat(module: type[nn.Module], policy: Policy) -> type[nn.Module]:
  """Wraps a Linen module class so that its backward pass follows a policy.

  Raises:
    ValueError: on an unknown policy.
  """
  if policy == "none":
    return module
  if policy not in _POLICIES:
    raise ValueError(f"unknown remat policy {policy!r}; known are none, {', '.join(_POLICIES)}")
  # The layers are scanned, and the scan already prevents CSE.
  return nn.remat(module, policy=_POLICIES[policy](), prevent_cse=False)
