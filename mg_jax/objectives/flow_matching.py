"""Flow matching: the objective of every generator [MG 3.1.2].

Batches hold "latent", float (B, T, H, W, C), normalised per channel, "index", int32 (B,), and the
conditions that the model's route table names. Training draws noise, time and dropped conditions;
positions that a `clean` condition marks keep their data and carry no loss. With `prefix`, training
draws such a mask itself, of the first latent frames of a clip, so that the model also extends clips
that begin.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.rng import stream, streams
from mg_jax.core.sharding import shard
from mg_jax.core.typing import Array
from mg_jax.losses import flow
from mg_jax.models import conditioning
from mg_jax.models.conditioning import KNOWN

JOINT = "joint"


@dataclasses.dataclass(frozen=True)
class FlowMatching:
  """Trains a velocity network; see `mg_jax.objectives.base.Objective` for the protocol.

  Attributes:
    model: called as (x, t_B, cond), with a `routes()` table, like `models.generator.Generator`.
    drop: probability with which a sample loses a condition, by name, each on its own; "joint" is
      the probability of losing all the conditions listed here together, on top. The paper gives
      no rates for text.
    time: "random" draws the times of a batch independently, "stratified" spreads their quantiles.
    time_mean, time_std: of the normal under the logit-normal.
    draws: times and noises of every sample in a step. They share its encoded text, which is much
      of the work where clips have fewer tokens than captions.
    prefix: probability with which a sample of several latent frames keeps its first ones, 1 to all
      but one of them, clean; the model then needs the route `KNOWN` of kind "clean".
    bins: times at which `evaluate` measures, the centres of equal bins of [0, 1].
  """

  model: nn.Module
  drop: Mapping[str, float] = dataclasses.field(default_factory=dict)
  time: Literal["random", "stratified"] = "random"
  time_mean: float = flow.TIME_MEAN
  time_std: float = flow.TIME_STD
  draws: int = 1
  prefix: float = 0.0
  bins: int = 8
  roles: tuple[str, ...] = ("model",)

  def __post_init__(self):
    for name, rate in self.drop.items():
      if not 0 <= rate <= 1:
        raise UserError(f"drop.{name} is {rate}; a probability lies in 0..1.")
    if self.drop.get(JOINT) and len(self.drop) == 1:
      raise UserError("drop.joint drops the conditions listed in drop; list them, if only at 0.0.")
    if not 0 <= self.prefix <= 1:
      raise UserError(f"prefix is {self.prefix}; a probability lies in 0..1.")
    if self.prefix and KNOWN not in self.model.routes():
      raise UserError(
        f"prefix is {self.prefix}, but the model has no route {KNOWN!r}; add "
        f'model.dit.routes.{KNOWN} = {{"kind": "clean"}}'
      )
    if self.bins < 1 or self.draws < 1:
      raise UserError(f"bins is {self.bins} and draws {self.draws}; both are at least 1.")

  def init(self, key, batch):
    def blank(a):
      return jnp.zeros((1,) + tuple(a.shape[1:]), a.dtype)

    latent, cond = jax.tree.map(blank, (batch["latent"], self._conditions(batch)))
    return {"model": self.model.init(key, latent, jnp.zeros((1,)), cond)["params"]}

  def loss(self, role, params, batch, key, step, carry):
    """The flow-matching loss at one random time per sample.

    A key serves one microbatch of one step: the caller folds in both.
    """
    del role, step
    keys = streams(key, ("noise", "time", "drop"))
    x1 = jnp.asarray(batch["latent"], jnp.float32)
    routes = self.model.routes()
    keep = self._keep(keys["drop"], x1.shape[0])
    given = self._conditions(batch)
    cond = conditioning.drop(
      given, {name: keep_B for name, keep_B in keep.items() if name in given}, routes=routes
    )
    weight = self._weight(batch)
    if self.draws > 1:
      # Draws share what encoders make of text and images.
      cond = self.model.apply({"params": params["model"]}, cond, method="encode")
      cond = conditioning.repeat(cond, self.draws, routes=routes)
      repeat = functools.partial(jnp.repeat, repeats=self.draws, axis=0)
      x1, weight, keep = jax.tree.map(repeat, (x1, weight, keep))
    cond |= self._drawn(key, x1, weight, keep)
    t_B = flow.sample_time(
      keys["time"], x1.shape[:1], mean=self.time_mean, std=self.time_std, spacing=self.time
    )
    noise = jax.random.normal(keys["noise"], x1.shape)
    loss = jnp.mean(self._loss_B(params, x1, noise, t_B, cond, weight))
    return loss, ({"loss": loss}, carry)

  def evaluate(self, params, batch, key):
    """Losses at fixed times, "fm_loss/t0.06" and so on, and their mean "fm_loss".

    Each is a mean over the rows that the batch marks as "valid", bool (B,), or over all without it.
    The noise of a sample depends on `key` and its index alone, so two checkpoints, batch sizes or
    meshes compare on equal draws. The paper finds this loss to follow human judgement [MG Fig. 15].
    """
    x1 = jnp.asarray(batch["latent"], jnp.float32)
    noise = jax.vmap(lambda i: jax.random.normal(stream(key, "noise", i), x1.shape[1:]))
    x0 = noise(batch["index"])
    cond = self._conditions(batch)
    centres = [(i + 0.5) / self.bins for i in range(self.bins)]
    # One bin at a time: evaluation then needs no more memory than a forward pass of the batch.
    losses_B = jax.lax.map(
      lambda t: self._loss_B(
        params, x1, x0, jnp.full(x1.shape[:1], t), cond, self._weight(batch)
      ),
      jnp.array(centres),
    )
    valid_B = jnp.asarray(batch.get("valid", np.ones(x1.shape[:1])), jnp.float32)
    losses = losses_B @ valid_B / jnp.maximum(valid_B.sum(), 1)
    table = {f"fm_loss/t{t:.2f}": losses[i] for i, t in enumerate(centres)}
    return {"fm_loss": jnp.mean(losses)} | table

  def _weight(self, batch: Mapping[str, Any]) -> Array | None:
    """Which latents carry loss, bool (B, T, ...); None for all."""
    del batch
    return None

  def _drawn(
    self, key: Array, x1: Array, weight: Array | None, keep: Mapping[str, Array]
  ) -> dict[str, Any]:
    """Conditions that are no part of a batch, drawn for every draw of a sample.

    Args:
      key: of the step.
      x1: latents (B, T, H, W, C).
      weight: as `_weight` gives it.
      keep: who keeps which condition, as `_keep` gives it.
    """
    del weight, keep
    rows, frames = x1.shape[:2]
    if not self.prefix or frames < 2:
      return {}
    keys = streams(stream(key, KNOWN), ("whether", "frames"))
    count_B = jax.random.randint(keys["frames"], (rows,), 1, frames)
    count_B *= jax.random.bernoulli(keys["whether"], self.prefix, (rows,))
    known_BT = jnp.arange(frames) < count_B[:, None]
    return {KNOWN: jnp.broadcast_to(known_BT[:, :, None, None], x1.shape[:4])}

  def _conditions(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    routes = self.model.routes()
    cond = {name: batch[name] for name in routes if name in batch}
    conditioning.check(cond, routes)
    return cond

  def _keep(self, key: Array, size: int) -> dict[str, Array]:
    """Who keeps what, bool (B,) by condition; an unlisted condition is always kept."""
    together = jax.random.bernoulli(stream(key, JOINT), 1 - self.drop.get(JOINT, 0.0), (size,))
    return {
      name: together & jax.random.bernoulli(stream(key, f"name/{name}"), 1 - rate, (size,))
      for name, rate in self.drop.items()
      if name != JOINT
    }

  def _loss_B(self, params, x1, x0, t_B, cond, weight=None) -> Array:
    """One loss a sample; `weight` as in `flow.flow_loss`, on top of the clean masks."""
    clean = self._clean(cond)
    x_t = flow.interpolate(x0, x1, t_B)
    if clean is not None:
      x_t = jnp.where(clean[..., None], x1, x_t)
    x_t = shard(x_t, "batch", "time", "height", "width", "channels")
    pred = self.model.apply({"params": params["model"]}, x_t, t_B, cond)
    if clean is not None:
      weight = ~clean if weight is None else weight & ~clean
    return flow.flow_loss(pred, flow.velocity(x0, x1), weight=weight, per_sample=True)

  def _clean(self, cond: Mapping[str, Any]) -> Array | None:
    """Union of the clean masks (B, T, H, W), None without any."""
    routes = self.model.routes()
    masks = [mask for name, mask in cond.items() if routes[name][0].kind == "clean"]
    return jnp.any(jnp.stack(masks), axis=0) if masks else None
