"""A generator: the flow transformer with the text encoders that are trained together with it.

Conditions that arrive as token ids go through the encoder of their name, conditions that arrive as
features (cached, or of a frozen encoder) straight to their route. A sampler encodes once with
`apply(params, cond, method="encode")` and passes the features at every step. Nulls are chosen
before encoding.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.core.typing import Array, Bool, Float, Int
from mg_jax.models import conditioning
from mg_jax.models.dit import VideoDiT
from mg_jax.models.text import T5Encoder


class Generator(nn.Module):
  """Velocity network with its trained text encoders.

  Attributes:
    dit: fields of VideoDiT.
    encoders: condition name -> fields of T5Encoder.
  """

  dit: Mapping[str, Any]
  encoders: Mapping[str, Any]

  def setup(self):
    self.velocity = config.build(VideoDiT, self.dit, where="dit", name="dit")
    self.text = {
      name: config.build(T5Encoder, fields, where=f"encoders.{name}", name=f"encoder_{name}")
      for name, fields in sorted(self.encoders.items())
    }

  def routes(self) -> conditioning.Table:
    """The parsed route table, which dropout and guidance take their nulls from."""
    return conditioning.table(config.build(VideoDiT, self.dit, where="dit", parent=None).routes)

  def encode(self, cond: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces the ids of trained streams by features; everything else passes through.

    Raises:
      UserError: when ids arrive for a name without an encoder.
    """
    out = dict(cond)
    for name, entry in cond.items():
      if isinstance(entry, Mapping) and "ids" in entry:
        if name not in self.text:
          known = ", ".join(self.text) or "none"
          raise UserError(f"condition {name!r} is token ids but has no encoder; there is {known}")
        features = self.text[name](entry["ids"], entry["mask"])
        out[name] = {"features": features, "mask": entry["mask"]}
    return out

  def __call__(
    self,
    x_BTHWC: Float[Array, "B T H W C"],
    t_B: Float[Array, "B"],
    cond: Mapping[str, Any],
    *,
    clean_BTHW: Bool[Array, "B T H W"] | None = None,
    first_frame_B: Int[Array, "B"] | None = None,
  ) -> Float[Array, "B T H W C"]:
    """The velocity; arguments and errors are those of VideoDiT, with ids allowed in `cond`."""
    return self.velocity(
      x_BTHWC, t_B, self.encode(cond), clean_BTHW=clean_BTHW, first_frame_B=first_frame_B
    )
