"""Oracles of the toy world: what a clip shows, measured from its pixels alone.

No learned network and no access to the scene, so generated and drawn clips are judged alike: does
it show two blue stars moving left? Works from 24 x 24 pixels and two frames up, under mild noise,
blur, compression and loss of contrast. Clips are uint8 (T, H, W, 3). Plays the role of the
automated text-alignment judges that complement human raters in [MG 3.5].

A sign is measured by its word and the colour of its board. Kind, count and motion then describe the
board as if it were an object: no scene has both, and prompts of signs do not name them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mg_jax.world.oracles import letters as oracles_letters
from mg_jax.world.oracles import textured
from mg_jax.world.oracles.clips import checked
from mg_jax.world.oracles.kind import match
from mg_jax.world.oracles.letters import letter_accuracy
from mg_jax.world.oracles.mask import foreground, name_colour, parts
from mg_jax.world.oracles.motion import classify
from mg_jax.world.scene.shapes import SHAPES
from mg_jax.world.scene.styles import STYLES

# Attributes of a measurement; "shape" is what facts of scenes call "kind".
ATTRIBUTES = ("colour", "shape", "count", "motion", "word")
LETTERS = "letters"  # fraction of a word's letters that are correct


@dataclasses.dataclass(frozen=True)
class Measurement:
  """Measured facts; names are None and count 0 if nothing stands out from the background. word is
  None without a legible sign.

  positions: (T, 2) x, y of the centre of all objects relative to the frame's centre in shorter
  sides, NaN where nothing is detected. areas: (T,) of one object, mean over objects, in squared
  shorter sides. confidence: attribute -> [0, 1], comparable only within an attribute.
  """

  colour: str | None
  shape: str | None
  count: int
  motion: str | None
  word: str | None
  positions: np.ndarray
  areas: np.ndarray
  confidence: dict[str, float]


def measure(video: np.ndarray) -> Measurement:
  """Measures one clip; raises UserError unless it is uint8 (T, H, W, 3)."""
  video = checked(video, "measure")
  video = textured.unframed(video)
  frames, height, width, _ = video.shape
  side = min(height, width)
  sign = oracles_letters.read(video)
  alpha_THW, colour, ground = foreground(video.astype(np.float32))
  if sign.word is not None:
    colour, ground = sign.board, sign.ground
  labels_THW, table_NF = parts(alpha_THW)
  positions = np.full((frames, 2), np.nan)
  areas = np.zeros(frames)
  if not len(table_NF):
    nothing = dict.fromkeys(ATTRIBUTES, 0.0) | {"word": sign.confidence}
    return Measurement(None, None, 0, None, sign.word, positions, areas, nothing)
  frame_N, area_N, x_N, y_N = table_NF.T
  frame_N = frame_N.astype(int)
  counts_T = np.bincount(frame_N, minlength=frames)
  mass_T = np.bincount(frame_N, weights=area_N, minlength=frames)
  seen_T = counts_T > 0
  for axis, (value_N, middle) in enumerate(((x_N, width), (y_N, height))):
    moment_T = np.bincount(frame_N, weights=area_N * (value_N + 0.5 - middle / 2), minlength=frames)
    positions[seen_T, axis] = moment_T[seen_T] / mass_T[seen_T] / side
  areas[seen_T] = mass_T[seen_T] / counts_T[seen_T] / side**2
  count = int(np.median(counts_T))
  colour_name, colour_margin = name_colour(colour, ground)
  shape, shape_margin, angle_N = match(alpha_THW, labels_THW, table_NF)
  phase_N = np.exp(1j * SHAPES[shape].symmetry * angle_N) * (SHAPES[shape].symmetry > 0)
  phase_T = np.zeros(frames, complex)
  np.add.at(phase_T, frame_N, phase_N / counts_T[frame_N])
  motion, motion_confidence = classify(positions, areas, phase_T)
  confidence = {
    "colour": min(1.0, 10 * colour_margin),
    "shape": min(1.0, 10 * shape_margin),
    "count": float(np.mean(counts_T == count)),
    "motion": motion_confidence,
    "word": sign.confidence,
  }
  return Measurement(colour_name, shape, count, motion, sign.word, positions, areas, confidence)


def compare(measured: Measurement, facts: Mapping[str, Any]) -> dict[str, bool | float]:
  """Attribute -> right or wrong, for those of ATTRIBUTES that the facts name; with a word also
  LETTERS -> fraction in [0, 1] of its letters that are correct.

  facts: of a scene (`facts.facts`) or of a prompt (`prompts.parse_prompt`). Those that their style
  hides, or that are not measured in it, are left out.
  """
  wanted = {**facts, "shape": facts.get("kind")}
  style = STYLES.get(facts.get("style"))
  unread = (*style.hides, *style.unread) if style else ()
  result = {
    name: getattr(measured, name) == wanted[name]
    for name in ATTRIBUTES
    if wanted.get(name) is not None and name not in unread
  }
  if "word" in result:
    result[LETTERS] = letter_accuracy(measured.word, facts["word"])
  return result


def average(results: Sequence[Mapping[str, bool | float]]) -> dict[str, float]:
  """Fraction of right answers per attribute over the results that have it, mean fraction of correct
  letters likewise, and "all": the fraction of results right in all their attributes. Attributes in
  no result are left out."""
  out = {}
  for name in (*ATTRIBUTES, LETTERS):
    right = [result[name] for result in results if name in result]
    if right:
      out[name] = float(np.mean(right))
  right = [all(result[name] for name in ATTRIBUTES if name in result) for result in results]
  out["all"] = float(np.mean(right))
  return out
