"""Words for people: wordings of each fact, the canonical one first; two facts never share one.

Braces hold the word for another fact. Shared by `captions` and `prompts`.
"""

HAIR: dict[str, tuple[str, ...]] = {
  "bald": ("a bald head with {hair} hair at the sides", "a bald head and {hair} sideburns"),
  "short": ("short {hair} hair",),
  "long": ("long {hair} hair",),
  "curly": ("curly {hair} hair", "{hair} curls"),
  "bun": ("{hair} hair in a bun", "a {hair} bun"),
  "fringe": ("{hair} hair with a fringe", "a {hair} bob with a fringe"),
  "pigtails": ("{hair} hair in pigtails", "{hair} pigtails"),
}
HAIRS: dict[str, tuple[str, ...]] = {
  "black": ("black",),
  "brown": ("brown",),
  "blond": ("blond",),
  "red": ("red",),
  "grey": ("grey",),
  "pink": ("pink",),
  "blue": ("blue",),
}
SKIN: dict[str, tuple[str, ...]] = {
  name: (f"{name} skin",) for name in ("pale", "light", "tan", "brown", "dark")
}
FACE: dict[str, tuple[str, ...]] = {
  "round": ("a round face",),
  "long": ("a long face",),
  "square": ("a square jaw",),
}
EYES: dict[str, tuple[str, ...]] = {
  name: (f"{name} eyes",) for name in ("brown", "blue", "green")
}
BROWS: dict[str, tuple[str, ...]] = {
  "thin": ("thin eyebrows",),
  "thick": ("thick eyebrows", "bushy eyebrows"),
}
GLASSES: dict[str, tuple[str, ...]] = {
  "none": ("no glasses",),
  "round": ("round glasses",),
  "square": ("square glasses", "square red glasses"),
}
MARK: dict[str, tuple[str, ...]] = {
  "none": (),
  "freckles": ("freckles",),
  "mole": ("a mole on the cheek",),
  "plaster": ("a plaster on the cheek",),
  "moustache": ("a moustache",),
  "beard": ("a beard",),
}
SHIRT: tuple[str, ...] = ("a {shirt} shirt", "a {shirt} top")
TRAITS = {
  "haircut": HAIR, "skin": SKIN, "face": FACE, "eyes": EYES, "brows": BROWS, "glasses": GLASSES,
  "mark": MARK,
}  # fmt: skip

PEOPLE: tuple[str, ...] = ("person", "someone")

ACTIONS: dict[str, tuple[tuple[str, str], ...]] = {  # (verb, what follows it)
  "still": (("keep", "still"), ("stay", "still")),
  "turn left": (("turn", "left"), ("turn", "to the left")),
  "turn right": (("turn", "right"), ("turn", "to the right")),
  "nod": (("nod", ""),),
  "shake": (("shake", "the head"),),
  "smile": (("start", "to smile"), ("break", "into a smile")),
  "look away": (("glance", "away"), ("look", "away")),
  "enter left": (("walk", "in from the left"), ("come", "in from the left")),
  "enter right": (("walk", "in from the right"), ("come", "in from the right")),
  "wave": (("wave", ""), ("wave", "a hand")),
  "talk": (("talk", ""), ("speak", "")),
}
EXPRESSIONS: dict[str, tuple[str, ...]] = {
  "neutral": ("calm",),
  "happy": ("happy", "cheerful"),
  "sad": ("sad", "unhappy-looking"),
  "surprised": ("surprised", "astonished"),
  "angry": ("angry", "furious"),
}
POSES: dict[str, tuple[str, ...]] = {
  "front": ("seen from the front", "facing forward"),
  "left": ("in three-quarter view to the left", "facing left"),
  "right": ("in three-quarter view to the right", "facing right"),
}
GAZES: dict[str, tuple[str, ...]] = {
  "camera": ("looking at the camera", "looking at us"),
  "left": ("looking left", "with the eyes to the left"),
  "right": ("looking right", "with the eyes to the right"),
  "up": ("looking up", "with the eyes raised"),
  "down": ("looking down", "with the eyes lowered"),
}
LIGHTS: dict[str, tuple[str, ...]] = {
  "even": ("in even light", "in soft light"),
  "left": ("lit from the left", "in light from the left"),
  "right": ("lit from the right", "in light from the right"),
  "dim": ("in dim light", "in the dusk"),
}
SHOTS: dict[str, tuple[str, ...]] = {
  "close-up": ("a close-up of", "a close shot of"),
  "bust": ("a head and shoulders shot of", "a bust shot of"),
}

_GERUNDS = {
  "nod": "nodding", "shake": "shaking", "come": "coming", "wave": "waving", "glance": "glancing",
}  # fmt: skip


def gerund(verb: str) -> str:
  return _GERUNDS.get(verb, verb + "ing")
