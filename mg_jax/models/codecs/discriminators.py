"""Patch discriminators, for the adversarial loss of the autoencoder [MG 3.1.1].

The published PatchGAN: convolutions 64-128-256-512 with kernel 4, of which all but the last halve
the frame, then one to a logit per patch, 70 pixels wide. The 2-D network classifies every frame
separately; with `temporal` each convolution but the last is followed by one over time, as in the
autoencoder, and clips are classified; an image is a clip of one frame. The paper only states that
there is a discriminator.

video (B, T', H', W', 3) in [-1, 1] -> logits (B, T, h, w), positive for real
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import shard
from mg_jax.core.typing import Array, Float
from mg_jax.nn.conv import SpatialConv, TemporalConv
from mg_jax.nn.norms import GroupNorm


class PatchDiscriminator(nn.Module):
  """Logits of patches of frames, or of clips if `temporal`.

  GroupNorm replaces the batch normalisation of the published layout: its statistics are per frame,
  so that image batches, video batches and sharded batches are treated alike, logits of
  reconstructions do not depend on the real frames of the batch, and there are no running averages.

  Attributes:
    channels: width of the first convolution.
    multipliers: widths over `channels`; all but the last halve height and width.
    temporal: classifies clips; the same convolutions also halve the number of frames, rounding up.
      Convolutions over time are the identity at initialisation, so that training can continue from
      a 2-D one.
    groups: GroupNorm groups.
  """

  channels: int = 64
  multipliers: tuple[int, ...] = (1, 2, 4, 8)
  temporal: bool = False
  groups: int = 32
  dtype: Any = jnp.float32

  @property
  def frame_stride(self) -> int:
    """Frames per logit in time."""
    return 2 ** (len(self.multipliers) - 1) if self.temporal else 1

  @nn.compact
  def __call__(self, video_BTHWC: Float[Array, "B T H W 3"]) -> Float[Array, "B T2 H2 W2"]:
    side, least = min(video_BTHWC.shape[2:4]), 3 * 2 ** (len(self.multipliers) - 1)
    if side < least:
      raise UserError(
        f"the discriminator needs frames of at least {least} pixels per side, not {side}; give it "
        "fewer multipliers"
      )
    init = nn.initializers.normal(0.02)
    b, t, *frame = video_BTHWC.shape
    x = shard(video_BTHWC, "batch", "time", "height", "width", "channels")
    x = x.reshape(b * t, *frame)
    last = len(self.multipliers) - 1
    for i, multiplier in enumerate(self.multipliers):
      width, stride = self.channels * multiplier, 1 if i == last else 2
      conv = SpatialConv(
        width, kernel=4, stride=stride, kernel_init=init, dtype=self.dtype, name=f"spatial{i}"
      )
      x = conv(x)
      if self.temporal:
        over_time = TemporalConv(
          width, stride=stride, kernel_init="identity", dtype=self.dtype, name=f"temporal{i}"
        )
        y = over_time(x.reshape(b, t, *x.shape[1:]))
        t = y.shape[1]
        x = y.reshape(b * t, *y.shape[2:])
      if i:
        x = GroupNorm(self.groups, dtype=self.dtype, name=f"norm{i}")(x)
      x = jax.nn.leaky_relu(x, 0.2)
    x = SpatialConv(1, kernel=4, kernel_init=init, dtype=self.dtype, name="logit")(x)
    return x.reshape(b, t, *x.shape[1:3]).astype(jnp.float32)
