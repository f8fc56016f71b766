"""The one conditioning scheme: named arrays, a table of routes, and a null value for every route.

A batch carries conditions by name. A table in the config sends each name to one or more routes:

| kind | array | what happens |
|---|---|---|
| modulate | (B, E), or class ids (B,) | summed into the time embedding [MG 5.1] |
| cross | {"features": (B, S, E), "mask": (B, S)}, or class ids (B,) | own Linear and LayerNorm to D, then joined along the sequence as cross-attention context [MG 3.1.4] |
| concat | (B, T, H, W, E) | channels beside x_t, their input columns starting at zero [MG 3.1.5, 5.1] |
| add | (B, t, E), one vector per latent frame | gated projection, the gate starting at zero, added to the tokens [MG 6.2] |
| clean | bool (B, T, H, W) | those tokens are modulated as t = 1 |

A stream of a text encoder that is trained with the generator arrives as {"ids": (B, S), "mask"}.
Guidance and dropout say which names are kept; all others take their null: no tokens, zero
channels, zero features, the class id one past the last, nothing clean.
"""  # noqa: E501

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.core.sharding import partitioned, shard
from mg_jax.core.typing import Array, Bool, Float
from mg_jax.models.patches import Size, patchify
from mg_jax.nn.linear import Linear
from mg_jax.nn.norms import LayerNorm


@dataclasses.dataclass(frozen=True)
class Route:
  """How one named condition enters the model.

  Attributes:
    kind: one of the five routes of the module's table.
    features: size E of the array's last axis (modulate, cross, concat, add).
    classes: for modulate and cross, the array holds ids 0..classes-1 instead, and `classes`
      itself is the null.
    tokens: context tokens per class id (cross with classes) [MG 5.1: four].
    zero_init: a cross stream added to a trained model starts as zero vectors.
  """

  kind: Literal["modulate", "cross", "concat", "add", "clean"]
  features: int = 0
  classes: int = 0
  tokens: int = 1
  zero_init: bool = False

  def __post_init__(self):
    if self.kind not in KINDS:
      raise UserError(f"route kind {self.kind!r} is unknown; known are {', '.join(KINDS)}")
    if self.classes and self.kind not in ("modulate", "cross"):
      raise UserError(f"a {self.kind} route takes no classes; give it features")
    if self.kind != "clean" and bool(self.features) == bool(self.classes):
      raise UserError(f"a {self.kind} route needs exactly one of features and classes")


KNOWN = "known"  # the clean route of latents that training draws and samplers hold
KINDS = ("modulate", "cross", "concat", "add", "clean")
Table = dict[str, tuple[Route, ...]]


def table(routes: Mapping[str, Any]) -> Table:
  """The route table of a config section, sorted by name so that no order of keys matters.

  Args:
    routes: name -> a Route, the fields of one, or a sequence of either when one condition takes
      several routes (the edit task: a modulation vector and four context tokens).

  Raises:
    UserError: on unknown fields or kinds, and on routes of one name that disagree on its null.
  """
  parsed = {}
  for name, entry in sorted(routes.items()):
    entries = entry if isinstance(entry, (list, tuple)) else (entry,)
    parsed[name] = tuple(
      e if isinstance(e, Route) else config.build(Route, e, where=f"routes.{name}") for e in entries
    )
    if len({(r.classes, r.features) for r in parsed[name]}) != 1:
      raise UserError(f"the routes of condition {name!r} disagree on classes or features")
  return parsed


def check(cond: Mapping[str, Any], routes: Table) -> None:
  """Raises UserError unless the batch carries exactly the conditions of the table."""
  for name in cond:
    if name not in routes:
      raise UserError(f"condition {name!r} has no route; the table knows {', '.join(routes)}")
  for name, entries in routes.items():
    # A clean mask is often absent (plain generation) and adds no parameters.
    if name not in cond and entries[0].kind != "clean":
      raise UserError(f"condition {name!r} is missing; pass its null to leave it out")


def _null(name: str, entry: Any, routes: Table) -> Any:
  """The null of one condition, in the shapes and dtypes of its entry."""
  if name not in routes:
    raise UserError(f"condition {name!r} has no route; the table knows {', '.join(routes)}")
  if routes[name][0].classes:
    return jnp.full_like(entry, routes[name][0].classes)
  return jax.tree.map(jnp.zeros_like, entry)


def abstract(
  conditions: Mapping[str, Any], rows: int, grid: tuple[int, int, int]
) -> dict[str, Any]:
  """Shapes of conditions as a batch carries them.

  Args:
    conditions: by name, see `data.conditions.Condition`.
    rows: of the batch.
    grid: (t, h, w) of its latents.
  """
  return {
    name: jax.tree.map(
      lambda a: jax.ShapeDtypeStruct((rows, *np.shape(a)), np.asarray(a).dtype), entry.null(grid)
    )
    for name, entry in conditions.items()
  }


def null_like(cond: Mapping[str, Any], *, routes: Table) -> dict[str, Any]:
  """Every condition at its null, in the shapes of the given ones."""
  return {name: _null(name, entry, routes) for name, entry in cond.items()}


def keep_only(
  cond: Mapping[str, Any], names: Collection[str], *, routes: Table
) -> dict[str, Any]:
  """One guidance branch: the named conditions stay and all others take their null.

  A clean mask stays whatever is named: it says what the latent holds, not what it should become.

  Raises:
    UserError: when a name is not among the conditions.
  """
  unknown = sorted(set(names) - set(cond))
  if unknown:
    raise UserError(f"guidance keeps {unknown}, but the conditions are {sorted(cond)}")
  null = null_like(cond, routes=routes)
  kept = {name for name in cond if name in names or routes[name][0].kind == "clean"}
  return {name: entry if name in kept else null[name] for name, entry in cond.items()}


def drop(
  cond: Mapping[str, Any],
  keep: Mapping[str, Bool[Array, "B"]],
  *,
  routes: Table,
) -> dict[str, Any]:
  """Replaces conditions by their null, sample by sample.

  Args:
    cond: conditions by name.
    keep: True where a sample keeps the named condition; names left out are kept.
    routes: the table.
  """
  out = dict(cond)
  for name, keep_B in keep.items():
    if name not in cond:
      raise UserError(f"dropout names condition {name!r}, but the batch has {sorted(cond)}")

    def choose(a, n, keep_B=keep_B):
      return jnp.where(keep_B.reshape(keep_B.shape + (1,) * (a.ndim - keep_B.ndim)), a, n)

    null = _null(name, cond[name], routes)
    out[name] = jax.tree.map(choose, cond[name], null)
  return out


def repeat(cond: Mapping[str, Any], times: int, *, routes: Table) -> dict[str, Any]:
  """Every row `times` times, one after the other, but for what only cross-attention reads.

  Cross-attention shares one row of its context among the rows of x that it divides into. Where a
  condition is read by another route as well, all are repeated: the streams of a context are joined,
  so they have equally many rows.
  """
  kinds = {name: {entry.kind for entry in entries} for name, entries in routes.items()}
  crossing = {name for name in kinds if "cross" in kinds[name]}
  shared = crossing if all(kinds[name] == {"cross"} for name in crossing) else set()
  return {
    name: entry
    if name in shared
    else jax.tree.map(lambda a: jnp.repeat(a, times, axis=0), entry)
    for name, entry in cond.items()
  }


class Conditioner(nn.Module):
  """The learned side of the table: projections of every route to the model width.

  Attributes:
    width: D.
    routes: the table, or the config section it is parsed from.
    dtype: of the activations; the modulation vector is always float32.
  """

  width: int
  routes: Mapping[str, Any]
  dtype: Any = jnp.float32

  def setup(self):
    self.projections = {
      f"{name}_{route.kind}": self._projection(route, f"{name}_{route.kind}")
      for name, route in self._each("modulate", "cross", "concat", "add")
    }

  def _projection(self, route: Route, name: str) -> nn.Module:
    zeros = nn.initializers.zeros
    if route.kind == "cross":
      return CrossStream(self.width, route, dtype=self.dtype, name=name)
    if route.kind == "add":
      return GatedLinear(self.width, dtype=self.dtype, name=name)
    if route.kind == "concat":
      return Linear(
        self.width, logical=("patch", "embed"), kernel_init=zeros, dtype=self.dtype, name=name
      )
    if route.classes:
      return ClassTable(route.classes, self.width, name=name)
    return Linear(
      self.width, logical=("features", "embed"), kernel_init=zeros, dtype=jnp.float32, name=name
    )

  def _each(self, *kinds: str):
    for name, entries in table(self.routes).items():
      for route in entries:
        if route.kind in kinds:
          yield name, route

  def modulation(self, cond: Mapping[str, Any]) -> Float[Array, "B D"] | float:
    """What is summed into the time embedding, in float32."""
    parts = [self.projections[f"{name}_modulate"](cond[name]) for name, _ in self._each("modulate")]
    return sum(parts, 0.0)

  def context(
    self, cond: Mapping[str, Any]
  ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]] | tuple[None, None]:
    """The cross-attention context and its mask; None without any cross route."""
    parts = [self.projections[f"{name}_cross"](cond[name]) for name, _ in self._each("cross")]
    if not parts:
      return None, None
    features, masks = zip(*parts, strict=True)
    context_BSD = shard(jnp.concatenate(features, axis=1), "batch", "text_length", "act_embed")
    return context_BSD, jnp.concatenate(masks, axis=1)

  def tokens(
    self, x_BTPD: Float[Array, "B t hw D"], cond: Mapping[str, Any], patch: Size
  ) -> Float[Array, "B t hw D"]:
    """The tokens with channel-wise and frame-wise conditions added.

    A concat route is `[W, W_new] [x; c] = W x + W_new c`: keeping W_new as a parameter of its own
    makes a warm start need no surgery and leave the output bit-equal while W_new is zero.

    Raises:
      UserError: when a condition's frames or size differ from those of x_t.
    """
    for name, _ in self._each("concat"):
      patches = patchify(cond[name].astype(self.dtype), patch)
      if patches.shape[1:3] != x_BTPD.shape[1:3]:
        raise UserError(f"concat condition {name!r} {cond[name].shape} has another size than x_t")
      x_BTPD = x_BTPD + self.projections[f"{name}_concat"](patches)
    for name, _ in self._each("add"):
      if cond[name].shape[1] != x_BTPD.shape[1]:
        raise UserError(
          f"add condition {name!r} has {cond[name].shape[1]} frames for {x_BTPD.shape[1]} of x_t"
        )
      x_BTPD = x_BTPD + self.projections[f"{name}_add"](cond[name])[:, :, None]
    return x_BTPD

  def clean(self, cond: Mapping[str, Any]) -> Bool[Array, "B T H W"] | None:
    """The union of the clean masks, None without any."""
    masks = [cond[name] for name, _ in self._each("clean") if name in cond]
    return jnp.any(jnp.stack(masks), axis=0) if masks else None


class ClassTable(nn.Module):
  """A learned vector per class id and one for the null, all starting at zero. (B,) -> (B, D)"""

  classes: int
  features: int

  @nn.compact
  def __call__(self, ids_B):
    init = partitioned(nn.initializers.zeros, None, "embed")
    table_ED = self.param("table", init, (self.classes + 1, self.features), jnp.float32)
    return table_ED[ids_B]


class GatedLinear(nn.Module):
  """A projection under a gate that starts at zero. (..., E) -> (..., D) [MG 6.2]"""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    gate_D = self.param("gate", partitioned(nn.initializers.zeros, "embed"), (self.features,))
    y = Linear(self.features, logical=("features", "embed"), dtype=self.dtype, name="linear")(x)
    return y * gate_D.astype(self.dtype)


class CrossStream(nn.Module):
  """One stream of the context: Linear and LayerNorm to the model width [MG 3.1.4].

  Zero tokens come from a zero LayerNorm scale, not from a zero Linear, whose gradient through the
  normalisation would be enormous.
  """

  width: int
  route: Route
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, entry):
    route = self.route
    if route.classes:
      init = partitioned(nn.initializers.normal(0.02), None, None, "features")
      table = self.param("table", init, (route.classes, route.tokens, self.width), jnp.float32)
      features = table[jnp.minimum(entry, route.classes - 1)].astype(self.dtype)
      mask = jnp.broadcast_to(entry[:, None] < route.classes, features.shape[:2])
    else:
      features, mask = entry["features"].astype(self.dtype), entry["mask"]
    y = Linear(self.width, logical=("features", "embed"), dtype=self.dtype, name="linear")(features)
    scale = nn.initializers.zeros if route.zero_init else nn.initializers.ones
    return LayerNorm(scale_init=scale, dtype=self.dtype, name="norm")(y), mask
