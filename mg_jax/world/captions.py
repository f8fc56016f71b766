"""Captions of the toy world: Scene -> sentence, one canonical or many paraphrases, always true.

The short caption is what a tiny model is trained on. Natural captions choose among templates times
wordings by (seed, index, variant), so a dataset may show each scene under several captions, as
different captioners would give [MG 3.2.1]. The word on a sign stands in quotation marks, as text
to be drawn does in [MG 3.1.4]. `prompts.parse_prompt` reads all of them back.
"""

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world import lexicon
from mg_jax.world.facts import Scene, facts, groups

# Fields: np noun phrase; v, ing, base forms of the motion; be; they; bg background phrase.
TEMPLATES = (
  "{np} {v} {bg}",
  "{bg}, {np} {v}",
  "a video of {np} {ing} {bg}",
  "there {be} {np} {ing} {bg}",
  "a short clip of {np} {ing} {bg}",
  "we see {np} {ing} {bg}",
  "the scene shows {np} {ing} {bg}",
  "{np}, {ing} {bg}",
  "{np} that {v} {bg}",
  "{np} can be seen {ing} {bg}",
  "watch {np} {base} {bg}",
  "an animation in which {np} {v} {bg}",
  "{np} {be} {ing} {bg}",
  "in this clip, {np} {v} {bg}",
  "footage of {np} as {they} {v} {bg}",
  "{np} {v} steadily {bg}",
  "{ing} {bg}: {np}",
  "a simple animation: {np} {v} {bg}",
  "{np} {v} {bg} and nothing else happens",
  "on the screen, {np} {v} {bg}",
  "{np} {ing} {bg}, and that is all",
  "throughout the clip, {np} {v} {bg}",
  "a plain scene with {np} {ing} {bg}",
  "the video opens on {np}; {they} {v} {bg}",
)

# Fields: np the sign; word in quotation marks; bg background phrase.
SIGN_TEMPLATES = (
  "{np} says {word} {bg}",
  "{np} reads {word} {bg}",
  "{np} with the word {word} {bg}",
  "{bg}, {np} says {word}",
  "a video of {np} that says {word} {bg}",
  "there is {np} {bg}; it reads {word}",
  "the word {word} is written on {np} {bg}",
  "{word} is painted on {np} {bg}",
  "we see {np} {bg} with {word} on it",
  "{np} bears the text {word} {bg}",
  "{np} {bg}, lettered {word}",
  "dark letters spell {word} on {np} {bg}",
  "a short clip of {np} reading {word} {bg}",
  "the scene shows {np} {bg}: {word}",
  "in this clip, {np} displays {word} {bg}",
  "the text on {np} is {word} {bg}",
)


def short_caption(scene: Scene) -> str:
  """Canonical sentence: "a red star moves left on a light background", or
  "a sign says "CAT" on a dark background"."""
  if scene.sign is not None:
    ground = lexicon.BACKGROUNDS[scene.background.name][0]
    return f'a {lexicon.SIGNS[0]} says "{scene.sign.word}" {ground}'
  parts = []
  for group in groups(scene):
    verb = _forms(lexicon.MOTIONS[group["motion"]][0], plural=group["count"] > 1)[0]
    parts.append(f"{_canonical_noun(group)} {verb}")
  return " and ".join(parts) + _canonical_background(scene)


def image_caption(scene: Scene) -> str:
  """Canonical phrase for a single frame, without motion: "a red star on a light background"."""
  if scene.sign is not None:
    return short_caption(scene)
  return " and ".join(_canonical_noun(group) for group in groups(scene)) + _canonical_background(
    scene
  )


def _canonical_background(scene: Scene) -> str:
  """" on a light background" and so on; the plain dark one goes without saying."""
  name = facts(scene)["background"]
  return "" if name == "dark" else f" {lexicon.BACKGROUNDS[name][0]}"


def caption(scene: Scene, variant: int = 0) -> str:
  """A natural sentence. variant >= 0 walks through the templates, with new wordings each time.

  Colour, kind, motion and count of every group are always told, as is the word of a sign; size,
  background, the colour of a sign and a moving camera usually. Raises UserError for a negative
  variant.
  """
  if variant < 0:
    raise UserError(f"caption: variant is {variant}; pass 0 or more")
  rng = np.random.default_rng([scene.seed, scene.index, variant])
  whole = facts(scene)
  text = _of_sign(rng, whole, variant) if scene.sign else _of_objects(rng, scene, variant)
  if whole["camera"] != "static" or rng.uniform() < 0.1:
    text += f", while {_pick(rng, lexicon.CAMERAS[whole['camera']])}"
  text = " ".join(text.split()).lstrip(" ,")
  for mark in ",;:":
    text = text.replace(f" {mark}", mark)
  return text[0].upper() + text[1:] + "."


def _of_objects(rng: np.random.Generator, scene: Scene, variant: int) -> str:
  first, *others = groups(scene)
  plural = first["count"] > 1
  verb, base, ing = _forms(_pick(rng, lexicon.MOTIONS[first["motion"]]), plural=plural)
  text = TEMPLATES[variant % len(TEMPLATES)].format(
    np=_noun(rng, first),
    v=verb,
    base=base,
    ing=ing,
    be="are" if plural else "is",
    they="they" if plural else "it",
    bg=_background(rng, scene.background.name),
  )
  for group in others:
    forms = _forms(_pick(rng, lexicon.MOTIONS[group["motion"]]), plural=group["count"] > 1)
    text += f", and {_noun(rng, group)} {forms[0]}"
  return text


def _of_sign(rng: np.random.Generator, whole: dict, variant: int) -> str:
  noun = _pick(rng, lexicon.SIGNS)
  if rng.uniform() < 0.6:
    noun = f"{_pick(rng, lexicon.COLOURS[whole['colour']])} {noun}"
  return SIGN_TEMPLATES[variant % len(SIGN_TEMPLATES)].format(
    np=_article("a", noun),
    word=f'"{whole["word"]}"',
    bg=_background(rng, whole["background"]),
  )


def _background(rng: np.random.Generator, name: str) -> str:
  """A wording of the background, or none."""
  return _pick(rng, lexicon.BACKGROUNDS[name]) if rng.uniform() < 0.7 else ""


def describe(scene: Scene, *, style: str, variant: int = 0) -> str:
  """Caption in the style a WorldConfig asks for: "short" or "natural"."""
  if style not in ("short", "natural"):
    raise UserError(f"describe: unknown style {style!r}; use short or natural")
  return short_caption(scene) if style == "short" else caption(scene, variant)


def _pick(rng: np.random.Generator, options):
  return options[int(rng.integers(len(options)))]


def _article(count_word: str, rest: str) -> str:
  return f"an {rest}" if count_word == "a" and rest[0] in "aeio" else f"{count_word} {rest}"


def _canonical_noun(group: dict) -> str:
  name = lexicon.KINDS[group["kind"]][0][group["count"] > 1]
  return _article(lexicon.COUNTS[group["count"]][0], f"{group['colour']} {name}")


def _noun(rng: np.random.Generator, group: dict) -> str:
  words = [_pick(rng, lexicon.COLOURS[group["colour"]])]
  words.append(_pick(rng, lexicon.KINDS[group["kind"]])[group["count"] > 1])
  if rng.uniform() < 0.6:
    words.insert(0, _pick(rng, lexicon.SIZES[group["size"]]))
  return _article(_pick(rng, lexicon.COUNTS[group["count"]]), " ".join(words))


def _forms(phrase: tuple[str, str], *, plural: bool) -> tuple[str, str, str]:
  """Finite, base and -ing form of a motion phrase."""
  verb, rest = phrase
  finite = verb if plural else lexicon.third_person(verb)
  return tuple(f"{form} {rest}".strip() for form in (finite, verb, lexicon.gerund(verb)))
