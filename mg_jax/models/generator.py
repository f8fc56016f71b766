"""A generator: the flow transformer with the encoders that are trained together with it.

An encoder reads the condition of its name. One of kind "t5" reads text. One of kind "vision" is a
tower: images become one vector each, which the latents that they are nearest to share [MG 6.2].
Unlike the frozen tower of the paper, it encodes an image with the one before and the one after it,
their colours stacked, so that one vector holds a change of direction. Images of a condition of kind
"image" are encoded each alone, and the tokens of all their patches are read by cross-attention.
Conditions that arrive as token ids or images go through their encoder, conditions that arrive as
features (cached, or of a frozen encoder) straight to their route. A sampler encodes once with
`apply(params, cond, method="encode")` and passes the features at every step. Nulls are chosen
before encoding.

text {"ids": (B, S), "mask": (B, S)} -> {"features": (B, S, E), "mask"}
images {"image": uint8 (B, T, H, W, 3), "at": (B, L), "mask": (B, L)} -> (B, L, E), where "at" is
the image of a latent and "mask" whether it has one; its features are zero where it has not
images {"image": uint8 (B, N, H, W, 3), "mask": (B, N)} -> {"features": (B, N P, E), "mask"} of P
patches
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.typing import Array, Float
from mg_jax.data import condition_section
from mg_jax.models import conditioning
from mg_jax.models.dit import VideoDiT
from mg_jax.models.encoders.clip import VisionTower, normalise
from mg_jax.models.encoders.t5 import T5Encoder

ENCODERS: dict[str, type[nn.Module]] = {"t5": T5Encoder, "vision": VisionTower}


def from_config(config: Mapping[str, Any], **extra: Any) -> "Generator":
  """The generator of a config: its "model", and the routes and encoders of its "conditions".

  Raises:
    UserError: a field that is unknown, a condition without a route or with two.
  """
  fields, section = config["model"], config.get("conditions", {})
  routes, encoders = condition_section.routes(section), condition_section.encoders(section)
  if routes:
    dit = fields["dit"]
    twice = sorted(routes.keys() & dit["routes"].keys())
    if twice:
      raise UserError(f"condition {twice[0]!r} has a route in model.dit.routes and in conditions")
    fields = {
      **fields, "dit": {**dit, "routes": {**dit["routes"], **routes}},
      "encoders": {**fields["encoders"], **encoders},
    }  # fmt: skip
  return configs.build(Generator, fields, where="model", **extra)


class Generator(nn.Module):
  """Velocity network with its trained encoders.

  Attributes:
    dit: fields of VideoDiT.
    encoders: condition name -> `kind`, one of ENCODERS, and the fields of its class.
  """

  dit: Mapping[str, Any]
  encoders: Mapping[str, Any]

  def setup(self):
    self.velocity = configs.build(VideoDiT, self.dit, where="dit", name="dit")
    self.trained = {
      name: configs.build(
        ENCODERS[kind], fields, where=f"encoders.{name}", name=f"encoder_{name}"
      )
      for name, (kind, fields) in self._encoders().items()
    }

  def routes(self) -> conditioning.Table:
    """The parsed route table, which dropout and guidance take their nulls from."""
    dit = configs.build(VideoDiT, self.dit, where="dit", parent=None)
    return conditioning.table(dit.routes)

  def text_encoders(self) -> dict[str, Any]:
    """Fields of the encoders that read text, by name. Raises UserError on an unknown kind."""
    return {name: fields for name, (kind, fields) in self._encoders().items() if kind == "t5"}

  def vision_encoders(self) -> dict[str, Any]:
    """Fields of the encoders that see images, by name. Raises UserError on an unknown kind."""
    return {name: fields for name, (kind, fields) in self._encoders().items() if kind == "vision"}

  def _encoders(self) -> dict[str, tuple[str, dict[str, Any]]]:
    """Kind and fields of every encoder, sorted by name."""
    found = {}
    for name, entry in sorted(self.encoders.items()):
      kind = entry.get("kind")
      if kind not in ENCODERS:
        raise UserError(
          f"config model.encoders.{name}.kind is {kind!r}; known are {', '.join(ENCODERS)}"
        )
      found[name] = kind, {key: value for key, value in entry.items() if key != "kind"}
    return found

  def encode(self, cond: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces ids and images of trained encoders by features; everything else passes through.

    Raises:
      UserError: when ids or images arrive for a name without an encoder of their kind, and when
        images have another size than their tower takes.
    """
    out = dict(cond)
    for name, entry in cond.items():
      if not isinstance(entry, Mapping) or not {"ids", "image"} & entry.keys():
        continue
      what, kind, run = (
        ("token ids", "t5", _read) if "ids" in entry else ("images", "vision", _see)
      )
      if not isinstance(self.trained.get(name), ENCODERS[kind]):
        known = ", ".join(self.trained) or "none"
        raise UserError(
          f"condition {name!r} is {what} but has no encoder of kind {kind!r}; there is {known}"
        )
      out[name] = run(self.trained[name], entry)
    return out

  def __call__(
    self,
    x_BTHWC: Float[Array, "B T H W C"],
    t_B: Float[Array, "B"],
    cond: Mapping[str, Any],
  ) -> Float[Array, "B T H W C"]:
    """The velocity; arguments and errors are those of VideoDiT, with ids and images in `cond`."""
    return self.velocity(x_BTHWC, t_B, self.encode(cond))


def _read(encoder: T5Encoder, entry: Mapping[str, Any]) -> dict[str, Array]:
  return {"features": encoder(entry["ids"], entry["mask"]), "mask": entry["mask"]}


def _see(tower: VisionTower, entry: Mapping[str, Any]) -> Any:
  return _frames(tower, entry) if "at" in entry else _images(tower, entry)


def _images(tower: VisionTower, entry: Mapping[str, Any]) -> dict[str, Array]:
  """The tokens of the patches of all images."""
  pixels_BNHWC = normalise(entry["image"].astype(jnp.float32) / 255)
  rows, count = pixels_BNHWC.shape[:2]
  tokens = tower(pixels_BNHWC.reshape(-1, *pixels_BNHWC.shape[2:])).tokens[:, 1:]
  patches = tokens.shape[1]
  return {
    "features": tokens.reshape(rows, count * patches, -1),
    "mask": jnp.repeat(entry["mask"], patches, axis=1),
  }


def _frames(tower: VisionTower, entry: Mapping[str, Any]) -> Float[Array, "B L E"]:
  """Every image once, beside its neighbours, then each latent the vector of its image."""
  pixels_BTHWC = normalise(entry["image"].astype(jnp.float32) / 255)
  padded = jnp.pad(pixels_BTHWC, ((0, 0), (1, 1)) + ((0, 0),) * 3, mode="edge")
  stacked = jnp.concatenate([padded[:, :-2], pixels_BTHWC, padded[:, 2:]], axis=-1)
  pooled = tower(stacked.reshape(-1, *stacked.shape[2:])).pooled
  features_BTE = pooled.reshape(*stacked.shape[:2], -1)
  features_BLE = jnp.take_along_axis(features_BTE, entry["at"][..., None], axis=1)
  return features_BLE * entry["mask"][..., None].astype(features_BLE.dtype)
