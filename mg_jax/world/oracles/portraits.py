"""Portraits: what somebody looks like, by drawing the alternatives and comparing them with a clip.

Given where the face is (`faces`), every value of a trait, and of expression, gaze and light, is
drawn at exactly that place; its cost in a frame is how far the drawing is from the pixels. The one
with the least cost is what a clip shows. Second half of the oracles of people.
"""

import dataclasses

import numpy as np

from mg_jax.world.oracles.faces import FACE, Faces
from mg_jax.world.oracles.mask import background
from mg_jax.world.people import drawing, hair
from mg_jax.world.people.drawing import Heads
from mg_jax.world.people.facts import (
  BROWS,
  EXPRESSIONS,
  EYES,
  GAZES,
  GLASSES,
  HAIRCUTS,
  HAIRS,
  MARKS,
  SHAPES,
  SKINS,
  Identity,
)
from mg_jax.world.people.motion import FACES, PARAMETERS, Curves
from mg_jax.world.people.render import blend, side_light

LIMIT = 70.0  # a pixel that is further off counts no more
TRUST = 0.85  # factor on the cost of the tone by which the face was found
OPEN = (0.0, 0.0, 0.2, 0.03, 0.3, 0.0, 1.0)  # the mouth of somebody who talks
MOUTHS = {**FACES, "open": OPEN}
LIT = ("even", "left", "right")
LOOSE = ("bun", "pigtails", "bald")  # styles whose hair behind the head is as bright as before it


@dataclasses.dataclass
class Portrait:
  """Costs (T, values) of each trait, and of expression, gaze and light, in one frame each: mean
  distances per thousand pixels, so that they add up. mouths: (T, MOUTHS)."""

  costs: dict[str, np.ndarray]
  mouths: np.ndarray
  light: str
  identity: Identity


def pick(values, cost: np.ndarray) -> str:
  """The value whose costs (T, values) have the least sum."""
  return tuple(values)[int(cost.sum(axis=0).argmin())]


def _page(layers, shape) -> np.ndarray:
  """Coverage (T, H, W) of layers, drawn over each other."""
  out = np.zeros(shape, np.float32)
  for layer in layers:
    out[layer.where] += layer.cover * (1 - out[layer.where])
  return out


def _far(v_CTHW: np.ndarray, wanted) -> np.ndarray:
  away = v_CTHW - wanted
  away *= away
  return np.minimum(np.sqrt(away.sum(axis=0)), LIMIT)


def _still_curves(frames: int) -> Curves:
  zero = np.zeros(frames)
  names = [f.name for f in dataclasses.fields(Curves)]
  return Curves(**{n: zero for n in names} | _face(FACES["neutral"], frames))


def _face(values, frames: int) -> dict[str, np.ndarray]:
  return {n: np.full(frames, v) for n, v in zip(PARAMETERS, values, strict=True)}


def portray(v_THWC: np.ndarray, faces: Faces) -> Portrait:
  """Draws the alternatives at the faces of a clip of the same frames, float (T, H, W, 3)."""
  v_CTHW = np.ascontiguousarray(v_THWC.transpose(3, 0, 1, 2))
  size = v_CTHW.shape[2:]
  head = faces.heads(FACE, size)
  costs: dict[str, np.ndarray] = {}
  costs["skin"], costs["light"] = _skin_and_light(v_CTHW, head, faces)
  skin, light = pick(SKINS, costs["skin"]), pick(LIT, costs["light"])
  shade = side_light(head, light)
  shade = np.ones((1, *size), np.float32) if shade is None else shade
  who = Identity(skin, FACE, "short", "black", "thin", "brown", faces.glasses)
  who = _heads_of_hair(v_CTHW, faces, who, shade, costs)
  who, mouths = _features(v_CTHW, faces, who, shade, costs)
  return Portrait(costs, mouths, light, who)


def _skin_and_light(v_CTHW, head: Heads, faces: Faces) -> tuple[np.ndarray, np.ndarray]:
  """Costs (T, SKINS) and (T, LIT) from skin that nothing covers."""
  shape = v_CTHW.shape[1:]
  who = Identity("pale", FACE, "short", "black", "thick", "brown", faces.glasses)
  moves = _still_curves(shape[0])
  covered = _page([*drawing.eyes(head, who, moves), *drawing.glasses(head, who)], shape)
  bare = np.zeros(shape, bool)
  (where, *_), edge, (x, y, z) = drawing.surface(head, FACE, 0.97, 0.0)
  bare[where] = (edge < 0) & (z > 0.3) & (np.abs(x) < 0.72) & (y > -0.28) & (y < 0.44)
  bare &= covered < 0.05
  t = np.nonzero(bare)[0]
  pixels = v_CTHW[:, bare]
  cost = np.zeros((shape[0], len(SKINS), len(LIT)))
  for j, light in enumerate(LIT):
    shade = side_light(head, light)
    level = 1.0 if shade is None else np.broadcast_to(shade, shape)[bare]
    for i, skin in enumerate(SKINS.values()):
      away = _far(pixels, np.asarray(skin, np.float32)[:, None] * level)
      cost[:, i, j] = np.bincount(t, weights=away, minlength=shape[0])
  cost[:, tuple(SKINS).index(faces.tone)] *= TRUST
  total = cost.sum(axis=0)
  i, j = np.unravel_index(total.argmin(), total.shape)
  return cost[:, :, j] / 1000, cost[:, i] / 1000


def _heads_of_hair(v_CTHW, faces: Faces, who: Identity, shade, costs) -> Identity:
  """Shape of the face, style and colour of the hair, together."""
  shape = v_CTHW.shape[1:]
  frames = shape[0]
  skin = _far(v_CTHW, drawing.planes(SKINS[who.skin]) * shade).reshape(frames, -1)
  tints = [drawing.planes(c) * shade for c in HAIRS.values()]
  bright, dull, beard = (
    np.stack([_far(v_CTHW, tint * np.float32(f)).reshape(frames, -1) for tint in tints], axis=-1)
    for f in (1.0, 0.82, 0.85)
  )
  head = faces.heads(FACE, shape[1:])
  y, x, unit = drawing.still(head.y, head.x, head.unit)
  down = (np.arange(shape[1], dtype=np.float32)[:, None] + 0.5 - y) / unit
  across = (np.arange(shape[2], dtype=np.float32) + 0.5 - x) / unit
  near = np.broadcast_to((across * across + (down + 0.1) ** 2 < 1.75**2), shape)
  near = near.reshape(frames, 1, -1).astype(np.float32)
  low = np.broadcast_to((down > 0.3) & (down < 1.05), shape).reshape(frames, -1)
  face = np.where(low[..., None], np.minimum(skin[..., None], beard), skin[..., None])
  ground = background(np.ascontiguousarray(v_CTHW.transpose(1, 2, 3, 0)), edge=True)
  empty = _far(v_CTHW, ground.transpose(3, 0, 1, 2)).reshape(frames, -1, 1)
  empty = np.broadcast_to(empty, bright.shape)
  masks, keys = [], []
  for name in SHAPES:
    head = faces.heads(name, shape[1:])
    bald = dataclasses.replace(who, face=name)
    skull = _page([drawing.skull(head, bald)], shape)
    body = _page(drawing.body(head, bald, (0, 0, 0)), shape)
    ears = _page(drawing.ears(head, bald), shape)
    for style in HAIRCUTS:
      this = dataclasses.replace(bald, haircut=style)
      front = _page(hair.front(head, this), shape)
      side = skull if style in ("long", "curly", "fringe") else np.maximum(skull, ears)
      seen = side * (1 - front)
      back = _page(hair.behind(head, this), shape) * (1 - body) * (1 - np.maximum(seen, front))
      free = (1 - np.maximum.reduce([front, seen, back, body])).reshape(frames, -1)
      loose = style in LOOSE
      masks.append([m.reshape(frames, -1) for m in (
        front + back * loose, back * (not loose), seen)] + [free])  # fmt: skip
      keys.append((name, style))
  stack = np.array(masks, np.float32).transpose(1, 2, 0, 3) * near  # (4, T, keys, H * W)
  cost = sum(mask @ far for mask, far in zip(stack, (bright, dull, face, empty), strict=True))
  cost = cost.reshape(frames, len(SHAPES), len(HAIRCUTS), len(HAIRS)) / 1000
  total = cost.sum(axis=0)
  f, s, c = np.unravel_index(total.argmin(), total.shape)
  costs["face"], costs["haircut"], costs["hair"] = cost[:, :, s, c], cost[:, f, :, c], cost[:, f, s]
  return dataclasses.replace(
    who, face=tuple(SHAPES)[f], haircut=HAIRCUTS[s], hair=tuple(HAIRS)[c]
  )


def _features(v_CTHW, faces: Faces, who: Identity, shade, costs) -> tuple[Identity, np.ndarray]:
  """Eyes, glasses, brows, mark, mouth, expression and gaze: one after the other, each with the
  best values so far of all others."""
  frames = v_CTHW.shape[1]
  head = faces.heads(who.face, v_CTHW.shape[2:])
  # Around the face alone.
  top, left = (max(0, int((a - 1.2 * head.unit).min())) for a in (head.y, head.x))
  bottom, right = (int((a + 1.2 * head.unit).max()) + 1 for a in (head.y, head.x))
  v_CTHW = np.ascontiguousarray(v_CTHW[:, :, top:bottom, left:right])
  shade = shade[:, top:bottom, left:right]
  head = dataclasses.replace(head, x=head.x - left, y=head.y - top, size=v_CTHW.shape[2:])
  base = v_CTHW.copy()
  skull = drawing.skull(head, who)
  below = [*hair.behind(head, who), *drawing.body(head, who, (0, 0, 0))[1:]]
  for layer in (*below, *([] if skull is None else [skull])):
    base = blend(base, layer, shade, frames)
  front = hair.front(head, who)
  moves = _still_curves(frames)

  def cost_of(this: Identity, curves: Curves) -> np.ndarray:
    page = base.copy()
    parts = (
      *hair.marks(head, this), *drawing.nose(head, this), *drawing.mouth(head, this, curves),
      *drawing.eyes(head, this, curves), *front, *drawing.brows(head, this, curves),
      *drawing.glasses(head, this),
    )  # fmt: skip
    for layer in parts:
      page = blend(page, layer, shade, frames)
    return _far(v_CTHW, page).sum(axis=(1, 2)) / 1000

  def change(curves: Curves, **new) -> Curves:
    return dataclasses.replace(curves, **new)

  def moods(table, names, this) -> np.ndarray:
    """Costs (T, table) of the parameters `names` of expressions."""
    out = []
    for values in table.values():
      new = {n: v for n, v in _face(values, frames).items() if n in names}
      out.append(cost_of(this, change(moves, **new)))
    return np.stack(out, axis=1)

  def take(table, names, cost) -> Curves:
    best = np.array(list(table.values()))[cost.argmin(axis=1)]
    new = {n: best[:, i] for i, n in enumerate(PARAMETERS) if n in names}
    return change(moves, **new)

  lips = ("width", "curve", "open", "teeth")
  mouths = moods(MOUTHS, lips, who)
  moves = take(MOUTHS, lips, mouths)
  for _ in range(2):
    gaze = []
    for eyes in EYES:
      for dx, dy in GAZES.values():
        look = change(moves, gaze_x=np.full(frames, dx), gaze_y=np.full(frames, dy))
        gaze.append(cost_of(dataclasses.replace(who, eyes=eyes), look))
    gaze = np.stack(gaze, axis=1).reshape(frames, len(EYES), len(GAZES))
    costs["eyes"] = gaze.min(axis=2)
    who = dataclasses.replace(who, eyes=pick(EYES, costs["eyes"]))
    costs["gaze"] = gaze[:, tuple(EYES).index(who.eyes)]
    aim = np.array(list(GAZES.values()))[costs["gaze"].argmin(axis=1)]
    moves = change(moves, gaze_x=aim[:, 0], gaze_y=aim[:, 1])
    costs["glasses"] = np.stack(
      [cost_of(dataclasses.replace(who, glasses=g), moves) for g in GLASSES], axis=1
    )
    worn = pick(GLASSES, costs["glasses"])
    if worn == who.glasses:
      break
    who = dataclasses.replace(who, glasses=worn)
  # Hair around the mouth changes which mouth fits best.
  around = {m: moods(MOUTHS, lips, dataclasses.replace(who, mark=m)) for m in MARKS[-2:]}
  costs["mark"] = np.stack(
    [
      around[m].min(axis=1) if m in around
      else cost_of(dataclasses.replace(who, mark=m), take(MOUTHS, lips, mouths))
      for m in MARKS
    ],
    axis=1,
  )  # fmt: skip
  who = dataclasses.replace(who, mark=pick(MARKS, costs["mark"]))
  if who.mark in around:
    mouths = around[who.mark]
  moves = take(MOUTHS, lips, mouths)
  thin, thick = (
    moods(FACES, ("raised", "frown"), dataclasses.replace(who, brows=b)) for b in BROWS
  )
  costs["brows"] = np.stack([thin.min(axis=1), thick.min(axis=1)], axis=1)
  who = dataclasses.replace(who, brows=pick(BROWS, costs["brows"]))
  brow = thin if who.brows == "thin" else thick
  costs["expression"] = mouths[:, : len(EXPRESSIONS)] + brow
  return who, mouths
