"""Hair, beards and other marks of a face, as layers of `drawing`.

A style has a part behind the head, flat shapes that shift against the turn, and a part on it: the
region of the head's surface above and behind a hairline, which turns with the head.
"""

import numpy as np

from mg_jax.world.people.drawing import (
  PLASTER,
  Feature,
  Heads,
  Layer,
  box,
  colour,
  cover,
  ellipse,
  outline,
  still,
  surface,
)
from mg_jax.world.people.facts import HAIRS, SHAPES, SKINS, Identity

# How far the surface of the hair is above that of the head: growth and lift, in head units; and how
# far down it reaches beside the face.
_VOLUME = {
  "bald": (1.03, 0.0, -9.0),
  "short": (1.1, 0.09, 0.0),
  "long": (1.1, 0.05, 0.5),
  "curly": (1.16, 0.1, 0.3),
  "bun": (1.06, 0.04, 0.05),
  "fringe": (1.12, 0.05, 0.75),
  "pigtails": (1.08, 0.05, 0.12),
}


def behind(head: Heads, who: Identity) -> list[Layer]:
  """Hair behind neck and face."""
  a, _, _ = SHAPES[who.face]
  back = -0.2 * np.sin(head.yaw)
  down = -0.25 * np.sin(head.pitch)
  shade = colour(HAIRS[who.hair], 0.82)
  tint = colour(HAIRS[who.hair])
  if who.haircut == "long":
    return _flat(head, back, down, (a + 0.34, -0.5, 1.62), shade, lambda x, y: box(
      x, y - 0.5, a + 0.26 + 0.06 * np.clip(y, 0, 2), 1.1, 0.45))  # fmt: skip
  if who.haircut == "fringe":
    return _flat(head, back, down, (a + 0.34, -0.5, 0.95), shade, lambda x, y: box(
      x, y - 0.12, a + 0.24, 0.78, 0.3))  # fmt: skip
  if who.haircut == "curly":
    def cloud(x, y):
      y = y + 0.2
      bumps = 0.07 * np.cos(11 * np.arctan2(x, y))
      return np.sqrt(x * x + y * y) - (a + 0.42 + bumps)

    return _flat(head, back, down, (a + 0.52, -0.7 - a, 0.3 + a), shade, cloud)
  if who.haircut == "bun":
    return _flat(head, 1.3 * back, 2 * down, (0.4, -1.65, -0.85), tint, lambda x, y: ellipse(
      x, y + 1.24, 0.36, 0.33))  # fmt: skip
  if who.haircut == "pigtails":
    out = []
    for side in (-1, 1):
      x = side * (a + 0.34) * np.cos(0.8 * head.yaw) + back
      out += _flat(head, x, 0 * x, (0.42, -0.5, 0.95), tint, lambda x, y: ellipse(
        x, y - 0.2, 0.3 - 0.06 * np.clip(y, -1, 1), 0.62))  # fmt: skip
    return out
  if who.haircut == "bald":
    out = []
    for side in (-1, 1):
      x = side * a * np.cos(head.yaw) * 1.0
      out += _flat(head, x, 0 * x, (0.3, -0.45, 0.2), tint, lambda x, y: ellipse(
        x, y + 0.14, 0.22, 0.27))  # fmt: skip
    return out
  return []


def _flat(head: Heads, x, y, reach, tint, distance) -> list[Layer]:
  """One shape around (x, y), (T,); reach: half width, top and bottom of its window."""
  half, top, bottom = reach
  found = head.window(x - half, y + top, x + half, y + bottom)
  if found is None:
    return []
  where, x_T, y_T, unit = found
  x, y = still(x, y)
  return [Layer(where, cover(distance(x_T - x, y_T - y), unit), tint)]


def _hairline(style: str, x, y, z):
  """Negative where hair grows on the head; coordinates of its unit sphere."""
  side = np.abs(x)
  if style == "bald":
    return np.maximum(np.maximum(z - 0.28, np.abs(y + 0.12) - 0.26), 0.3 - side)
  if style == "short":
    top = y + 0.5 + 0.16 * x + 0.1 * np.cos(9 * x)
    return np.minimum(top, np.maximum(z - 0.2, y - 0.02))
  if style == "long":
    top = y + 0.8 - 0.5 * side * side
    return np.minimum(top, np.maximum(z - 0.34 - 0.16 * y, y - 0.55))
  if style == "curly":
    top = y + 0.56 + 0.06 * np.cos(14 * x)
    return np.minimum(top, np.maximum(z - 0.28, y - 0.25))
  if style == "bun":
    top = y + 0.66 - 0.2 * side
    return np.minimum(top, np.maximum(z - 0.1, y - 0.05))
  if style == "fringe":
    return np.minimum(y + 0.52, np.maximum(z - 0.55, y - 0.72))
  top = y + 0.72 - 0.34 * side
  return np.minimum(top, np.maximum(z - 0.22, y - 0.12))


def front(head: Heads, who: Identity) -> list[Layer]:
  """Hair on the head, in front of face and ears."""
  grow, lift, low = _VOLUME[who.haircut]
  found = surface(head, who.face, grow, lift)
  if found is None:
    return []
  (where, x, y, unit), edge, point = found
  beside = np.maximum(0.03 - outline(who.face, x, y)[2], y - low)
  line = np.minimum(_hairline(who.haircut, *point), beside)
  shape = cover(edge, unit) * cover(line, unit)
  return [Layer(where, shape, colour(HAIRS[who.hair]))]


def marks(head: Heads, who: Identity) -> list[Layer]:
  """Freckles, a mole, a plaster, a moustache or a beard; below the mouth in drawing order."""
  skin = colour(SKINS[who.skin], 0.5)
  out = []
  if who.mark == "freckles":
    for side in (-1, 1):
      part = Feature(head, who.face, side * 0.46, 0.36, 0.28, 0.2)
      if part.visible:
        spots = ((-0.15, -0.07), (0.03, -0.1), (0.17, -0.02), (-0.06, 0.08), (0.11, 0.11))
        far = [np.hypot(part.x - x, part.y - y) for x, y in spots]
        out.append(part.layer(np.minimum.reduce(far) - 0.065, skin))
  elif who.mark == "mole":
    part = Feature(head, who.face, 0.46, 0.48, 0.2, 0.2)
    if part.visible:
      out.append(part.layer(np.hypot(part.x, part.y) - 0.095, (48, 26, 26)))
  elif who.mark == "plaster":
    part = Feature(head, who.face, -0.45, 0.42, 0.3, 0.26)
    if part.visible:
      x, y = 0.87 * part.x - 0.5 * part.y, 0.5 * part.x + 0.87 * part.y
      out.append(part.layer(box(x, y, 0.24, 0.1, 0.06), PLASTER))
  elif who.mark == "moustache":
    part = Feature(head, who.face, 0.0, 0.41, 0.42, 0.2)
    if part.visible:
      side = np.abs(part.x)
      y = part.y - 0.45 * side * side + 0.02
      shape = np.maximum(np.abs(y) - 0.1 * (1.15 - side / 0.4), side - 0.4)
      out.append(part.layer(shape, colour(HAIRS[who.hair], 0.85)))
  elif who.mark == "beard":
    found = surface(head, who.face, 1.05, 0.0)
    if found is not None:
      (where, _, _, unit), edge, (x, y, z) = found
      chin = 0.3 + 0.22 * (1 - np.clip(np.abs(x) / 0.9, 0, 1)) - y
      room = -ellipse(x, y - 0.6, 0.42, 0.2)
      shape = np.maximum(np.maximum(chin, -0.1 - z), np.where(z > 0, room, -1))
      out.append(
        Layer(where, cover(edge, unit) * cover(shape, unit), colour(HAIRS[who.hair], 0.85))
      )
  return out


def hand(head: Heads, who: Identity, curves, shirt) -> list[Layer]:
  """A raised hand to the right of the face, and its sleeve."""
  if not np.any(curves.hand):
    return []
  found = head.window(0.6, -0.25, 2.3, 2.7)
  if found is None:
    return []
  where, x, y, unit = found
  swing, shown = still(curves.swing, curves.hand)
  sin, cos = np.sin(swing), np.cos(swing)
  x, y = x - 1.36, y - 1.85  # the elbow
  x, y = cos * x + sin * y, cos * y - sin * x
  palm = box(x, y + 1.1, 0.24, 0.26, 0.14)
  fingers = [box(x - 0.16 * k, y + 1.45 + 0.03 * k * k, 0.07, 0.26, 0.07) for k in (-1.1, 0, 1.1)]
  tx, ty = x + 0.32, y + 1.12
  thumb = box(0.8 * tx + 0.6 * ty, 0.8 * ty - 0.6 * tx, 0.075, 0.2, 0.07)
  skin = np.minimum.reduce([palm, *fingers, thumb, box(x, y + 0.75, 0.13, 0.3, 0.05)])
  sleeve = box(x, y + 0.1, 0.24, 0.62, 0.1)
  return [
    Layer(where, cover(sleeve, unit) * shown, colour(shirt)),
    Layer(where, cover(skin, unit) * shown, colour(SKINS[who.skin])),
  ]
