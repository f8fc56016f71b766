"""CLIP: text and vision towers with a shared embedding [Radford et al. 2021], as in MetaCLIP.

[MG 3.1.4] encodes prompts with the text tower of a long-prompt MetaCLIP, [MG 4] a face and [MG 6.2]
the frames of a video with its vision tower. Both towers are pre-norm transformers with biases; text
is causal and pooled at its end token, an image is cut into patches after a class token and pooled
there. OpenAI's and MetaCLIP's weights need "quick_gelu", most of OpenCLIP's "gelu".

ids (B, S) and mask (B, S) -> tokens (B, S, D) and pooled (B, E);
images (B, H, W, 3) -> tokens (B, 1 + patches, D) and pooled (B, E); E is that of the shared space.
"""

from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.core.remat import Policy
from mg_jax.core.sharding import partitioned, shard
from mg_jax.core.typing import Array, Bool, Float, Int
from mg_jax.kernels.attention import attend
from mg_jax.models.patches import patchify
from mg_jax.nn.attention import biased_attention
from mg_jax.nn.linear import Linear
from mg_jax.nn.norms import LayerNorm
from mg_jax.nn.stack import stacked

ACTIVATIONS = {
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}
Activation = Literal["quick_gelu", "gelu"]
# Statistics of the training pixels of published towers, in 0..1.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LOGIT_SCALE = 2.6592  # ln(1 / 0.07), at initialisation


@flax.struct.dataclass
class Features:
  """Output of a tower.

  Attributes:
    tokens: (B, L, D) of the last layer; after the final norm for text, before it for images, as in
      the published code.
    pooled: (B, E), the embedding in the shared space, not normalised.
  """

  tokens: Array
  pooled: Array


class Layer(nn.Module):
  """LayerNorm, self-attention, LayerNorm, MLP, both around a residual; all with biases."""

  heads: int
  mlp_dim: int
  activation: Activation
  norm_eps: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BLD, bias_BNLL):
    width = x_BLD.shape[-1]

    def linear(features, name, logical):
      return Linear(features, use_bias=True, logical=logical, dtype=self.dtype, name=name)

    def heads(name):
      y = linear(width, name, ("embed", "heads"))(h_BLD)
      return y.reshape(*y.shape[:2], self.heads, width // self.heads)

    h_BLD = LayerNorm(eps=self.norm_eps, dtype=self.dtype, name="attention_norm")(x_BLD)
    q, k, v = heads("query"), heads("key"), heads("value")
    if bias_BNLL is None:
      o_BLNK = attend(q, k, v)
    else:
      o_BLNK = biased_attention(q, k, v, bias_BNLL, scale=q.shape[-1] ** -0.5)
    x_BLD = x_BLD + linear(width, "out", ("heads", "embed"))(o_BLNK.reshape(x_BLD.shape))
    h_BLD = LayerNorm(eps=self.norm_eps, dtype=self.dtype, name="mlp_norm")(x_BLD)
    h_BLF = ACTIVATIONS[self.activation](linear(self.mlp_dim, "up", ("embed", "mlp"))(h_BLD))
    x_BLD = x_BLD + linear(width, "down", ("mlp", "embed"))(h_BLF)
    return shard(x_BLD, "batch", None, "act_embed"), None


def _layers(tower: "TextTower | VisionTower", x_BLD: Array, bias_BNLL: Array | None) -> Array:
  if tower.width % tower.heads:
    raise UserError(f"a tower of width {tower.width} is not divisible by {tower.heads} heads")
  stack = stacked(Layer, tower.layers, policy=tower.remat)
  layers = stack(
    tower.heads, tower.mlp_dim, tower.activation, tower.norm_eps, tower.dtype, name="layers"
  )
  return layers(x_BLD, bias_BNLL)[0]


def _positions(tower: nn.Module, length: int, std: float) -> Array:
  init = partitioned(nn.initializers.normal(std), "positions", "embed")
  return tower.param("positions", init, (length, tower.width), jnp.float32).astype(tower.dtype)


def _project(tower: "TextTower | VisionTower", pooled_BD: Array) -> Array:
  if tower.projection is None:
    return pooled_BD
  axes = ("embed", "features")
  return Linear(tower.projection, logical=axes, dtype=tower.dtype, name="projection")(pooled_BD)


class TextTower(nn.Module):
  """Causal transformer over tokens; the defaults are those of B/32.

  Attributes:
    vocab: number of ids; the last one is the end token of the published vocabulary.
    length: maximum number of tokens of a text, 77, or 256 for long prompts.
    projection: E; None keeps the width of the tower.
    end: id of the end token; a text is pooled at the first one.
  """

  vocab: int = 49408
  length: int = 77
  width: int = 512
  layers: int = 12
  heads: int = 8
  mlp_dim: int = 2048
  projection: int | None = 512
  activation: Activation = "quick_gelu"
  norm_eps: float = 1e-5
  end: int = 49407
  remat: Policy = "none"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, ids_BS: Int[Array, "B S"], mask_BS: Bool[Array, "B S"]) -> Features:
    """Features of texts; `mask_BS` is True on real tokens, the end token included.

    Raises:
      UserError: if texts are longer than the position table.
    """
    length = ids_BS.shape[1]
    if length > self.length:
      raise UserError(f"a text of {length} tokens exceeds the {self.length} of this tower")
    embed = partitioned(nn.initializers.normal(0.02), "vocab", "embed")
    table = self.param("embed", embed, (self.vocab, self.width), jnp.float32)
    x_BSD = table[ids_BS].astype(self.dtype) + _positions(self, self.length, 0.01)[:length]
    visible_BSS = jnp.tril(jnp.ones((length, length), bool)) & mask_BS[:, None, :]
    # A finite value: rows of an empty text must not become NaN.
    bias_BNSS = jnp.where(visible_BSS, 0.0, jnp.finfo(jnp.float32).min)[:, None]
    x_BSD = _layers(self, shard(x_BSD, "batch", "text_length", "act_embed"), bias_BNSS)
    x_BSD = LayerNorm(eps=self.norm_eps, dtype=self.dtype, name="final_norm")(x_BSD)
    last_B = jnp.argmax((ids_BS == self.end) & mask_BS, axis=1)
    pooled = jnp.take_along_axis(x_BSD, last_B[:, None, None], axis=1)[:, 0]
    return Features(x_BSD, _project(self, pooled))


class VisionTower(nn.Module):
  """Transformer over the patches of an image; the defaults are those of B/32.

  Attributes:
    size: side of the square image, in pixels.
    patch: side of a patch.
    projection: E; None keeps the width of the tower.
  """

  size: int = 224
  patch: int = 32
  width: int = 768
  layers: int = 12
  heads: int = 12
  mlp_dim: int = 3072
  projection: int | None = 512
  activation: Activation = "quick_gelu"
  norm_eps: float = 1e-5
  remat: Policy = "none"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image_BHWC: Float[Array, "B H W C"]) -> Features:
    """Features of images from `normalise`; C is 3, or more if several are stacked.

    Raises:
      UserError: if the images have another size.
    """
    if image_BHWC.shape[1:3] != (self.size, self.size):
      raise UserError(
        f"images are {image_BHWC.shape[1]}x{image_BHWC.shape[2]}, the tower takes "
        f"{self.size}x{self.size}"
      )
    # Values of a patch are in row, column, colour order: a flattened kernel (rows, columns, C, D).
    x = patchify(image_BHWC[:, None].astype(self.dtype), (1, self.patch, self.patch))[:, 0]
    x_BLD = Linear(self.width, logical=("patch", "embed"), dtype=self.dtype, name="patch_embed")(x)
    init = partitioned(nn.initializers.normal(self.width**-0.5), "embed")
    first_D = self.param("class", init, (self.width,), jnp.float32).astype(self.dtype)
    first_B1D = jnp.broadcast_to(first_D, (len(x), 1, self.width))
    x_BLD = jnp.concatenate([first_B1D, x_BLD], axis=1)
    x_BLD = x_BLD + _positions(self, x_BLD.shape[1], self.width**-0.5)
    x_BLD = LayerNorm(eps=self.norm_eps, dtype=self.dtype, name="first_norm")(x_BLD)
    x_BLD = _layers(self, shard(x_BLD, "batch", None, "act_embed"), None)
    pooled = LayerNorm(eps=self.norm_eps, dtype=self.dtype, name="final_norm")(x_BLD[:, 0])
    return Features(x_BLD, _project(self, pooled))


class CLIP(nn.Module):
  """Both towers and the scale of their similarities.

  Attributes:
    text: fields of TextTower.
    vision: fields of VisionTower.
  """

  text: TextTower
  vision: VisionTower

  def encode_text(self, ids_BS, mask_BS) -> Features:
    return self.text(ids_BS, mask_BS)

  def encode_image(self, image_BHWC) -> Features:
    return self.vision(image_BHWC)

  @nn.compact
  def __call__(self, image_BHWC, ids_BS, mask_BS) -> Float[Array, "images texts"]:
    """Logits of every image (rows) with every text (columns): scaled cosines, in float32."""
    init = partitioned(nn.initializers.constant(LOGIT_SCALE))
    scale = self.param("logit_scale", init, (), jnp.float32)
    image, text = (
      unit(features.pooled.astype(jnp.float32))
      for features in (self.vision(image_BHWC), self.text(ids_BS, mask_BS))
    )
    return jnp.exp(scale) * image @ text.T


def unit(x: Float[Array, "*B E"]) -> Float[Array, "*B E"]:
  """L2-normalised vectors."""
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def normalise(pixels: Array) -> Array:
  """Pixels in 0..1, channels last, normalised for published vision towers."""
  return (pixels - jnp.array(MEAN, pixels.dtype)) / jnp.array(STD, pixels.dtype)
