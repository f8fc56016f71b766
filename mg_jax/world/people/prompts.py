"""Parser of prompts of people: text -> facts, the inverse of `captions`."""

import re
from typing import Any

from mg_jax.world.people import lexicon
from mg_jax.world.people.facts import TRAITS
from mg_jax.world.scene.lexicon import COLOURS

FACTS = (*TRAITS, "shirt", "action", "pose", "expression", "gaze", "light", "shot")
_PERSON = re.compile(r"\b(?:person|someone|woman|man|girl|boy|portrait)\b")
_COLOUR = {name: "|".join(words) for name, words in COLOURS.items()}
_HAIR = "|".join(lexicon.HAIRS)
_SIDES = r"(?:to the |towards the |from the |in from the )?"

# Fact -> pattern, tried in this order; the first match is cut out before the next fact is read.
_PATTERNS: dict[str, dict[str, str]] = {
  "shirt": {c: rf"\b(?:{w}) (?:shirt|top|sweater|jumper)\b" for c, w in _COLOUR.items()},
  "eyes": {e: rf"\b{e} eyes\b" for e in lexicon.EYES},
  "brows": {"thin": r"\bthin (?:eye)?brows\b", "thick": r"\b(?:thick|bushy) (?:eye)?brows\b"},
  "skin": {s: rf"\b{s} skin\b" for s in lexicon.SKIN},
  "face": {
    "round": r"\bround face\b", "long": r"\blong face\b", "square": r"\bsquare (?:face|jaw)\b"
  },
  "glasses": {
    "none": r"\b(?:no|without) glasses\b",
    "round": r"\bround (?:\w+ )?glasses\b",
    "square": r"\b(?:square|rectangular) (?:\w+ )?glasses\b",
  },
  "mark": {
    "freckles": r"\bfreckle[sd]\b",
    "mole": r"\bmole\b",
    "plaster": r"\bplaster\b|\bband-aid\b",
    "moustache": r"\bm(?:o)?ustache\b",
    "beard": r"\bbeard(?:ed)?\b",
  },
  "light": {
    "left": r"\b(?:lit|in light|light) from the left\b",
    "right": r"\b(?:lit|in light|light) from the right\b",
    "dim": r"\bdim light\b|\bdusk\b|\bdimly lit\b",
    "even": r"\b(?:even|soft) light\b",
  },
  "shot": {
    "close-up": r"\bclose(?:-up| shot)\b", "bust": r"\b(?:head and shoulders|bust)(?: shot)?\b"
  },
  "gaze": {
    "camera": r"\blook(?:s|ing) at (?:the camera|us)\b",
    **{
      side: rf"\b(?:look(?:s|ing) (?:to the )?{side}|eyes (?:to the )?{side})\b"
      for side in ("left", "right")
    },
    "up": r"\blook(?:s|ing) up\b|\beyes raised\b",
    "down": r"\blook(?:s|ing) down\b|\beyes lowered\b",
  },
  "pose": {
    "front": r"\bseen from the front\b|\bfac(?:es|ing) (?:forward|the camera)\b",
    **{
      side: rf"\b(?:three-quarter view to the|fac(?:es|ing)(?: to the)?) {side}\b"
      for side in ("left", "right")
    },
  },
  "action": {
    **{f"turn {s}": rf"\bturn(?:s|ing)? {_SIDES}{s}\b" for s in ("left", "right")},
    **{
      f"enter {s}": rf"\b(?:walk(?:s|ing)?|com(?:es|ing)|enter(?:s|ing)?) {_SIDES}{s}\b"
      for s in ("left", "right")
    },
    "nod": r"\bnod(?:s|ding)?\b",
    "shake": r"\bshak(?:es|ing) (?:the|his|her|their) head\b",
    "smile": (
      r"\b(?:start(?:s|ing)? to smile|begin(?:s|ning)? to smile|break(?:s|ing)? into a smile)\b"
    ),
    "look away": r"\b(?:glanc(?:es?|ing)|look(?:s|ing)?) away\b",
    "wave": r"\bwav(?:es?|ing)\b",
    "talk": r"\b(?:talk|speak)(?:s|ing)?\b",
    "still": r"\b(?:keep|stay)(?:s|ing)? still\b|\bmotionless\b",
  },
  "expression": {
    "neutral": r"\bcalm\b|\bneutral\b",
    "sad": r"\bsad\b|\bunhappy\b|\bunhappy-looking\b",
    "happy": r"\bhappy\b|\bcheerful\b|\bsmiles\b|\bsmiling\b",
    "surprised": r"\bsurprised\b|\bastonished\b",
    "angry": r"\bangry\b|\bfurious\b",
  },
  "haircut": {
    "bald": r"\bbald\b",
    "bun": r"\bbun\b",
    "fringe": r"\bfringe\b|\bbangs\b",
    "pigtails": r"\bpigtails\b",
    "curly": r"\bcurl(?:y|s)\b",
    "short": rf"\bshort (?:(?:{_HAIR}) )?hair\b",
    "long": rf"\blong (?:(?:{_HAIR}) )?hair\b",
  },
}
_HAIR_COLOUR = {
  name: rf"\b{name}{'e?' if name == 'blond' else ''} (?:hair|curls|bun|bob|pigtails|sideburns)\b"
  for name in lexicon.HAIRS
}


def parse_person(text: str) -> dict[str, Any] | None:
  """Facts of the person in a lower-case text, None for those that it does not name; None if it
  names no person."""
  if not _PERSON.search(text):
    return None
  out: dict[str, Any] = dict.fromkeys(FACTS)
  # Before styles are cut out, since their wordings share words.
  for name, pattern in _HAIR_COLOUR.items():
    if re.search(pattern, text):
      out["hair"] = name
  for fact, patterns in _PATTERNS.items():
    for name, pattern in patterns.items():
      if re.search(pattern, text):
        out[fact], text = name, re.sub(pattern, " ", text)
        break
  return out
