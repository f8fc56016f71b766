"""Oracle of looks: style, ground, weather and time of day of a clip, from its pixels alone.

A clip is compared with every look of `exemplars`, cell by cell. What a cell can add to the cost of
a look is bounded, so that shapes, signs or people in front of up to half of the ground do not
decide: they differ from all looks alike. A judge of scenery beside those of [MG 3.5].
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mg_jax.world.oracles import exemplars
from mg_jax.world.oracles.clips import checked
from mg_jax.world.scene.facts import Scene
from mg_jax.world.scene.styles import STYLES

LOOKS = ("style", "background", "weather", "time")
STRONGEST, COLOURFUL = 0.01, 40.0  # fraction of the picture and its chroma that make it colourful
WEIGHTS = (1.0, 1.0, 3.0)  # of colour, texture and bands of texture
IN_FRONT = 0.3  # weight of the cells of the lower middle, where most things are, to all others
MOST = 10.0  # nats that one cell adds at most


@dataclasses.dataclass(frozen=True)
class Look:
  """The measured look; what its style hides is a guess. Grounds without weather have a clear day.

  confidence: of each of LOOKS, difference to the best look with another answer, in nats per cell.
  """

  style: str
  background: str
  weather: str
  time: str
  confidence: dict[str, float]


def measure(video: np.ndarray) -> Look:
  """Measures one clip; raises UserError unless it is uint8 (T, H, W, 3)."""
  video = checked(video, "looks")
  known, models = exemplars.models()
  cost_K = np.zeros(len(known))
  seen = exemplars.describe(video)
  for value_CP, (mean_KCP, spread_KCP), weight in zip(seen, models, WEIGHTS, strict=True):
    away_KCP = (value_CP - mean_KCP) / spread_KCP
    cost_KP = (0.5 * away_KCP**2 + np.log(spread_KCP / spread_KCP.min())).sum(axis=1)
    cost_K += np.minimum(cost_KP, MOST) @ (weight * _free(cost_KP.shape[1]))
  if _colourful(video):
    # On a grey ground colours of what stands in front are all that greyscale takes away.
    cost_K[[look[0] == "greyscale" for look in known]] += MOST * exemplars.CELLS**2
  best = int(cost_K.argmin())
  confidence = {}
  for place, name in enumerate(LOOKS):
    other_K = [look[place] != known[best][place] for look in known]
    confidence[name] = float(cost_K[other_K].min() - cost_K[best]) / exemplars.CELLS**2
  return Look(*known[best], confidence)


def _free(cells: int) -> np.ndarray:
  """Weights of the cells of a description: a square of them, or bands at the sides, then in the
  middle."""
  if cells == 2 * exemplars.COARSE:
    return np.repeat((1.0, IN_FRONT), exemplars.COARSE)
  side = round(cells**0.5)
  weight = np.ones((side, side))
  weight[3 * side // 16 :, side // 4 : -side // 4] = IN_FRONT
  return weight.reshape(-1)


def _colourful(video: np.ndarray) -> bool:
  """Whether there are colours, in cells of two by two pixels of some frames."""
  few = video[:: max(1, len(video) // 4), : video.shape[1] & ~1, : video.shape[2] & ~1]
  mean = few.reshape(len(few), few.shape[1] // 2, 2, -1, 2, 3).mean(axis=(2, 4))
  return bool(np.quantile(np.ptp(mean, axis=-1), 1 - STRONGEST) > COLOURFUL)


def truth(scene: Scene) -> dict[str, str]:
  """What `measure` should find: those facts that the style does not hide."""
  values = (scene.style, scene.background.name, scene.weather, scene.time)
  named = dict(zip(LOOKS, values, strict=True))
  return {name: value for name, value in named.items() if name not in STYLES[scene.style].hides}


def compare(measured: Look, facts: Mapping[str, Any]) -> dict[str, bool]:
  """Fact -> right or wrong, for those of LOOKS that the facts name."""
  return {
    name: getattr(measured, name) == facts[name] for name in LOOKS if facts.get(name) is not None
  }


def average(results: Sequence[Mapping[str, bool]]) -> dict[str, float]:
  """Fraction of right answers by fact, and of results that are right in all of theirs."""
  out = {name: float(np.mean([r[name] for r in results if name in r])) for name in LOOKS
         if any(name in r for r in results)}  # fmt: skip
  return out | {"all": float(np.mean([all(r.values()) for r in results]))}
