"""Captions of people: Person -> sentence, short or natural, always true.

A natural caption describes the identity by a few of its traits, or says "a person" alone, as users
of personalization do [MG 4]; `prompts.parse_person` parses all of them.
"""

from collections.abc import Sequence

import numpy as np

from mg_jax.world.people import lexicon
from mg_jax.world.people.facts import Person
from mg_jax.world.scene.lexicon import COLOURS, third_person

ANONYMOUS = 0.35  # fraction of natural captions that do not describe the identity
MOST_TRAITS = 3  # of an identity besides the hair, in a natural caption

# Fields: np noun phrase; v, ing of the action; more: pose, gaze and light; bg background.
TEMPLATES = (
  "{np} {v}{more} {bg}",
  "a video of {np} {ing}{more} {bg}",
  "{bg}, {np} {v}{more}",
  "{np} is {ing}{more} {bg}",
  "a short clip of {np} {ing}{more} {bg}",
  "in this clip, {np} {v}{more} {bg}",
  "we see {np} {ing}{more} {bg}",
  "there is {np} {ing}{more} {bg}",
)


def short_caption(person: Person) -> str:
  """Canonical sentence: "a happy person with short red hair, round glasses and a green shirt turns
  left". Names hair, glasses, mark, shirt, action and an expression that is not neutral."""
  parts = [_trait(person, "haircut", None)]
  parts += [_trait(person, name, None) for name in ("glasses", "mark") if _worn(person, name)]
  parts.append(lexicon.SHIRT[0].format(shirt=COLOURS[person.shirt][0]))
  mood = "" if person.expression == "neutral" else lexicon.EXPRESSIONS[person.expression][0]
  return f"{_noun(mood, 'person', parts)} {_action(person, None)[0]}"


def natural(
  rng: np.random.Generator, person: Person, variant: int, *, background: str
) -> str:
  """A sentence without capital and full stop, in template `variant`; the action is always
  included, and everything else as drawn from rng."""
  noun = _drawn_noun(rng, person)
  shot = rng.uniform() < 0.25
  finite, ing = _action(person, rng)
  template = TEMPLATES[variant % len(TEMPLATES)]
  if shot:
    template, noun = "{np} {ing}{more} {bg}", f"{_pick(rng, lexicon.SHOTS[person.shot])} {noun}"
  more = _more(rng, person)
  return template.format(np=noun, v=finite, ing=ing, more=more, bg=background)


def still_caption(rng: np.random.Generator, person: Person, *, limit: int) -> str:
  """What a single frame shows, in at most `limit` bytes: no action."""
  for _ in range(16):
    text = f"{_drawn_noun(rng, person)}{_more(rng, person)}"
    if len(text) < limit:
      break
  else:
    text = "a person"
  return text[0].upper() + text[1:] + "."


def _drawn_noun(rng: np.random.Generator, person: Person) -> str:
  parts = []
  if rng.uniform() >= ANONYMOUS:
    parts.append(_trait(person, "haircut", rng))
    names = [n for n in ("glasses", "mark", "skin", "face", "eyes", "brows") if _told(person, n)]
    count = int(rng.integers(MOST_TRAITS + 1))
    chosen = sorted(rng.choice(len(names), size=min(count, len(names)), replace=False))
    parts += [_trait(person, names[i], rng) for i in chosen]
  if rng.uniform() < 0.6:
    parts.append(_pick(rng, lexicon.SHIRT).format(shirt=_pick(rng, COLOURS[person.shirt])))
  mood = ""
  if rng.uniform() < (0.2 if person.expression == "neutral" else 0.8):
    mood = _pick(rng, lexicon.EXPRESSIONS[person.expression])
  return _noun(mood, "person" if mood else _pick(rng, lexicon.PEOPLE), parts)


def _noun(mood: str, noun: str, parts: Sequence[str]) -> str:
  head = noun if noun == "someone" else _article(f"{mood} {noun}".strip())
  parts = [_article(p[2:]) if p.startswith("a ") else p for p in parts]
  if not parts:
    return head
  listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
  return f"{head} with {listed}"


def _article(words: str) -> str:
  return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _worn(person: Person, trait: str) -> bool:
  return getattr(person.identity, trait) != "none"


def _told(person: Person, trait: str) -> bool:
  """Whether captions have words for a trait: nobody mentions marks that are not there."""
  return trait != "mark" or _worn(person, trait)


def _trait(person: Person, trait: str, rng: np.random.Generator | None) -> str:
  who = person.identity
  wordings = lexicon.TRAITS[trait][getattr(who, trait)]
  return _pick(rng, wordings).format(hair=_pick(rng, lexicon.HAIRS[who.hair]))


def _action(person: Person, rng: np.random.Generator | None) -> tuple[str, str]:
  """Finite and -ing form of the action."""
  verb, rest = _pick(rng, lexicon.ACTIONS[person.action])
  return tuple(f"{form} {rest}".strip() for form in (third_person(verb), lexicon.gerund(verb)))


def _more(rng: np.random.Generator, person: Person) -> str:
  """Pose, gaze and light, each after a comma, the usual ones rarely."""
  out = []
  for value, usual, wordings in (
    (person.pose, "front", lexicon.POSES),
    (person.gaze, "camera", lexicon.GAZES),
    (person.light, "even", lexicon.LIGHTS),
  ):
    if rng.uniform() < (0.1 if value == usual else 0.7):
      out.append(", " + _pick(rng, wordings[value]))
  return "".join(out)


def _pick(rng: np.random.Generator | None, options):
  return options[0 if rng is None else int(rng.integers(len(options)))]
