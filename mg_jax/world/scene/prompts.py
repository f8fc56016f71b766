"""Parser of toy prompts: text -> facts, the inverse of `captions`, for scoring any prompt.

Quoted text is the word of a sign. It and fixed phrases that contain other facts' words (a camera
that pans left, a light wall) are parsed and cut out first; the rest is searched for whole words. Of
several groups, the first named is used.
"""

import re
from typing import Any

from mg_jax.world.people.prompts import parse_person
from mg_jax.world.scene import lexicon
from mg_jax.world.scene.letters import MAX_LETTERS
from mg_jax.world.scene.look_words import cut_looks

_QUOTED = r'["\u201c\u201d]([^"\u201c\u201d]*)["\u201c\u201d]'
_GROUND = r"(?:background|backdrop|wall)"
_BACKGROUNDS = {
  "gradient": rf"\b(?:gradient|(?:smoothly )?shaded) {_GROUND}",
  "striped": rf"\b(?:striped {_GROUND}|{_GROUND} of stripes)",
  "checkered": rf"\b(?:checkered|chequered|checkerboard) {_GROUND}",
  "dark": rf"\b(?:dark|black) {_GROUND}",
  "light": rf"\b(?:light|pale|bright) {_GROUND}",
}
_SLOWLY = r"(?: slowly| gently)?"
_CAMERAS = {
  "pan left": rf"\bpan(?:s|ning)?{_SLOWLY}(?: to the)? left\b",
  "pan right": rf"\bpan(?:s|ning)?{_SLOWLY}(?: to the)? right\b",
  "zoom in": rf"\bzoom(?:s|ing)?{_SLOWLY} in\b",
  "zoom out": rf"\bzoom(?:s|ing)?{_SLOWLY} out\b",
  "static": r"\bcamera (?:is static|stays fixed|does not move)|\b(?:static|fixed) camera",
}
# Tried in this order: "bounce up and down" before "up".
_MOTIONS = {
  "bounce": r"bounc(?:e|es|ing)|hop(?:s|ping)?",
  "knock": r"knock(?:s|ing)?|bump(?:s|ing)?|bang(?:s|ing)?",
  "orbit": r"orbit(?:s|ing)?|round and round|circular path|in circles|in a circle",
  "still": r"still|motionless|does not move|do not move",
  "spin": r"spin(?:s|ning)?|rotat(?:e|es|ing)|twirl(?:s|ing)?|whirl(?:s|ing)?",
  "grow": r"grow(?:s|ing)?|expand(?:s|ing)?|bigger|larger|swell(?:s|ing)?",
  "shrink": r"shrink(?:s|ing)?|contract(?:s|ing)?|smaller|dwindl(?:e|es|ing)",
  "left": r"left(?:wards?)?(?! to (?:the )?right)",
  "right": r"right(?:wards?)?(?! to (?:the )?left)",
  "up": r"bottom to top|up(?:wards?)?|ris(?:e|es|ing)|climb(?:s|ing)?|towards the top",
  "down": (
    r"top to bottom|down(?:wards?)?|fall(?:s|ing)?|sink(?:s|ing)?|descend(?:s|ing)?|"
    r"drop(?:s|ping)?|towards the bottom"
  ),
}
_COUNTS = {4: r"four|4", 3: r"three|3|trio", 2: r"two|2|pair|couple", 1: r"one|1|single"}


def parse_prompt(text: str) -> dict[str, Any]:
  """Facts named in a text: word, colour, kind, count, motion, size, background, camera, weather,
  time, style; None if absent.

  The word is the first in quotation marks that a sign can bear, in capitals. A kind in the singular
  counts as one; a plural without a number has count None. Text that names a person has its facts
  instead, see `people.prompts.parse_person`.
  """
  quoted = re.findall(_QUOTED, text)
  words = [q.upper() for q in quoted if re.fullmatch(rf"[A-Za-z]{{1,{MAX_LETTERS}}}", q)]
  rest = " ".join(re.sub(_QUOTED, " ", text).lower().split())
  background, rest = _cut(_BACKGROUNDS, rest)
  looks, rest = cut_looks(rest)
  camera, rest = _cut(_CAMERAS, rest)
  person = parse_person(rest)
  if person is not None:
    nothing = dict.fromkeys(("word", "colour", "kind", "count", "motion", "size"))
    return {**nothing, **person, "background": background, "camera": camera}
  motion, rest = _cut({k: rf"\b(?:{v})\b" for k, v in _MOTIONS.items()}, rest)
  kind, plural = _kind(rest)
  count = _earliest({k: v.split("|") for k, v in _COUNTS.items()}, rest)
  if count is None and kind is not None and not plural:
    count = 1
  return {
    "word": words[0] if words else None,
    "colour": _earliest(lexicon.COLOURS, rest),
    "kind": kind,
    "count": count,
    "motion": motion,
    "size": _earliest(lexicon.SIZES, rest),
    "camera": camera,
    **looks,
    "background": background or looks["background"],
  }


def _cut(patterns: dict[str, str], text: str) -> tuple[str | None, str]:
  """First pattern, in table order, that occurs, and the text without its phrase."""
  for name, pattern in patterns.items():
    if re.search(pattern, text):
      return name, re.sub(pattern, " ", text)
  return None, text


def _earliest(words: dict, text: str):
  """The entry whose wording occurs first in the text."""
  matches = []
  for name, wordings in words.items():
    match = re.search(rf"\b(?:{'|'.join(map(re.escape, wordings))})\b", text)
    if match:
      matches.append((match.start(), len(matches), name))
  return min(matches)[2] if matches else None


def _kind(text: str) -> tuple[str | None, bool]:
  forms = {
    (kind, plural): [pair[plural] for pair in pairs]
    for kind, pairs in lexicon.KINDS.items()
    for plural in (False, True)
  }
  return _earliest(forms, text) or (None, False)
