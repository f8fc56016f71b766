"""The flow transformer: latent and time in, velocity out; one class for video, images and audio.

[MG 3.1.3] A latent (B, T, H, W, C) is cut into patches of (1, 2, 2), each projected to the model
width; three learned tables, one per axis, give the position that enters every layer; the head
projects back to the patch. An image is a video of one frame, and 1-D audio (B, T, 1, 1, C) is a
video of one pixel with patch (1, 1, 1).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict

from mg_jax.core.errors import UserError
from mg_jax.core.remat import Policy
from mg_jax.core.sharding import shard
from mg_jax.core.typing import Array, Float
from mg_jax.kernels.context import Scheme
from mg_jax.models import conditioning, patches
from mg_jax.models.transformer import Transformer
from mg_jax.nn.embeddings import FactorizedPositions, TimeEmbedding
from mg_jax.nn.linear import Linear


class VideoDiT(nn.Module):
  """Velocity network over latents.

  Attributes:
    channels: C of the latent, in and out.
    patch: (time, height, width) of one token.
    width, layers, heads, mlp_dim: D, depth, N, F.
    max_thw: sizes of the three position tables, in tokens.
    routes: the condition table of models.conditioning, or the config section of one.
    qk_norm, context_parallel, remat, unroll, dtype: see Transformer.
  """

  channels: int = 16
  patch: tuple[int, int, int] = (1, 2, 2)
  width: int = 128
  layers: int = 6
  heads: int = 4
  mlp_dim: int = 384
  max_thw: tuple[int, int, int] = (32, 32, 32)
  routes: Mapping[str, Any] = FrozenDict()
  qk_norm: bool = False
  context_parallel: Scheme = "gather"
  remat: Policy = "none"
  unroll: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x_BTHWC: Float[Array, "B T H W C"],
    t_B: Float[Array, "B"],
    cond: Mapping[str, Any],
  ) -> Float[Array, "B T H W C"]:
    """The velocity at x and t, in float32.

    Args:
      x_BTHWC: point of the path.
      t_B: its times in [0, 1].
      cond: conditions by name, as the route table wants them. A token of a clean mask counts as
        clean when all of its patch is.

    Raises:
      UserError: on a latent that the patch does not divide or that outgrows the position tables,
        and on conditions that do not fit the routes.
    """
    if x_BTHWC.shape[-1] != self.channels:
      raise UserError(f"the model has channels={self.channels}, the latent {x_BTHWC.shape[-1]}")
    if self.width % self.heads:
      raise UserError(f"width {self.width} is not divisible by {self.heads} heads")
    routes = conditioning.table(self.routes)
    conditioning.check(cond, routes)
    tokens = patches.grid(x_BTHWC.shape[1:4], self.patch)
    conditioner = conditioning.Conditioner(
      self.width, self.routes, dtype=self.dtype, name="conditioner"
    )

    embed = Linear(
      self.width,
      logical=("patch", "embed"),
      kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
      dtype=self.dtype,
      name="patch",
    )
    x_BTPD = embed(patches.patchify(x_BTHWC.astype(self.dtype), self.patch))
    x_BTPD = conditioner.tokens(x_BTPD, cond, self.patch)
    x_BLD = shard(x_BTPD.reshape(x_BTPD.shape[0], -1, self.width), "batch", "stream", "act_embed")

    time = TimeEmbedding(self.width, name="time")
    extra = conditioner.modulation(cond)
    clean_BTHW = conditioner.clean(cond)
    clean_BL = None if clean_BTHW is None else patches.patch_mask(clean_BTHW, self.patch)
    context_BSD, mask_BS = conditioner.context(cond)
    positions = FactorizedPositions(self.max_thw, self.width, name="positions")
    x_BLD = Transformer(
      layers=self.layers,
      heads=self.heads,
      mlp_dim=self.mlp_dim,
      qk_norm=self.qk_norm,
      context_parallel=self.context_parallel,
      remat=self.remat,
      unroll=self.unroll,
      dtype=self.dtype,
      name="transformer",
    )(
      x_BLD,
      positions=positions(tokens),
      time_BD=time(t_B) + extra,
      context_BSD=context_BSD,
      context_mask_BS=mask_BS,
      clean_BL=clean_BL,
      clean_time_BD=None if clean_BL is None else time(jnp.ones_like(t_B)) + extra,
    )
    head = Linear(
      self.patch[0] * self.patch[1] * self.patch[2] * self.channels,
      logical=("embed", "patch"),
      kernel_init=nn.initializers.zeros,
      dtype=self.dtype,
      name="head",
    )
    return patches.unpatchify(head(x_BLD), tokens, self.patch).astype(jnp.float32)
