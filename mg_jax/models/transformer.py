"""The backbone of all generators, of video and of sound [MG 3.1.3].

A LLaMa3 block without causality, with cross-attention between self-attention and the MLP and with
adaptive norms for time whose projection all layers share. For every layer l:

    m = modulation(time) + table_l                      # six vectors: shift, scale, gate, twice
    x = x + positions                                   # at every layer, not only the first
    x = x + gate1 * attend(norm(x) * (1 + scale1) + shift1)
    x = x + attend(x, context)                          # no norm, no gate
    x = x + gate2 * swiglu(norm(x) * (1 + scale2) + shift2)

tokens (B, L, D) and a time embedding (B, D) in, tokens (B, L, D) after the final modulated norm
out. The layers are one `nn.scan`: their parameters are stacked on axis 0 for any `unroll`.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from mg_jax.core.remat import Policy
from mg_jax.core.sharding import partitioned, shard
from mg_jax.core.typing import Array, Bool, Float
from mg_jax.kernels.context import Scheme
from mg_jax.nn.attention import Attention
from mg_jax.nn.linear import Linear
from mg_jax.nn.mlp import SwiGLU
from mg_jax.nn.norms import RMSNorm
from mg_jax.nn.stack import stacked

_STREAM = ("batch", "stream", "act_embed")


@flax.struct.dataclass
class LayerInputs:
  """Inputs shared by all layers, besides the residual stream.

  Attributes:
    positions: added to the residual stream at each layer, (L, D) or (B, L, D).
    modulation: (B, M, D), the M vectors of a token at the sample's time.
    clean_modulation: the same at t = 1, for the tokens of `clean`.
    clean: (B, L), tokens that are clean data; None if there are none.
    context, context_mask: (G, S, D) and (G, S), where G divides B; None for a model without
      cross-attention.
  """

  positions: Array
  modulation: Array
  clean_modulation: Array | None = None
  clean: Array | None = None
  context: Array | None = None
  context_mask: Array | None = None

  def modulations(self, table_MD: Float[Array, "M D"], dtype: Any) -> tuple[Array, ...]:
    """The M modulation vectors with one table added, each (B, 1, D) or, with clean, (B, L, D)."""
    noisy = (self.modulation + table_MD).astype(dtype)
    if self.clean is None:
      return tuple(noisy[:, i, None] for i in range(noisy.shape[1]))
    clean = (self.clean_modulation + table_MD).astype(dtype)
    return tuple(
      jnp.where(self.clean[..., None], clean[:, i, None], noisy[:, i, None])
      for i in range(noisy.shape[1])
    )


class Block(nn.Module):
  """One layer of the module's pseudo-code; returns (x, None) as `nn.scan` expects.

  `depth` is the number of layers, on which the initialisation of output projections depends.
  """

  heads: int
  mlp_dim: int
  depth: int
  qk_norm: bool = False
  context_parallel: Scheme = "gather"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x_BLD: Float[Array, "B L D"], shared: LayerInputs
  ) -> tuple[Float[Array, "B L D"], None]:
    width = x_BLD.shape[-1]
    zeros = partitioned(nn.initializers.zeros, None, "embed")
    table_6D = self.param("modulation", zeros, (6, width), jnp.float32)
    shift1, scale1, gate1, shift2, scale2, gate2 = shared.modulations(table_6D, self.dtype)

    def attention(name):
      return Attention(
        heads=self.heads,
        head_dim=width // self.heads,
        qk_norm=self.qk_norm,
        out_init=self._out_init(in_axis=(0, 1), out_axis=2),
        context_parallel=self.context_parallel,
        dtype=self.dtype,
        name=name,
      )

    x_BLD = shard(x_BLD + shared.positions.astype(self.dtype), *_STREAM)
    h_BLD = RMSNorm(dtype=self.dtype, name="attention_norm")(x_BLD) * (1 + scale1) + shift1
    x_BLD = x_BLD + gate1 * attention("attention")(h_BLD)
    if shared.context is not None:
      cross = attention("cross_attention")
      x_BLD = x_BLD + cross(x_BLD, context=shared.context, mask_BS=shared.context_mask)
    h_BLD = RMSNorm(dtype=self.dtype, name="mlp_norm")(x_BLD) * (1 + scale2) + shift2
    mlp = SwiGLU(
      self.mlp_dim,
      out_init=self._out_init(in_axis=0, out_axis=1),
      dtype=self.dtype,
      name="mlp",
    )
    return shard(x_BLD + gate2 * mlp(h_BLD), *_STREAM), None

  def _out_init(self, **axes):
    # Two residual branches per layer: the residual stream's variance does not grow with depth.
    return nn.initializers.variance_scaling(
      1 / (2 * self.depth), "fan_in", "truncated_normal", **axes
    )


class Transformer(nn.Module):
  """The stack of layers, the modulation they share, and the final modulated norm.

  Attributes:
    layers, heads, mlp_dim: sizes; the width D is that of the tokens.
    qk_norm: RMSNorm of queries and keys, which the paper does not mention.
    context_parallel: scheme of kernels.context for self-attention.
    remat: policy of core.remat.
    unroll: layers per iteration of the scan; `layers` for a flat program while debugging.
    dtype: of the activations; parameters and modulation stay float32.
  """

  layers: int
  heads: int
  mlp_dim: int
  qk_norm: bool = False
  context_parallel: Scheme = "gather"
  remat: Policy = "none"
  unroll: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x_BLD: Float[Array, "B L D"],
    *,
    positions: Float[Array, "*B L D"],
    time_BD: Float[Array, "B D"],
    context_BSD: Float[Array, "G S D"] | None = None,
    context_mask_BS: Bool[Array, "G S"] | None = None,
    clean_BL: Bool[Array, "B L"] | None = None,
    clean_time_BD: Float[Array, "B D"] | None = None,
  ) -> Float[Array, "B L D"]:
    """Applies the stack.

    Args:
      x_BLD: tokens.
      positions: position embeddings, (L, D) or (B, L, D).
      time_BD: embedding of t and of all modulating conditions.
      context_BSD, context_mask_BS: cross-attention context, of B rows or of fewer that are shared
        (see `nn.attention`); without it there are no cross-attention parameters.
      clean_BL: tokens modulated by `clean_time_BD`, the embedding at t = 1, instead.
      clean_time_BD: given together with clean_BL.
    """
    width = x_BLD.shape[-1]
    # Zero-initialised, like every table, so that the gates start closed [Peebles & Xie 2023].
    projection = Linear(
      6 * width,
      logical=("embed", "modulation"),
      kernel_init=nn.initializers.zeros,
      dtype=jnp.float32,
      name="modulation",
    )

    def modulation(time_BD):
      return projection(jax.nn.silu(time_BD)).reshape(-1, 6, width)

    shared = LayerInputs(
      positions=positions,
      modulation=modulation(time_BD),
      clean_modulation=None if clean_BL is None else modulation(clean_time_BD),
      clean=clean_BL,
      context=context_BSD,
      context_mask=context_mask_BS,
    )
    stack = stacked(Block, self.layers, policy=self.remat, unroll=self.unroll)
    blocks = stack(
      heads=self.heads,
      mlp_dim=self.mlp_dim,
      depth=self.layers,
      qk_norm=self.qk_norm,
      context_parallel=self.context_parallel,
      dtype=self.dtype,
      name="layers",
    )
    x_BLD, _ = blocks(x_BLD.astype(self.dtype), shared)
    # The final shift and scale use the time embedding itself, as in Meta's later open DiT: they
    # cost only a table.
    init = partitioned(nn.initializers.zeros, None, "embed")
    table_2D = self.param("final_modulation", init, (2, width), jnp.float32)
    shared = shared.replace(
      modulation=jnp.stack([time_BD, time_BD], axis=1),
      clean_modulation=None if clean_BL is None else jnp.stack([clean_time_BD] * 2, axis=1),
    )
    shift, scale = shared.modulations(table_2D, self.dtype)
    return RMSNorm(dtype=self.dtype, name="final_norm")(x_BLD) * (1 + scale) + shift
