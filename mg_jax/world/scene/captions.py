"""Captions of the toy world: Scene -> sentence, one canonical or many paraphrases, always true.

Tiny models train on the short caption. Natural captions choose templates and wordings by (seed,
index, variant), so a dataset may show each scene under several captions, like those of different
captioners [MG 3.2.1]. The word on a sign is in quotation marks, like text to be drawn in
[MG 3.1.4]. `prompts.parse_prompt` parses all of them, except those of a single frame, which name
places and no motion.
"""

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.people import captions as people
from mg_jax.world.scene import lexicon, look_words
from mg_jax.world.scene.facts import Scene, Thing, facts, groups
from mg_jax.world.scene.motion import MOTIONS

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


# Most bytes of the captions of a frame: with their end token they fill 77 and 256 byte tokens.
SENTENCE, STORY = 76, 255
EDGE = 0.13  # from the frame's centre, edge of its middle third
DRAWS = 16  # wordings to try until a caption fits


def short_caption(scene: Scene) -> str:
  """Canonical sentence: "a red star moves left on a light background", or
  "a sign says "CAT" on a dark background"."""
  if scene.person is not None:
    return people.short_caption(scene.person) + look_words.canonical(scene)
  if scene.sign is not None:
    ground = look_words.canonical(scene) or f" {look_words.GROUNDS['dark'][0]}"
    return f'a {lexicon.SIGNS[0]} says "{scene.sign.word}"{ground}'
  parts = []
  for group in groups(scene):
    verb = _forms(lexicon.MOTIONS[group["motion"]][0], plural=group["count"] > 1)[0]
    parts.append(f"{_canonical_noun(group)} {verb}")
  return " and ".join(parts) + look_words.canonical(scene)


def caption(scene: Scene, variant: int = 0) -> str:
  """A natural sentence. variant >= 0 cycles through the templates, with new wordings each time.

  Colour, kind, motion and count of every group are always included, as is the word of a sign;
  size, background, the colour of a sign and a moving camera usually. Raises UserError for a
  negative variant.
  """
  if variant < 0:
    raise UserError(f"caption: variant is {variant}; pass 0 or more")
  rng = np.random.default_rng([scene.seed, scene.index, variant])
  whole = facts(scene)
  if scene.person is not None:
    ground = _background(rng, scene.background.name)
    text = people.natural(rng, scene.person, variant, background=ground)
  else:
    text = _of_sign(rng, whole, variant) if scene.sign else _of_objects(rng, scene, variant)
  text = look_words.styled(rng, whole, text.strip(" ,"))
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
    bg=_background(rng, facts(scene)),
  )
  for group in others:
    forms = _forms(_pick(rng, lexicon.MOTIONS[group["motion"]]), plural=group["count"] > 1)
    text += f", and {_noun(rng, group)} {forms[0]}"
  return text


def _of_sign(rng: np.random.Generator, whole: dict, variant: int) -> str:
  noun = _pick(rng, lexicon.SIGNS)
  if rng.uniform() < 0.6 and "colour" in whole:
    noun = f"{_pick(rng, lexicon.COLOURS[whole['colour']])} {noun}"
  return SIGN_TEMPLATES[variant % len(SIGN_TEMPLATES)].format(
    np=_article("a", noun),
    word=f'"{whole["word"]}"',
    bg=_background(rng, whole),
  )


def _background(rng: np.random.Generator, whole: dict) -> str:
  """A wording of the background, or "", with those of time and weather."""
  ground = _pick(rng, _grounds(whole)) if rng.uniform() < 0.7 else ""
  return look_words.surroundings(rng, whole, ground)


def _grounds(whole: dict) -> tuple[str, ...]:
  """Wordings of the ground, "" where the style hides it."""
  return look_words.GROUNDS[whole["background"]] if "background" in whole else ("",)


def describe(scene: Scene, *, style: str, variant: int = 0) -> str:
  """Caption in the style of a WorldConfig: "short", "natural" or "frame"."""
  if style not in ("short", "natural", "frame"):
    raise UserError(f"describe: unknown style {style!r}; use short, natural or frame")
  if style == "short":
    return short_caption(scene)
  return caption(scene, variant) if style == "natural" else frame_caption(scene, variant)


def frame_caption(scene: Scene, variant: int = 0) -> str:
  """Content of the middle frame: counts, sizes, colours, kinds, background, places; no motion.

  Even variants are one sentence of at most SENTENCE bytes, with the place of a single object only.
  Odd ones are several sentences in any order, of more than SENTENCE and at most STORY bytes, with
  the place of every object. Raises UserError for a negative variant.
  """
  if variant < 0:
    raise UserError(f"frame_caption: variant is {variant}; pass 0 or more")
  rng = np.random.default_rng([scene.seed, scene.index, variant, 1])
  if scene.person is not None:
    return people.still_caption(rng, scene.person, limit=STORY if variant % 2 else SENTENCE)
  write, limit = (_story, STORY) if variant % 2 else (_sentence, SENTENCE)
  # Long wordings of everything at once do not fit; the fewer the choices, the shorter. With none,
  # a sentence is silent on weather, time and style.
  for choices in (*[2] * DRAWS, 1, 0):
    text = write(rng, scene, choices)
    if len(text.encode()) <= limit:
      return text
  raise UserError(f"frame_caption: scene {scene.seed}/{scene.index} takes more than {limit} bytes")


def place(thing: Thing) -> tuple[int, int]:
  """Row and column of an object in the middle frame, each -1, 0 or 1; rows count downwards."""
  pose = MOTIONS[thing.motion.name](thing.motion, np.array([0.5]))
  x, y = thing.x + float(pose.dx[0]), thing.y + float(pose.dy[0])
  return tuple(int(v > EDGE) - int(v < -EDGE) for v in (y, x))


def _sentence(rng: np.random.Generator, scene: Scene, choices: int) -> str:
  looks, choices = bool(choices), max(choices, 1)
  what = " and ".join(_noun(rng, group, sized=1.0, choices=choices) for group in groups(scene))
  whole = facts(scene)
  ground = _pick(rng, _grounds(whole)[:choices])
  if looks:
    ground = look_words.surroundings(rng, whole, ground, usual=0.0)
  where = ""
  if len(scene.objects) == 1:
    where = " " + _pick(rng, lexicon.PLACES[place(scene.objects[0])][:choices])
  text = _pick(rng, (f"{what}{where} {ground}", f"{ground}, {what}{where}")[:choices])
  text = text.strip(" ,")
  if looks:
    text = look_words.styled(rng, whole, text)
  return text[0].upper() + text[1:] + "."


def _story(rng: np.random.Generator, scene: Scene, choices: int) -> str:
  choices = max(choices, 1)
  whole = facts(scene)
  ground = _pick(rng, _grounds(whole)[:choices])
  ground = look_words.surroundings(rng, whole, ground, usual=0.0)
  parts = []
  if ground:
    parts = [_pick(rng, (f"all of it is {ground}", f"everything is seen {ground}")[:choices])]
  if "style" in whole:
    parts.append(f"it is shown {_pick(rng, look_words.STYLES[whole['style']][:choices])}")
  for group in groups(scene):
    plural = group["count"] > 1
    kind = _pick(rng, lexicon.KINDS[group["kind"]][:choices])[plural]
    be = "are" if plural else "is"
    noun = _noun(rng, group, sized=0.0, choices=choices)
    parts.append(_pick(rng, (f"there {be} {noun}", f"the picture shows {noun}")[:choices]))
    size = _pick(rng, lexicon.SIZES[group["size"]][:choices])
    parts.append(f"the {kind} {be} {size}")
    key = (group.get("colour"), group["kind"], group["size"], group["motion"])
    places = [
      _pick(rng, lexicon.PLACES[place(t)][:choices])
      for t in scene.objects
      if (group.get("colour") and t.colour, t.kind, t.size, t.motion.name) == key
    ]
    if plural:
      parts.append("one is " + ", one ".join(places[:-1]) + f" and one {places[-1]}")
    else:
      parts.append(f"the {kind} is {places[0]}")
  if choices > 1 and rng.uniform() < 0.5:
    parts.append(_pick(rng, ("nothing else can be seen", "it is a plain drawing without text")))
  order = rng.permutation(len(parts)) if choices > 1 else range(len(parts))
  return " ".join(parts[i][0].upper() + parts[i][1:] + "." for i in order)


def _pick(rng: np.random.Generator, options):
  return options[int(rng.integers(len(options)))]


def _article(count_word: str, rest: str) -> str:
  return f"an {rest}" if count_word == "a" and rest[0] in "aeio" else f"{count_word} {rest}"


def _canonical_noun(group: dict) -> str:
  name = lexicon.KINDS[group["kind"]][0][group["count"] > 1]
  return _article(lexicon.COUNTS[group["count"]][0], f"{group.get('colour', '')} {name}".strip())


def _noun(
  rng: np.random.Generator, group: dict, *, sized: float = 0.6, choices: int | None = None
) -> str:
  """Count, colour and kind, with probability `sized` also the size, in the first `choices` words
  for each."""
  words = []
  if "colour" in group:
    words.append(_pick(rng, lexicon.COLOURS[group["colour"]][:choices]))
  words.append(_pick(rng, lexicon.KINDS[group["kind"]][:choices])[group["count"] > 1])
  if rng.uniform() < sized:
    words.insert(0, _pick(rng, lexicon.SIZES[group["size"]][:choices]))
  return _article(_pick(rng, lexicon.COUNTS[group["count"]][:choices]), " ".join(words))


def _forms(phrase: tuple[str, str], *, plural: bool) -> tuple[str, str, str]:
  """Finite, base and -ing form of a motion phrase."""
  verb, rest = phrase
  finite = verb if plural else lexicon.third_person(verb)
  return tuple(f"{form} {rest}".strip() for form in (finite, verb, lexicon.gerund(verb)))
