"""Renderer of the toy world: Scene -> uint8 video (T, H, W, 3), at any size and frame rate.

Every object is its signed distance function, sampled only in a window around the object, turned
into coverage with a ramp one pixel wide and blended over the background in drawing order; letters
of a sign likewise. Lengths are in units of the shorter side, so frames that are not square show
more background, not stretched shapes.
"""

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.people.render import draw_person
from mg_jax.world.scene import facts, grounds, letters, styles
from mg_jax.world.scene.facts import Scene, Sign, Thing
from mg_jax.world.scene.motion import MOTIONS
from mg_jax.world.scene.shapes import SHAPES


def render(
  scene: Scene,
  *,
  frames: int,
  height: int,
  width: int,
  fps: float | None = None,
  start_s: float = 0.0,
) -> np.ndarray:
  """Draws `frames` frames; frame i shows time start_s + i / fps.

  fps=None spreads the frames over the whole scene (fps = frames / duration_s). Returns uint8
  (T, H, W, 3). Raises UserError for sizes below 1, fps <= 0 or unknown names in the scene.
  """
  if min(frames, height, width) < 1 or (fps is not None and fps <= 0):
    raise UserError(
      f"render: frames={frames}, height={height}, width={width}, fps={fps} must be positive"
    )
  fps = frames / scene.duration_s if fps is None else fps
  u_T = (start_s + np.arange(frames) / fps) / scene.duration_s
  zoom_T, shift_T = _camera(scene.camera, u_T)
  side = min(height, width)
  v_THWC = background(scene, height=height, width=width, u_T=u_T)
  for thing in scene.objects:
    law = _look_up(MOTIONS, thing.motion.name, "motion")
    pose = law(thing.motion, u_T)
    x_T = ((thing.x + pose.dx) * zoom_T + shift_T) * side + width / 2
    y_T = (thing.y + pose.dy) * zoom_T * side + height / 2
    radius_T = _look_up(facts.SIZES, thing.size, "size") * pose.scale * zoom_T * side
    _draw(v_THWC, thing, x_T=x_T, y_T=y_T, radius_T=radius_T, angle_T=thing.angle + pose.angle)
  if scene.sign is not None:
    _draw_sign(v_THWC, scene.sign, zoom_T=zoom_T, shift_T=shift_T)
  if scene.person is not None:
    shirt = _look_up(facts.PALETTE, scene.person.shirt, "shirt colour")
    draw_person(v_THWC, scene.person, shirt, u_T, zoom_T=zoom_T, shift_T=shift_T)
  return finish(v_THWC, scene.style)


def background(scene: Scene, *, height: int, width: int, u_T: np.ndarray) -> np.ndarray:
  """The ground of a scene at phases u_T (T,) under its camera, float32 (T, H, W, 3) in 0..255."""
  zoom_T, shift_T = _camera(scene.camera, u_T)
  view = dict(height=height, width=width, zoom_T=zoom_T, shift_T=shift_T)
  name, seed = scene.background.name, scene.background.seed
  if name in grounds.GROUNDS:
    sky, time_T = (scene.weather, scene.time), u_T * scene.duration_s
    return grounds.frames(name, seed, sky=sky, time_T=time_T, **view)
  return _plain(scene, **view)


def finish(v_THWC: np.ndarray, style: str) -> np.ndarray:
  """Float frames in 0..255 with everything drawn -> uint8 in a style of the whole picture."""
  apply = _look_up(styles.STYLES, style, "style").apply
  return (apply(v_THWC) + 0.5).astype(np.uint8)


def _look_up(table: dict, name: str, what: str):
  if name not in table:
    raise UserError(f"render: unknown {what} {name!r}; known are {', '.join(table)}")
  return table[name]


def _camera(name: str, u_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """World -> screen: p * zoom + shift along x. Moves are centred on the middle of the scene."""
  if name not in facts.CAMERAS:
    raise UserError(f"render: unknown camera {name!r}; known are {', '.join(facts.CAMERAS)}")
  way_T = np.clip(u_T, 0, 1) - 0.5
  # A camera that pans right moves the picture to the left.
  shift_T = facts.PAN_DISTANCE * way_T * {"pan left": 1, "pan right": -1}.get(name, 0)
  zoom_T = facts.ZOOM_RATIO ** (way_T * {"zoom in": 1, "zoom out": -1}.get(name, 0))
  return zoom_T, shift_T


def _plain(
  scene: Scene, *, height: int, width: int, zoom_T: np.ndarray, shift_T: np.ndarray
) -> np.ndarray:
  """float32 (T, H, W, 3). Patterns are smooth waves, so they do not alias at usual resolutions."""
  tones = _look_up(facts.BACKGROUNDS, scene.background.name, "background")
  first, second = np.asarray(tones, np.float32)
  out_THWC = np.empty((len(zoom_T), height, width, 3), np.float32)
  if scene.background.name in ("dark", "light"):
    out_THWC[:] = first
    return out_THWC
  if scene.camera == "static":
    zoom_T, shift_T = zoom_T[:1], shift_T[:1]
  side = min(height, width)
  x_W = (np.arange(width) + 0.5 - width / 2) / side
  y_H = (np.arange(height) + 0.5 - height / 2) / side
  x_TW = ((x_W[None] - shift_T[:, None]) / zoom_T[:, None]).astype(np.float32)[:, None, :]
  y_TH = (y_H[None] / zoom_T[:, None]).astype(np.float32)[:, :, None]
  cos, sin = np.cos(scene.background.angle), np.sin(scene.background.angle)
  along, across = cos * x_TW + sin * y_TH, cos * y_TH - sin * x_TW
  turn = 2 * np.pi / scene.background.period
  if scene.background.name == "gradient":
    mix = np.clip(0.5 + along / 1.5, 0, 1)
  elif scene.background.name == "striped":
    mix = 0.5 + 0.5 * np.tanh(2.5 * np.sin(turn * along))
  else:
    mix = 0.5 + 0.5 * np.tanh(4 * np.sin(turn * along) * np.sin(turn * across))
  out_THWC[:] = first + mix[..., None] * (second - first)
  return out_THWC


def _draw(
  v_THWC: np.ndarray,
  thing: Thing,
  *,
  x_T: np.ndarray,
  y_T: np.ndarray,
  radius_T: np.ndarray,
  angle_T: np.ndarray,
) -> None:
  """Blends one object into the float frames, in place. Positions and radius are in pixels."""
  shape = _look_up(SHAPES, thing.kind, "kind")
  colour = np.asarray(_look_up(facts.PALETTE, thing.colour, "colour"), np.float32)
  frames, height, width, _ = v_THWC.shape
  extent = int(np.ceil(2 * radius_T.max())) + 3
  # One window size for all frames, clamped to the frame, so that all frames are drawn at once.
  rows, cols = min(extent, height), min(extent, width)
  top_T = np.clip(np.floor(y_T - rows / 2).astype(int), 0, height - rows)
  left_T = np.clip(np.floor(x_T - cols / 2).astype(int), 0, width - cols)
  y_TK = (top_T[:, None] + np.arange(rows))[:, :, None]
  x_TK = (left_T[:, None] + np.arange(cols))[:, None, :]
  dy = ((y_TK + 0.5 - y_T[:, None, None]) / radius_T[:, None, None]).astype(np.float32)
  dx = ((x_TK + 0.5 - x_T[:, None, None]) / radius_T[:, None, None]).astype(np.float32)
  cos = np.cos(angle_T).astype(np.float32)[:, None, None]
  sin = np.sin(angle_T).astype(np.float32)[:, None, None]
  distance = shape.distance(cos * dx + sin * dy, cos * dy - sin * dx, **thing.attributes)
  alpha = np.clip(0.5 - distance * radius_T[:, None, None].astype(np.float32), 0, 1)[..., None]
  where = (np.arange(frames)[:, None, None], y_TK, x_TK)
  under = v_THWC[where]
  v_THWC[where] = under + alpha.astype(np.float32) * (colour - under)


def _draw_sign(
  v_THWC: np.ndarray, sign: Sign, *, zoom_T: np.ndarray, shift_T: np.ndarray
) -> None:
  """Blends board and word into the float frames, in place; identical frames are drawn once."""
  colour = np.asarray(_look_up(facts.PALETTE, sign.colour, "colour"), np.float32)
  ink = np.asarray(facts.INK, np.float32)
  frames, height, width, _ = v_THWC.shape
  side = min(height, width)
  half_x, half_y = (0.5 * extent for extent in letters.board(len(letters.check(sign.word))))
  views, view_T = np.unique(np.stack([zoom_T, shift_T], 1), axis=0, return_inverse=True)
  for number, (zoom, shift) in enumerate(views):
    unit = sign.height * zoom * side
    x_W = (np.arange(width) + 0.5 - width / 2 - (sign.x * zoom + shift) * side) / unit
    y_H = (np.arange(height) + 0.5 - height / 2 - sign.y * zoom * side) / unit
    across_W = np.clip(0.5 - (np.abs(x_W) - half_x) * unit, 0, 1)
    down_H = np.clip(0.5 - (np.abs(y_H) - half_y) * unit, 0, 1)
    board_HW1 = (down_H[:, None] * across_W)[..., None].astype(np.float32)
    word_HW1 = letters.ink(sign.word, x_W, y_H, pixel=1 / unit)[..., None]
    mine = view_T.reshape(-1) == number
    under = v_THWC[mine]
    shown = under + board_HW1 * (colour - under)
    v_THWC[mine] = shown + word_HW1 * (ink - shown)
