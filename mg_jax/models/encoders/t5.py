"""The T5 encoder [Raffel et al. 2020]: T5 1.0 and 1.1, UL2, ByT5 and UMT5, frozen or trained.

[MG 3.1.4] encodes prompts with UL2 and their quoted text with ByT5, [MG 6.2] with T5-base. They are
one network: a relative position bias whose table all layers share (each has its own in UMT5),
RMSNorm before each branch, no biases, no scaling of the attention logits. They differ in sizes and
in the MLP: ReLU without a gate (T5 1.0), or a gated GELU (1.1, ByT5, UMT5) or SiLU (UL2). The toy
world has its own words, so its encoder is a small one over bytes, trained from scratch.
ids (B, S) and mask (B, S) in, features (B, S, E) out. Features of padding are zero.
"""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.remat import Policy
from mg_jax.core.sharding import partitioned, shard
from mg_jax.core.typing import Array, Bool, Float, Int
from mg_jax.nn.attention import biased_attention
from mg_jax.nn.linear import Linear
from mg_jax.nn.norms import RMSNorm
from mg_jax.nn.stack import stacked

ACTIVATIONS = {
  "relu": jax.nn.relu,
  "gelu": lambda x: jax.nn.gelu(x, approximate=True),
  "silu": jax.nn.silu,
}


def relative_buckets(length: int, *, buckets: int, max_distance: int) -> Int[np.ndarray, "S S"]:
  """Bucket of every (query, key) pair: exact near zero, logarithmic up to `max_distance`.

  The first half of the buckets is for keys before the query, the second for keys after it.
  """
  offset = np.arange(length)[None, :] - np.arange(length)[:, None]
  half = buckets // 2
  exact = half // 2
  distance = np.abs(offset)
  octaves = np.log(np.maximum(distance, 1).astype(np.float32) / exact)
  far = exact + (octaves / math.log(max_distance / exact) * (half - exact)).astype(np.int32)
  far = np.minimum(far, half - 1)
  return np.where(offset > 0, half, 0) + np.where(distance < exact, distance, far)


def _position_bias(module, index_SS, mask_BS, *, width: int):
  """Relative position bias (B, N, S, S) of a module, with padding keys masked."""
  table = module.param(
    "position_bias",
    partitioned(nn.initializers.normal(width**-0.5), "positions", "heads"),
    (module.buckets, module.heads),
    jnp.float32,
  )
  # A finite value: rows of an all-padding prompt must not become NaN.
  masked = jnp.finfo(jnp.float32).min
  return jnp.where(mask_BS[:, None, None, :], table[index_SS].transpose(2, 0, 1)[None], masked)


class TextBlock(nn.Module):
  """Self-attention with an additive bias, then the MLP, each after an RMSNorm.

  Called without a bias, it computes one from its own table.
  """

  heads: int
  head_dim: int
  mlp_dim: int
  activation: str
  gated: bool
  buckets: int
  norm_eps: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BSD, bias_BNSS, index_SS, mask_BS):
    if bias_BNSS is None:
      bias_BNSS = _position_bias(self, index_SS, mask_BS, width=x_BSD.shape[-1])
    width, inner = x_BSD.shape[-1], self.heads * self.head_dim

    def linear(features, name, *, fan_in, axes):
      init = nn.initializers.normal(fan_in**-0.5)
      return Linear(features, logical=axes, kernel_init=init, dtype=self.dtype, name=name)

    def heads(name, fan_in):
      y = linear(inner, name, fan_in=fan_in, axes=("embed", "heads"))(h_BSD)
      return y.reshape(*y.shape[:-1], self.heads, self.head_dim)

    h_BSD = RMSNorm(eps=self.norm_eps, dtype=self.dtype, name="attention_norm")(x_BSD)
    # The logits have no 1/sqrt(K), so the query's initialisation is smaller by it.
    q, k, v = heads("query", width * self.head_dim), heads("key", width), heads("value", width)
    o = biased_attention(q, k, v, bias_BNSS, scale=1.0).reshape(*x_BSD.shape[:-1], inner)
    x_BSD = x_BSD + linear(width, "out", fan_in=inner, axes=("heads", "embed"))(o)

    h_BSD = RMSNorm(eps=self.norm_eps, dtype=self.dtype, name="mlp_norm")(x_BSD)
    hidden = linear(self.mlp_dim, "up", fan_in=width, axes=("embed", "mlp"))(h_BSD)
    activate = ACTIVATIONS[self.activation]
    if self.gated:
      gate = linear(self.mlp_dim, "gate", fan_in=width, axes=("embed", "mlp"))(h_BSD)
      hidden = activate(gate) * hidden
    else:
      hidden = activate(hidden)
    x_BSD = x_BSD + linear(width, "down", fan_in=self.mlp_dim, axes=("mlp", "embed"))(hidden)
    return shard(x_BSD, "batch", "text_length", "act_embed"), None


class T5Encoder(nn.Module):
  """The encoder; the defaults are the toy world's size. `zoo.text_encoder` has published ones.

  Attributes:
    vocab: number of ids; 0 is padding, 1 end of sequence; for bytes 256 plus specials, rounded up.
    width: E.
    activation, gated: of the MLP, act(x) or, gated, act(gate x) * (up x).
    buckets, max_distance: of the relative position bias.
    shared_bias: whether all layers share its table; each has its own in UMT5.
    norm_eps: of the RMSNorms.
    remat: policy of core.remat for the layers.
    dtype: of the activations.
  """

  vocab: int = 384
  width: int = 128
  layers: int = 4
  heads: int = 4
  head_dim: int = 32
  mlp_dim: int = 256
  activation: Literal["relu", "gelu", "silu"] = "gelu"
  gated: bool = True
  buckets: int = 32
  max_distance: int = 128
  shared_bias: bool = True
  norm_eps: float = 1e-6
  remat: Policy = "none"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, ids_BS: Int[Array, "B S"], mask_BS: Bool[Array, "B S"]
  ) -> Float[Array, "B S E"]:
    normal = nn.initializers.normal
    embed = self.param(
      "embed", partitioned(normal(1.0), "vocab", "embed"), (self.vocab, self.width), jnp.float32
    )
    length = ids_BS.shape[1]
    index_SS = relative_buckets(length, buckets=self.buckets, max_distance=self.max_distance)
    shared_BNSS = None
    if self.shared_bias:
      shared_BNSS = _position_bias(self, index_SS, mask_BS, width=self.width)
    x_BSD = shard(embed[ids_BS].astype(self.dtype), "batch", "text_length", "act_embed")
    blocks = stacked(TextBlock, self.layers, policy=self.remat)(
      self.heads,
      self.head_dim,
      self.mlp_dim,
      self.activation,
      self.gated,
      self.buckets,
      self.norm_eps,
      self.dtype,
      name="layers",
    )
    x_BSD, _ = blocks(x_BSD, shared_BNSS, index_SS, mask_BS)
    x_BSD = RMSNorm(eps=self.norm_eps, dtype=self.dtype, name="final_norm")(x_BSD)
    return x_BSD * mask_BS[..., None].astype(self.dtype)
