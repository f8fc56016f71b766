"""Draws a person over float frames: the layers of `drawing` and `hair` in order, and the light."""

import numpy as np

from mg_jax.world.people import drawing, hair
from mg_jax.world.people.drawing import DIM, SHADOW, Heads, Layer
from mg_jax.world.people.facts import Person
from mg_jax.world.people.motion import Curves, curves


def draw_person(
  v_THWC: np.ndarray, person: Person, shirt: tuple[int, int, int], u_T: np.ndarray, *,
  zoom_T: np.ndarray, shift_T: np.ndarray,
) -> None:  # fmt: skip
  """Blends a person at the phases u_T of its scene into float frames, in place.

  shirt: colour of the clothing. A dim light darkens the whole frame.
  """
  moves = curves(person, u_T)
  frames, height, width, _ = v_THWC.shape
  head = drawing.heads(
    person, moves, height=height, width=width, zoom_T=zoom_T, shift_T=shift_T
  )
  # Colours first: a pass over whole planes is several times faster. Frames that are the same up to
  # a layer are drawn once.
  alike = frames > 1 and np.array_equal(v_THWC[1:], v_THWC[:-1])
  v_CTHW = np.ascontiguousarray((v_THWC[:1] if alike else v_THWC).transpose(3, 0, 1, 2))
  shade = side_light(head, person.light)
  for layer in layers(head, person, moves, shirt):
    v_CTHW = blend(v_CTHW, layer, shade, frames)
  if person.light == "dim":
    v_CTHW *= drawing.planes(DIM)
  v_THWC[:] = v_CTHW.transpose(1, 2, 3, 0)


def layers(head: Heads, person: Person, moves: Curves, shirt) -> list[Layer]:
  """All layers of a person, from back to front."""
  who = person.identity
  face = drawing.skull(head, who)
  return [
    *hair.behind(head, who),
    *drawing.body(head, who, shirt),
    *(() if who.haircut in ("long", "curly", "fringe") else drawing.ears(head, who)),
    *(() if face is None else (face,)),
    *hair.marks(head, who),
    *drawing.nose(head, who),
    *drawing.mouth(head, who, moves),
    *drawing.eyes(head, who, moves),
    *hair.front(head, who),
    *drawing.brows(head, who, moves),
    *drawing.glasses(head, who),
    *hair.hand(head, who, moves, shirt),
  ]


def blend(
  v_CTHW: np.ndarray, layer: Layer, shade: np.ndarray | None, frames: int
) -> np.ndarray:
  """Blends one layer into planes (3, T or 1, H, W) of float frames, in place where their number
  stays; `shade` (T or 1, H, W) darkens it."""
  parts = [layer.cover, *layer.colour[:1]] if layer.colour.ndim > 1 else [layer.cover]
  parts += [] if shade is None else [shade]
  if v_CTHW.shape[1] == 1 and (max(len(p) for p in parts) > 1):
    v_CTHW = np.repeat(v_CTHW, frames, axis=1)
  tint = layer.colour if layer.colour.ndim > 1 else drawing.planes(layer.colour)
  if shade is not None:
    tint = tint * shade[(layer.where if len(shade) > 1 else (slice(None), *layer.where[1:]))]
  where = (slice(None), *layer.where)
  under = v_CTHW[where]
  v_CTHW[where] = under + layer.cover * (tint - under)
  return v_CTHW


def side_light(head: Heads, light: str) -> np.ndarray | None:
  """Brightness (T or 1, H, W) of a person lit from one side; None for other lights."""
  if light not in ("left", "right"):
    return None
  sign = 1 if light == "left" else -1
  height, width = head.size
  x, y, unit = drawing.still(head.x, head.y, head.unit)
  across = (np.arange(width, dtype=np.float32) + 0.5 - x) / unit
  down = (np.arange(height, dtype=np.float32)[:, None] + 0.5 - y) / unit
  edge = np.clip(0.5 - (sign * across + 0.16 * down - 0.12) / 0.22, 0, 1)
  return SHADOW + (1 - SHADOW) * edge
