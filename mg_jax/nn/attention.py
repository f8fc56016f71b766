"""Multi-head attention, self or cross, without biases and without causal mask. [MG 3.1.3]

x_BLD, and for cross-attention a context_BSE with a mask over its tokens, give (B, L, D). The
parameters are wq (D, N, K), wk and wv (E, N, K), and wo (N, K, D). `biased_attention` is the inner
part for the text towers, whose scores carry a bias.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mg_jax.core.sharding import partitioned, shard
from mg_jax.core.typing import Array, Bool, Float
from mg_jax.kernels.attention import attend
from mg_jax.kernels.context import Scheme
from mg_jax.kernels.linear import dense
from mg_jax.nn.norms import RMSNorm

_INTO_HEADS = nn.initializers.variance_scaling(
  1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=(1, 2)
)
_OUT_OF_HEADS = nn.initializers.variance_scaling(
  1.0, "fan_in", "truncated_normal", in_axis=(0, 1), out_axis=2
)


class Attention(nn.Module):
  """Softmax attention of x to itself or to a context.

  Attributes:
    heads: N.
    head_dim: K.
    qk_norm: RMSNorm of every query and key, with one scale per head dimension.
    kernel_init: initializer of wq, wk and wv.
    out_init: initializer of wo.
    kernel: name of the attention kernel, "auto" for the best one.
    context_parallel: how attention runs over split tokens, see `kernels.context`.
    dtype: of products and of the result.
  """

  heads: int
  head_dim: int
  qk_norm: bool = False
  kernel_init: Callable = _INTO_HEADS
  out_init: Callable = _OUT_OF_HEADS
  kernel: str = "auto"
  context_parallel: Scheme = "gather"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x_BLD: Float[Array, "B L D"],
    context: Float[Array, "G S E"] | None = None,
    *,
    mask_BS: Bool[Array, "G S"] | None = None,
  ) -> Float[Array, "B L D"]:
    """Attends.

    Args:
      x_BLD: the queries' input.
      context: the keys' and values' input, (G, S, E); None is x itself. G divides B: each of its
        rows serves B / G consecutive rows of x, and is projected once for all of them.
      mask_BS: True marks the real tokens of the context. Without any, the result is zero.
    """
    source = x_BLD if context is None else context
    tokens = "length" if context is None else "text_length"

    def project(name, x, length):
      init = partitioned(self.kernel_init, "embed", "heads", "head_dim")
      w = self.param(name, init, (x.shape[-1], self.heads, self.head_dim), jnp.float32)
      y = dense(x.astype(self.dtype), w.astype(self.dtype))
      return shard(y, "batch", length, "heads", "head_dim")

    q_BLNK = project("wq", x_BLD, "length")
    k_BSNK = project("wk", source, tokens)
    v_BSNK = project("wv", source, tokens)
    if self.qk_norm:
      q_BLNK = RMSNorm(dtype=self.dtype, name="q_norm")(q_BLNK)
      k_BSNK = RMSNorm(dtype=self.dtype, name="k_norm")(k_BSNK)
    # The kernel itself marks its residuals as "attention" for rematerialisation: its softmax
    # statistics are needed besides its output, or the backward pass would run it again.
    rows = q_BLNK.shape
    if k_BSNK.shape[0] != rows[0]:
      q_BLNK = q_BLNK.reshape(k_BSNK.shape[0], -1, *rows[2:])
    o_BLNK = attend(
      q_BLNK, k_BSNK, v_BSNK, mask_BS=mask_BS, kernel=self.kernel,
      context_parallel=self.context_parallel,
    ).reshape(rows)  # fmt: skip
    o_BLNK = shard(o_BLNK, "batch", "length", "heads", "head_dim")
    init = partitioned(self.out_init, "heads", "head_dim", "embed")
    wo_NKD = self.param("wo", init, (self.heads, self.head_dim, x_BLD.shape[-1]), jnp.float32)
    y_BLD = dense(o_BLNK, wo_NKD.astype(self.dtype), contract=2)
    return shard(y_BLD, "batch", "stream", "act_embed")


def biased_attention(
  q_BLNK: Float[Array, "B L N K"],
  k_BSNK: Float[Array, "B S N K"],
  v_BSNK: Float[Array, "B S N K"],
  bias: Float[Array, "#B #N #L #S"],
  *,
  scale: float,
) -> Float[Array, "B L N K"]:
  """Softmax attention with a bias on every score, for short texts: materialises all scores.

  Args:
    q_BLNK, k_BSNK, v_BSNK: queries, keys and values; the result has the dtype of the values.
    bias: added to the scaled scores; a large negative number masks a key.
    scale: multiplies the scores.
  """
  f32 = jnp.float32
  # Heads first, plain matrix products, and one division of the small result instead of all scores:
  # five times as fast on a CPU as einsum around jax.nn.softmax.
  q_BNLK, k_BNSK, v_BNSK = (x.swapaxes(1, 2) for x in (q_BLNK, k_BSNK, v_BSNK))
  s_BNLS = jnp.matmul(q_BNLK, k_BNSK.swapaxes(2, 3), preferred_element_type=f32) * scale + bias
  e_BNLS = jnp.exp(s_BNLS - jax.lax.stop_gradient(s_BNLS.max(axis=-1, keepdims=True)))
  total_BNL1 = e_BNLS.sum(axis=-1, keepdims=True)
  o_BNLK = jnp.matmul(e_BNLS.astype(v_BNSK.dtype), v_BNSK, preferred_element_type=f32) / total_BNL1
  return o_BNLK.swapaxes(1, 2).astype(v_BNSK.dtype)
