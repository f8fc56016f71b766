"""Words of the toy world: the wordings of each fact.

Shared by the writer and the reader of captions. Every table maps a fact to its wordings, the
canonical one first. Two facts never share a wording.
"""

KINDS: dict[str, tuple[tuple[str, str], ...]] = {  # (singular, plural)
  "circle": (("circle", "circles"), ("disc", "discs")),
  "square": (("square", "squares"), ("box", "boxes")),
  "triangle": (("triangle", "triangles"),),
  "star": (("star", "stars"), ("five-pointed star", "five-pointed stars")),
  "ring": (("ring", "rings"), ("hoop", "hoops")),
  "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
}

COLOURS: dict[str, tuple[str, ...]] = {
  "red": ("red", "bright red"),
  "orange": ("orange",),
  "yellow": ("yellow", "bright yellow"),
  "green": ("green", "bright green"),
  "cyan": ("cyan", "turquoise"),
  "blue": ("blue", "deep blue"),
  "purple": ("purple", "violet"),
  "white": ("white",),
}

SIGNS: tuple[str, ...] = ("sign", "board", "placard", "signboard")

COUNTS: dict[int, tuple[str, ...]] = {
  1: ("a", "one", "a single"),
  2: ("two", "a pair of", "2"),
  3: ("three", "a trio of", "3"),
  4: ("four", "a group of four", "4"),
}

SIZES: dict[str, tuple[str, ...]] = {
  "small": ("small", "little"),
  "medium": ("medium-sized",),
  "large": ("large", "big"),
}

MOTIONS: dict[str, tuple[tuple[str, str], ...]] = {  # (verb, what follows it)
  "left": (
    ("move", "left"),
    ("slide", "to the left"),
    ("drift", "leftwards"),
    ("travel", "from right to left"),
    ("glide", "towards the left"),
  ),
  "right": (
    ("move", "right"),
    ("slide", "to the right"),
    ("drift", "rightwards"),
    ("travel", "from left to right"),
    ("glide", "towards the right"),
  ),
  "up": (
    ("move", "up"),
    ("rise", ""),
    ("climb", "upwards"),
    ("float", "towards the top"),
    ("travel", "from bottom to top"),
  ),
  "down": (
    ("move", "down"),
    ("fall", ""),
    ("sink", "downwards"),
    ("descend", "towards the bottom"),
    ("travel", "from top to bottom"),
  ),
  "bounce": (("bounce", ""), ("bounce", "up and down"), ("hop", "up and down")),
  "knock": (
    ("knock", "against the wall"),
    ("bump", "into the wall"),
    ("bang", "against the side"),
  ),
  "orbit": (("orbit", ""), ("go", "round and round"), ("follow", "a circular path")),
  "spin": (("spin", ""), ("rotate", ""), ("twirl", "on the spot"), ("whirl", "in place")),
  "grow": (("grow", ""), ("expand", ""), ("get", "bigger"), ("swell", "")),
  "shrink": (("shrink", ""), ("contract", ""), ("get", "smaller"), ("dwindle", "")),
  "still": (("stay", "still"), ("rest", "motionless"), ("stand", "still")),
}

BACKGROUNDS: dict[str, tuple[str, ...]] = {
  "dark": ("on a dark background", "against a dark backdrop", "in front of a plain dark wall"),
  "light": ("on a light background", "against a pale backdrop", "in front of a plain light wall"),
  "gradient": ("on a gradient background", "against a smoothly shaded backdrop"),
  "striped": ("on a striped background", "against a backdrop of stripes"),
  "checkered": ("on a checkered background", "against a chequered backdrop"),
}

CAMERAS: dict[str, tuple[str, ...]] = {
  "static": ("the camera is static", "the camera stays fixed"),
  "pan left": ("the camera pans left", "the camera pans slowly to the left"),
  "pan right": ("the camera pans right", "the camera pans slowly to the right"),
  "zoom in": ("the camera zooms in", "the camera zooms in slowly"),
  "zoom out": ("the camera zooms out", "the camera zooms out slowly"),
}

PLACES: dict[tuple[int, int], tuple[str, ...]] = {  # (row, column) of a frame cut into thirds
  (-1, -1): ("in the upper left", "at the top left"),
  (-1, 0): ("at the top", "near the top"),
  (-1, 1): ("in the upper right", "at the top right"),
  (0, -1): ("on the left", "at the left"),
  (0, 0): ("in the middle", "in the centre"),
  (0, 1): ("on the right", "at the right"),
  (1, -1): ("in the lower left", "at the bottom left"),
  (1, 0): ("at the bottom", "near the bottom"),
  (1, 1): ("in the lower right", "at the bottom right"),
}

_GERUNDS = {"get": "getting", "hop": "hopping", "spin": "spinning"}


def third_person(verb: str) -> str:
  """move -> moves, go -> goes."""
  return {"go": "goes"}.get(verb, verb + "s")


def gerund(verb: str) -> str:
  """move -> moving, spin -> spinning."""
  if verb in _GERUNDS:
    return _GERUNDS[verb]
  return (verb[:-1] if verb.endswith("e") else verb) + "ing"
