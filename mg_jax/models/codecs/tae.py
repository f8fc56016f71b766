"""The temporal autoencoder: video to a latent 8x smaller in time, height and width [MG 3.1.1].

A 2.5D network: the convolutional image autoencoder of latent diffusion with a 1-D temporal
convolution after every 2-D one and a temporal attention after every spatial one. Temporal
convolutions pad symmetrically with the edge frame, so any length T' >= 1 is accepted, giving
ceil(T'/8) latents; decoding drops the surplus frames. An image is a video of one frame.

With `temporal=False` it is the published image autoencoder (diffusers' AutoencoderKL without
quantisation convolutions, as in SD3.5 and FLUX), array for array: see `models.weights.published`
and `models.codecs.inflate`.

video (B, T', H', W', 3) in [-1, 1]  <->  latent (B, T, H, W, C), C = 16
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import shard
from mg_jax.core.typing import Array, Float
from mg_jax.kernels.attention import attend
from mg_jax.models import patches
from mg_jax.nn.conv import SpatialConv, TemporalConv
from mg_jax.nn.linear import Linear
from mg_jax.nn.norms import GroupNorm

LOGVAR_RANGE = (-30.0, 20.0)
# Initial posterior of a linear autoencoder of unit-variance latents: std of 5 % of theirs.
SHORTCUT_LOGVAR = -6.0


def _frames(module, x_BTHWC):
  """Applies a module for images (N, H, W, C) to every frame."""
  b, t = x_BTHWC.shape[:2]
  y = module(x_BTHWC.reshape((b * t, *x_BTHWC.shape[2:])))
  return y.reshape((b, t, *y.shape[1:]))


def space_to_depth(x_BTHWC: Array, patch: tuple[int, int, int]) -> Array:
  """Moves blocks of (time, height, width) into channels; T, H, W must be divisible."""
  tokens = patches.grid(x_BTHWC.shape[1:4], patch)
  return patches.patchify(x_BTHWC, patch).reshape(x_BTHWC.shape[0], *tokens, -1)


def depth_to_space(x_BTHWC: Array, patch: tuple[int, int, int]) -> Array:
  """The inverse of `space_to_depth`."""
  b, *tokens, c = x_BTHWC.shape
  return patches.unpatchify(x_BTHWC.reshape(b, -1, c), tuple(tokens), patch)


def _fill(video_BTHWC: Array, multiple: int) -> Array:
  """Repeats the last frame until the length is a multiple."""
  surplus = -video_BTHWC.shape[1] % multiple
  return jnp.pad(video_BTHWC, ((0, 0), (0, surplus), (0, 0), (0, 0), (0, 0)), mode="edge")


class Conv25(nn.Module):
  """A spatial convolution followed by a temporal one; spatial only if `temporal` is off.

  Both halve their axes by striding or double them by nearest neighbours before the convolution.
  """

  features: int
  temporal: bool = True
  resample: Literal["none", "down", "up"] = "none"
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTHWC):
    how = {"stride": 2 if self.resample == "down" else 1, "upsample": self.resample == "up"}
    spatial = SpatialConv(
      self.features, kernel_init=self.kernel_init, dtype=self.dtype, name="spatial", **how
    )
    x = _frames(spatial, x_BTHWC)
    if self.temporal:
      x = TemporalConv(
        self.features, kernel_init="identity", dtype=self.dtype, name="temporal", **how
      )(x)
    return x


class ResBlock(nn.Module):
  """GroupNorm, SiLU, convolution, twice, around a shortcut. Norm statistics are per frame."""

  features: int
  groups: int
  temporal: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTHWC):
    y = x_BTHWC
    for i in (1, 2):
      y = nn.silu(_frames(GroupNorm(self.groups, dtype=self.dtype, name=f"norm{i}"), y))
      y = Conv25(self.features, self.temporal, dtype=self.dtype, name=f"conv{i}")(y)
    if x_BTHWC.shape[-1] != self.features:
      logical = ("conv_in", "conv_out")
      x_BTHWC = Linear(
        self.features, use_bias=True, logical=logical, dtype=self.dtype, name="shortcut"
      )(x_BTHWC)
    return shard(x_BTHWC + y, "batch", "time", "height", "width", "channels")


class AxisAttention(nn.Module):
  """Single-head attention along space (within a frame) or time (within a position).

  The output of the temporal one is zero-initialised, so that a freshly inflated network acts on
  every frame as the image autoencoder.
  """

  groups: int
  axis: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTHWC):
    b, t, h, w, c = x_BTHWC.shape
    y = _frames(GroupNorm(self.groups, dtype=self.dtype, name="norm"), x_BTHWC)
    if self.axis == "space":
      y = y.reshape(b * t, h * w, 1, c)
    else:
      y = y.transpose(0, 2, 3, 1, 4).reshape(b * h * w, t, 1, c)
    project = lambda name, **kw: Linear(  # noqa: E731
      c, use_bias=True, logical=("conv_in", "conv_out"), dtype=self.dtype, name=name, **kw
    )
    y = attend(project("query")(y), project("key")(y), project("value")(y))
    zero = {"kernel_init": nn.initializers.zeros} if self.axis == "time" else {}
    y = project("out", **zero)(y)
    if self.axis == "space":
      return x_BTHWC + y.reshape(b, t, h, w, c)
    return x_BTHWC + y.reshape(b, h, w, t, c).transpose(0, 3, 1, 2, 4)


class Middle(nn.Module):
  """Residual block, attention in space then time, residual block, at the lowest resolution."""

  groups: int
  temporal: bool
  attention: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTHWC):
    c = x_BTHWC.shape[-1]
    block = lambda name: ResBlock(c, self.groups, self.temporal, self.dtype, name=name)  # noqa: E731
    x = block("block1")(x_BTHWC)
    if self.attention:
      x = AxisAttention(self.groups, "space", self.dtype, name="space")(x)
      if self.temporal:
        x = AxisAttention(self.groups, "time", self.dtype, name="time")(x)
    return block("block2")(x)


class TAE(nn.Module):
  """Encoder and decoder; call with `method="encode"` or `method="decode"`.

  Attributes:
    channels: width of the first level.
    multipliers: width of each level over `channels`; each level but the last halves the grid.
    blocks: residual blocks per level in the encoder; the decoder has one more.
    latent: latent channels C.
    patch: space-to-depth of (time, height, width) before the first level; (1, 1, 1) at paper size.
      A larger patch trades detail for speed: small models spend their time at full resolution.
    temporal: off gives the frame-wise image autoencoder with the same spatial parameters: T frames
      are T latents. Patches then span one frame.
    shortcut: adds a linear map of each compressed block to the network, whose own output is
      zero-initialised: it learns the residual of a linear autoencoder. Off at paper size.
    attention: attention at the lowest resolution.
    groups: GroupNorm groups.
  """

  channels: int = 128
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  blocks: int = 2
  latent: int = 16
  patch: tuple[int, int, int] = (1, 1, 1)
  temporal: bool = True
  shortcut: bool = False
  attention: bool = True
  groups: int = 32
  dtype: Any = jnp.float32

  @property
  def factors(self) -> tuple[int, int, int]:
    """Compression in (time, height, width)."""
    halvings = 2 ** (len(self.multipliers) - 1)
    time = self.patch[0] * halvings if self.temporal else 1
    return time, self.patch[1] * halvings, self.patch[2] * halvings

  def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
    """(T, H, W, C) of the latent of a clip.

    Raises:
      UserError: if height or width is not a multiple of the spatial factor.
    """
    ft, fh, fw = self.factors
    if height % fh or width % fw:
      near = [max(1, round(side / by)) * by for side, by in ((height, fh), (width, fw))]
      raise UserError(
        f"a frame of {height}x{width} cannot be encoded: its sides must be multiples of "
        f"{fh if fh == fw else f'{fh} and {fw}'}; the nearest size is {near[0]}x{near[1]}"
      )
    return math.ceil(frames / ft), height // fh, width // fw, self.latent

  def setup(self):
    if not self.temporal and self.patch[0] != 1:
      raise UserError(
        f"a frame-wise autoencoder cannot have patches of {self.patch[0]} frames; set patch to "
        f"{(1, *self.patch[1:])}"
      )
    conv = lambda features, **kw: Conv25(features, self.temporal, dtype=self.dtype, **kw)  # noqa: E731
    res = lambda c: ResBlock(c, self.groups, self.temporal, self.dtype)  # noqa: E731
    norm = lambda: GroupNorm(self.groups, dtype=self.dtype)  # noqa: E731
    middle = lambda: Middle(self.groups, self.temporal, self.attention, self.dtype)  # noqa: E731
    widths = [self.channels * m for m in self.multipliers]

    # A patch stem is a linear map of each patch; without one the outer layers are convolutions.
    linear = lambda c, **kw: Linear(  # noqa: E731
      c, use_bias=True, logical=("conv_in", "conv_out"), dtype=self.dtype, **kw
    )
    last = {"kernel_init": nn.initializers.zeros} if self.shortcut else {}
    stem = conv if math.prod(self.patch) == 1 else linear
    self.encoder_in = stem(widths[0])
    self.encoder_blocks = [[res(c) for _ in range(self.blocks)] for c in widths]
    self.encoder_down = [conv(c, resample="down") for c in widths[:-1]]
    self.encoder_middle = middle()
    self.encoder_norm = norm()
    self.encoder_out = conv(2 * self.latent, **last)

    self.decoder_in = conv(widths[-1])
    self.decoder_middle = middle()
    self.decoder_blocks = [[res(c) for _ in range(self.blocks + 1)] for c in reversed(widths)]
    self.decoder_up = [conv(c, resample="up") for c in reversed(widths[1:])]
    self.decoder_norm = norm()
    self.decoder_out = stem(math.prod(self.patch) * 3, **last)

    if self.shortcut:
      self.shortcut_in = linear(self.latent)
      self.shortcut_out = linear(math.prod(self.factors) * 3)

  def blocks_of(self, video_BTHWC: Array) -> Array:
    """The pixels of each latent position, (B, T, H, W, 8 * 8 * 8 * 3)."""
    return space_to_depth(_fill(video_BTHWC, self.factors[0]), self.factors)

  def encode(self, video_BTHWC: Float[Array, "B T H W 3"]):
    """Video in [-1, 1] to (mean, logvar), each (B, ceil(T'/8), H'/8, W'/8, C)."""
    self.latent_shape(*video_BTHWC.shape[1:4])
    x = space_to_depth(_fill(video_BTHWC, self.patch[0]).astype(self.dtype), self.patch)
    x = self.encoder_in(x)
    for i, blocks in enumerate(self.encoder_blocks):
      for block in blocks:
        x = block(x)
      if i < len(self.encoder_down):
        x = self.encoder_down[i](x)
    x = nn.silu(_frames(self.encoder_norm, self.encoder_middle(x)))
    mean, logvar = jnp.split(self.encoder_out(x).astype(jnp.float32), 2, axis=-1)
    if self.shortcut:
      mean = mean + self.shortcut_in(self.blocks_of(video_BTHWC).astype(self.dtype))
      logvar = logvar + SHORTCUT_LOGVAR
    return mean, jnp.clip(logvar, *LOGVAR_RANGE)

  def decode(self, latent_BTHWC: Float[Array, "B T H W C"], *, frames: int):
    """Latent to video in about [-1, 1] of exactly `frames` frames (at most 8 per latent)."""
    if not 0 < frames <= latent_BTHWC.shape[1] * self.factors[0]:
      raise UserError(f"{latent_BTHWC.shape[1]} latent frames cannot be decoded to {frames} frames")
    x = self.decoder_middle(self.decoder_in(latent_BTHWC.astype(self.dtype)))
    for i, blocks in enumerate(self.decoder_blocks):
      for block in blocks:
        x = block(x)
      if i < len(self.decoder_up):
        x = self.decoder_up[i](x)
    x = self.decoder_out(nn.silu(_frames(self.decoder_norm, x)))
    x = depth_to_space(x, self.patch)
    if self.shortcut:
      blocks = self.shortcut_out(latent_BTHWC.astype(self.dtype))
      x = x + depth_to_space(blocks, self.factors)
    return x[:, :frames].astype(jnp.float32)

  def fit_shortcut(self, params, video_BTHWC: Array):
    """Parameters whose shortcut is the best linear autoencoder of a batch (principal components).

    Latents then have mean zero and variance one per channel. Parameters keep their boxes.
    """
    x = self.blocks_of(video_BTHWC)
    x = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    mean = jnp.mean(x, axis=0)
    _, scale, components = jnp.linalg.svd(x - mean, full_matrices=False)
    # A batch of few positions has fewer components than there are channels: the rest are zero.
    missing = max(0, self.latent - len(scale))
    scale = jnp.pad(scale[: self.latent], (0, missing))
    components = jnp.pad(components[: self.latent], ((0, missing), (0, 0)))
    std = jnp.maximum(scale / math.sqrt(len(x)), 1e-3)
    into, out = components.T / std, components * std[:, None]
    fitted = {
      "shortcut_in": {"kernel": into, "bias": -mean @ into},
      "shortcut_out": {"kernel": out, "bias": mean},
    }
    return params | jax.tree.map(
      lambda old, new: meta.replace_boxed(old, new.astype(meta.unbox(old).dtype)),
      {name: params[name] for name in fitted}, fitted,
      is_leaf=lambda node: isinstance(node, meta.AxisMetadata),
    )

  def __call__(self, video_BTHWC):
    """Reconstruction through the latent mean; used to create the parameters."""
    mean, logvar = self.encode(video_BTHWC)
    return self.decode(mean, frames=video_BTHWC.shape[1]), mean, logvar
