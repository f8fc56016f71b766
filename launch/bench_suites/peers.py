"""The same networks in plain PyTorch: one layer of the generator, and the 2.5D autoencoder.

Written like fast PyTorch for a CPU: fused projections, fused attention, every video in
channels-last memory, so that frames and sequences are views, and without gradients the
autoencoder's sums and activations in place. A test copies weights over from mg_jax and compares the
outputs.
tokens (B, L, D); video (B, 3, T, H, W) and latent (B, C, T, H, W) in channels_last_3d memory.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
  """models.transformer.Block with cross-attention."""

  def __init__(self, width: int, heads: int, mlp_dim: int):
    super().__init__()
    self.heads = heads
    linear = lambda a, b: nn.Linear(a, b, bias=False)  # noqa: E731
    self.modulation = nn.Parameter(torch.zeros(6, width))
    self.attention_norm = nn.RMSNorm(width, eps=1e-5)
    self.qkv, self.out = linear(width, 3 * width), linear(width, width)
    self.cross_q, self.cross_kv = linear(width, width), linear(width, 2 * width)
    self.cross_out = linear(width, width)
    self.mlp_norm = nn.RMSNorm(width, eps=1e-5)
    self.w13, self.w2 = linear(width, 2 * mlp_dim), linear(mlp_dim, width)

  def _attend(self, q, k, v, mask=None):
    heads = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2)

  def forward(self, x, positions, modulation, context, context_mask):
    parts = (modulation + self.modulation).split(1, dim=1)
    shift1, scale1, gate1, shift2, scale2, gate2 = parts
    x = x + positions
    h = self.attention_norm(x) * (1 + scale1) + shift1
    x = x + gate1 * self.out(self._attend(*self.qkv(h).chunk(3, -1)))
    keys = self.cross_kv(context).chunk(2, -1)
    mask = context_mask[:, None, None, :]
    x = x + self.cross_out(self._attend(self.cross_q(x), *keys, mask=mask))
    h = self.mlp_norm(x) * (1 + scale2) + shift2
    gate, value = self.w13(h).chunk(2, -1)
    return x + gate2 * self.w2(F.silu(gate) * value)


def _frames(x):
  """(B, C, T, H, W) as (B T, C, H, W), a view in channels-last memory."""
  return x.transpose(1, 2).flatten(0, 1)


def _video(x, batch):
  return x.unflatten(0, (batch, -1)).transpose(1, 2)


class Conv25(nn.Module):
  """A spatial convolution, then a temporal one over replicated edge frames."""

  def __init__(self, channels: int, features: int, resample: str = "none"):
    super().__init__()
    stride = 2 if resample == "down" else 1
    self.up, self.down = resample == "up", resample == "down"
    self.spatial = nn.Conv2d(channels, features, 3, stride=stride, padding=0 if self.down else 1)
    self.temporal = nn.Conv3d(features, features, (3, 1, 1), stride=(stride, 1, 1))

  def forward(self, x):
    y = _frames(x)
    if self.up:
      y = F.interpolate(y, scale_factor=2.0, mode="nearest")
    if self.down:
      y = F.pad(y, (0, 1, 0, 1))  # at the end only, as in published autoencoders
    y = _video(self.spatial(y), x.shape[0]).movedim(1, -1)
    if self.up:
      y = y.repeat_interleave(2, dim=1)
    # Concatenated in memory order: a cat of channels-first views would not be channels-last.
    return self.temporal(torch.cat([y[:, :1], y, y[:, -1:]], dim=1).movedim(-1, 1))


class GroupNorm(nn.GroupNorm):
  """Normalises every frame separately."""

  def __init__(self, groups: int, channels: int):
    super().__init__(groups, channels, eps=1e-6)

  def forward(self, x):
    return _video(super().forward(_frames(x)), x.shape[0])


class SiLU(nn.Module):
  """In place unless gradients are needed."""

  def forward(self, x):
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
  """Norm, SiLU, convolution, twice, around a shortcut."""

  def __init__(self, channels: int, features: int, groups: int):
    super().__init__()
    self.norm1, self.conv1 = GroupNorm(groups, channels), Conv25(channels, features)
    self.norm2, self.conv2 = GroupNorm(groups, features), Conv25(features, features)
    self.shortcut = nn.Conv3d(channels, features, 1) if channels != features else nn.Identity()
    self.silu = SiLU()

  def forward(self, x):
    y = self.conv1(self.silu(self.norm1(x)))
    y = self.conv2(self.silu(self.norm2(y)))
    return y + self.shortcut(x) if torch.is_grad_enabled() else y.add_(self.shortcut(x))


class AxisAttention(nn.Module):
  """Single-head attention within a frame, or within a position over time."""

  def __init__(self, channels: int, groups: int, axis: str):
    super().__init__()
    self.axis = axis
    self.norm = GroupNorm(groups, channels)
    self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

  def forward(self, x):
    order = (0, 2, 3, 4, 1) if self.axis == "space" else (0, 3, 4, 2, 1)
    y = self.norm(x).permute(order)
    shape = y.shape
    y = y.flatten(2, 3).flatten(0, 1) if self.axis == "space" else y.flatten(0, 2)
    q, k, v = (t.unsqueeze(1) for t in self.qkv(y).chunk(3, -1))
    y = self.out(F.scaled_dot_product_attention(q, k, v).squeeze(1)).view(shape)
    return y.permute([order.index(axis) for axis in range(5)]) + x


def _middle(channels, groups):
  return nn.Sequential(
    ResBlock(channels, channels, groups),
    AxisAttention(channels, groups, "space"),
    AxisAttention(channels, groups, "time"),
    ResBlock(channels, channels, groups),
  )


class Encoder(nn.Module):
  """Video to mean and log-variance."""

  def __init__(self, *, channels, multipliers, blocks, latent, groups):
    super().__init__()
    widths = [channels * m for m in multipliers]
    layers, last = [Conv25(3, channels)], channels
    for i, width in enumerate(widths):
      for _ in range(blocks):
        layers.append(ResBlock(last, width, groups))
        last = width
      if i < len(widths) - 1:
        layers.append(Conv25(width, width, "down"))
    layers += [_middle(last, groups), GroupNorm(groups, last), SiLU()]
    self.layers = nn.Sequential(*layers, Conv25(last, 2 * latent))

  def forward(self, video):
    mean, logvar = self.layers(video).chunk(2, dim=1)
    return mean, logvar.clamp(-30.0, 20.0)


class Decoder(nn.Module):
  """Latent to video."""

  def __init__(self, *, channels, multipliers, blocks, latent, groups):
    super().__init__()
    widths = [channels * m for m in reversed(multipliers)]
    layers, last = [Conv25(latent, widths[0]), _middle(widths[0], groups)], widths[0]
    for i, width in enumerate(widths):
      for _ in range(blocks + 1):
        layers.append(ResBlock(last, width, groups))
        last = width
      if i < len(widths) - 1:
        layers.append(Conv25(width, width, "up"))
    layers += [GroupNorm(groups, last), SiLU(), Conv25(last, 3)]
    self.layers = nn.Sequential(*layers)

  def forward(self, latent):
    return self.layers(latent)
