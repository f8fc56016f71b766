"""Oracles of people: who is in a clip and what they do, measured from its pixels alone.

An identity is recognised among candidates by the costs of their traits, in the whole clip or in
each frame; every trait and every fact of the scene is measured by itself. Clips are uint8 (T, H, W,
3) of one person from 64 pixels up; they are measured at 64.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mg_jax.world.oracles import faces as oracles_faces
from mg_jax.world.oracles.clips import checked
from mg_jax.world.oracles.faces import SIDE, Faces
from mg_jax.world.oracles.portraits import MOUTHS, Portrait, pick, portray
from mg_jax.world.people.drawing import SHADOW
from mg_jax.world.people.facts import (
  EXPRESSIONS,
  GAZES,
  POSES,
  SHOTS,
  SKINS,
  TRAITS,
  Identity,
)
from mg_jax.world.scene.facts import PALETTE

FACTS = ("shirt", "action", "pose", "expression", "gaze", "light", "shot")
ATTRIBUTES = (*TRAITS, *FACTS)
# Least movements: shares of the frame's side, of its area for a hand, and radians for turns.
EXTENT = {"enter": 0.16, "turn": 0.4, "nod": 0.05, "shake": 0.45, "hand": 0.02}
CLOSELY = 8  # frames that are compared with drawings


@dataclasses.dataclass(frozen=True)
class Look:
  """What a clip shows: each of ATTRIBUTES; costs (frames, values) of each trait in some
  frames in which the face is visible, whose numbers are `seen`."""

  facts: dict[str, str]
  costs: dict[str, np.ndarray]
  seen: np.ndarray

  def candidates(self, choices: Sequence[Identity]) -> np.ndarray:
    """Costs (frames, choices) of identities: the lowest is the likeliest."""
    return sum(
      cost[:, [TRAITS[trait].index(getattr(who, trait)) for who in choices]]
      for trait, cost in self.costs.items()
    )

  def recognise(self, choices: Sequence[Identity]) -> tuple[int, float]:
    """Index of the likeliest of some identities in the clip, and the fraction of its frames that
    say the same: 1 if it is recognised even in the worst frame."""
    cost = self.candidates(choices)
    best = int(cost.sum(axis=0).argmin())
    return best, float((cost.argmin(axis=1) == best).mean())


def look(video: np.ndarray) -> Look:
  """Measures one clip; raises UserError unless it is uint8 (T, H, W, 3)."""
  video = checked(video, "look")
  v_THWC = oracles_faces.restore_contrast(oracles_faces.resize(video))
  dim = oracles_faces.is_dim(v_THWC)
  if dim:
    v_THWC = oracles_faces.brighten(v_THWC)
  found = oracles_faces.find(v_THWC)
  seen = np.flatnonzero(found.seen)
  faces = found.at(seen)
  few = seen[:: -(-len(seen) // CLOSELY)]
  portrait = portray(v_THWC[few], found.at(few))
  who = portrait.identity
  start = slice(0, max(1, len(few) // 4))
  facts = {trait: getattr(who, trait) for trait in TRAITS}
  facts["shirt"] = _shirt(v_THWC[seen], faces, portrait.light)
  facts["light"] = "dim" if dim else portrait.light
  facts["shot"] = faces.shot
  facts["action"] = _action(v_THWC, faces, seen, portrait)
  facts["pose"] = _pose(faces, facts["action"])
  still = slice(None) if facts["action"] not in ("smile", "look away") else start
  facts["gaze"] = pick(GAZES, portrait.costs["gaze"][still])
  facts["expression"] = pick(EXPRESSIONS, portrait.costs["expression"][still])
  return Look(facts, {t: portrait.costs[t] for t in TRAITS}, few)


def _shirt(v_THWC: np.ndarray, faces: Faces, light: str) -> str:
  """Colour of the clothing, from its lit part."""
  unit = SHOTS[faces.shot][0] * SIDE
  head = faces.heads("square", v_THWC.shape[1:3])
  x = (np.arange(v_THWC.shape[2]) + 0.5 - head.x[:, None]) / unit
  y = (np.arange(v_THWC.shape[1]) + 0.5 - head.y[:, None]) / unit
  side = {"left": x < -0.4, "right": x > 0.4}.get(light, np.abs(x) > 0.4)
  inside = (side & (np.abs(x) < 1.0))[:, None, :] & (y > 1.62)[:, :, None]
  pixels = v_THWC[inside]
  if len(pixels) < 8:
    return "white"
  colour = np.median(pixels, axis=0)
  away = {name: np.linalg.norm(colour - np.array(c)) for name, c in PALETTE.items()}
  return min(away, key=away.get)


def _pose(faces: Faces, action: str) -> str:
  """From the first frames, or from the middle of all for a head that swings around it."""
  yaw = float(np.median(faces.yaw if action not in ("turn left", "turn right") else faces.yaw[:3]))
  return min(POSES, key=lambda name: abs(POSES[name] - yaw))


def _action(v_THWC: np.ndarray, faces: Faces, seen: np.ndarray, portrait: Portrait) -> str:
  """Tests the large movements first."""
  if len(seen) < 3:
    return "still"
  head = faces.heads("square", v_THWC.shape[1:3])
  third = max(1, len(seen) // 4)
  way = (np.median(head.x[-third:]) - np.median(head.x[:third])) / SIDE
  if abs(way) > EXTENT["enter"]:
    return "enter left" if way > 0 else "enter right"
  if min(np.ptp(half) for half in np.array_split(faces.yaw, 2)) > EXTENT["shake"]:
    return "shake"
  turn = np.median(faces.yaw[-third:]) - np.median(faces.yaw[:third])
  if abs(turn) > EXTENT["turn"]:
    return "turn right" if turn > 0 else "turn left"
  if np.ptp(np.percentile(faces.y, (15, 85))) / SIDE > EXTENT["nod"]:
    return "nod"
  if _hand(v_THWC[seen], head, portrait) > EXTENT["hand"]:
    return "wave"
  open_T = np.array([face[4] for face in MOUTHS.values()])[portrait.mouths.argmin(axis=1)] > 0.25
  if np.count_nonzero(np.diff(open_T.astype(int))) >= 3:
    return "talk"
  third = max(1, len(portrait.mouths) // 4)
  mood, gaze = portrait.costs["expression"], portrait.costs["gaze"]
  first, last = (pick(EXPRESSIONS, mood[s]) for s in (slice(0, third), slice(-third, None)))
  if last == "happy" and first != "happy":
    return "smile"
  first, last = (pick(GAZES, gaze[s]) for s in (slice(0, third), slice(-third, None)))
  return "still" if first == last else "look away"


def _hand(v_THWC: np.ndarray, head, portrait: Portrait) -> float:
  """How much of the frame to the right of the face looks like skin in some frames, but not all."""
  x = (np.arange(v_THWC.shape[2]) + 0.5 - head.x[:, None]) / head.unit[:, None]
  y = (np.arange(v_THWC.shape[1]) + 0.5 - head.y[:, None]) / head.unit[:, None]
  beside = (x > 1.0)[:, None, :] & (y > 0.1)[:, :, None] & (y < 1.3)[:, :, None]
  skin = np.asarray(SKINS[portrait.identity.skin], np.float32)
  skin = skin * (SHADOW if portrait.light == "left" else 1.0)
  match = (np.abs(v_THWC - skin).max(axis=-1) < 26) & beside
  share = match.mean(axis=0)
  return float(((share > 0.1) & (share < 0.95)).mean())


def compare(measured: Look, facts: Mapping[str, Any]) -> dict[str, bool]:
  """Attribute -> right or wrong, for those of ATTRIBUTES that the facts name."""
  return {n: measured.facts[n] == facts[n] for n in ATTRIBUTES if facts.get(n) is not None}
