"""Words of the looks of a scene: ground, weather, time of day and style, and how they are read.

Like `lexicon`: every table maps a fact to its wordings, the canonical one first, and two facts
never share one. What is usual (a clear sky, daylight) is named now and then; the rest always is.
"""

import re

import numpy as np

from mg_jax.world.scene import lexicon
from mg_jax.world.scene.facts import Scene, facts

GROUNDS: dict[str, tuple[str, ...]] = {
  **lexicon.BACKGROUNDS,
  "sky": ("in a cloudy sky", "among the clouds", "in front of white clouds"),
  "meadow": ("on a meadow", "in front of a flowery meadow", "above grassy hills"),
  "beach": ("on a beach", "at the seaside", "in front of the sea"),
  "desert": ("in a desert", "in front of sand dunes", "among dunes of sand"),
  "snowfield": ("on a field of snow", "in front of a winter landscape", "in a wintry landscape"),
  "city": ("in a city", "in front of a skyline", "in front of city houses"),
  "forest": ("in a forest", "in front of fir trees", "in the woods"),
  "mountains": ("in the mountains", "in front of mountains", "before mountain peaks"),
  "brick": ("on a brick wall", "in front of a wall of bricks", "against brickwork"),
  "wood": ("on wooden boards", "in front of a wooden wall", "against wooden planks"),
  "space": ("in outer space", "in deep space", "in front of a starry cosmos"),
  "dots": ("on polka dots", "against a dotted backdrop", "on a polka-dot background"),
  "grid": ("on grid paper", "on graph paper", "against a grid of lines"),
  "waves": ("on a wavy pattern", "against a backdrop of wavy lines", "on wavy wallpaper"),
  "curtain": ("on a curtain", "in front of a theatre curtain", "against velvet drapes"),
}

WEATHERS: dict[str, tuple[str, ...]] = {
  "clear": ("in clear weather", "in fine weather"),
  "rain": ("in the rain", "while it rains", "in rainy weather"),
  "snow": ("in falling snow", "while it snows", "in snowy weather"),
  "fog": ("in the fog", "in foggy weather", "in thick mist"),
}

TIMES: dict[str, tuple[str, ...]] = {
  "day": ("by day", "in daylight"),
  "dusk": ("at dusk", "at sunset", "in the evening"),
  "night": ("at night", "by night", "after nightfall"),
}

STYLES: dict[str, tuple[str, ...]] = {
  "natural": ("in natural style",),
  "greyscale": ("in black and white", "in greyscale", "in shades of grey"),
  "sepia": ("in sepia", "in sepia tones", "as an old sepia photograph"),
  "outline": ("as a line drawing", "in pencil outlines", "as a pencil drawing"),
  "blueprint": ("as a blueprint", "in blueprint style"),
  "neon": ("in neon", "in neon lights", "in glowing neon"),
  "pixel art": ("as pixel art", "in pixel-art style", "in big pixels"),
  "cartoon": ("as a cartoon", "in cartoon style", "as a comic"),
  "watercolour": ("in watercolour", "as a watercolour painting", "painted in watercolours"),
}

_USUAL = ("clear", "day", "natural")

_LOOKS: dict[str, dict[str, str]] = {
  "style": {
    "greyscale": r"black[ -]and[ -]white|gr[ae]y-?scale|shades of gr[ae]y|monochrome",
    "sepia": r"(?:as an old )?sepia(?: tones?| photo(?:graph)?)?",
    "outline": r"line (?:drawing|art)|pencil (?:drawing|outlines?|sketch)|outlines?",
    "blueprint": r"blueprint",
    "neon": r"(?:glowing )?neon(?: lights?)?",
    "pixel art": r"pixel[ -]?art|(?:big )?pixels|pixelated",
    "cartoon": r"cartoon|comic",
    "watercolour": r"water-?colou?rs?(?: painting)?",
    "natural": r"natural style",
  },
  "background": {
    "snowfield": r"field of snow|snow-?field|wint(?:er|ry) landscape",
    "sky": r"cloudy sky|(?:white )?clouds",
    "meadow": r"meadow|grassy hills",
    "beach": r"beach|seaside|sea",
    "desert": r"desert|(?:sand )?dunes(?: of sand)?",
    "city": r"city(?: houses)?|skyline",
    "forest": r"forest|fir trees|woods",
    "mountains": r"mountains?(?: peaks)?",
    "brick": r"brick wall|wall of bricks|bricks?(?:work)?",
    "wood": r"wooden (?:boards|wall|planks)",
    "space": r"(?:outer|deep) space|starry cosmos",
    "dots": r"polka[ -]dots?(?: background)?|dotted (?:backdrop|background)",
    "grid": r"(?:grid|graph) paper|grid of lines",
    "waves": r"wavy (?:pattern|lines|wallpaper)",
    "curtain": r"curtains?|drapes",
  },
  "weather": {
    "rain": r"rain(?:s|ing|y)?",
    "snow": r"falling snow|snow(?:s|ing|y|fall)?",
    "fog": r"fog(?:gy)?|mist(?:y)?",
    "clear": r"(?:clear|fine) weather",
  },
  "time": {
    "dusk": r"dusk|sunset|evening",
    "night": r"night(?:fall)?",
    "day": r"by day|daylight",
  },
}  # fmt: skip


def cut_looks(text: str) -> tuple[dict[str, str | None], str]:
  """Style, ground, weather and time named in a lower-case text, None if absent, and the rest of
  the text without their words."""
  named = {}
  for fact, patterns in _LOOKS.items():
    named[fact] = None
    for name, pattern in patterns.items():
      rest = re.sub(rf"\b(?:{pattern})\b", " ", text)
      if rest != text:
        named[fact], text = name, rest
        break
  return named, text


def canonical(scene: Scene) -> str:
  """" on a meadow at night in the rain, as pixel art" and so on; "" for the plain dark ground."""
  named = facts(scene)
  ground = named.get("background", "dark")
  text = "" if ground == "dark" else f" {GROUNDS[ground][0]}"
  for fact, table in (("time", TIMES), ("weather", WEATHERS)):
    if named.get(fact, "clear") not in _USUAL:
      text += f" {table[named[fact]][0]}"
  return text + (f", {STYLES[named['style']][0]}" if "style" in named else "")


def surroundings(rng: np.random.Generator, named: dict, ground: str, *, usual: float = 0.3) -> str:
  """A wording of the ground, or "", followed by time and weather in any order; what is usual is
  named with this probability. Draws from the generator for outdoor scenes alone."""
  parts = []
  for fact, table in (("time", TIMES), ("weather", WEATHERS)):
    if fact in named and (named[fact] not in _USUAL or rng.uniform() < usual):
      parts.append(table[named[fact]][int(rng.integers(len(table[named[fact]])))])
  if len(parts) == 2 and rng.uniform() < 0.5:
    parts.reverse()
  return " ".join([ground, *parts]).strip()


def styled(rng: np.random.Generator, named: dict, text: str) -> str:
  """The text with a wording of its style before or after it; as it is without a style."""
  if "style" not in named:
    return text
  options = STYLES[named["style"]]
  style = options[int(rng.integers(len(options)))]
  return f"{style}, {text}" if rng.uniform() < 0.4 else f"{text}, {style}"
