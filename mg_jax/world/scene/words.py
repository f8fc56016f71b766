"""Words for signs: real short words and random letters, split into training and held-out words.

The split is by word and independent of seeds: a held-out word is on no training sign, so the
letters of a generated sign measure spelling and not memorisation.
"""

import functools
import hashlib

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.world.scene.letters import ALPHABET, MAX_LETTERS

REAL_SHARE = 0.5  # fraction of real words among those of two letters and more
HELD_OUT_PART = 6  # one word in this many

REAL = """
  AM AN AS AT BE BY DO GO HE HI IF IN IS IT ME MY NO OF ON OR OX SO TO UP US WE
  ACE AIR ANT APE ARM ART BAG BAT BED BEE BIG BOX BOY BUS CAB CAR CAT COW CUP DAY DEN DOG DRY EAR
  EGG ELF END EYE FAN FAR FIG FIN FLY FOG FOX FUN GAS GEM HAM HAT HEN HOT ICE INK JAM JAR JET JOB
  JOY KEY KID KIT LEG LID LIP LOG MAP MIX MUD NET NUT OAK OIL OWL PAN PEN PIE PIG POT RAT RED RIB
  RUG SEA SKY SUN TAX TEA TIN TOY TUB VAN VET WAX WEB WIN YAK YES ZIP ZOO
  AUTO BABY BALL BANK BARN BEAR BELL BIRD BLUE BOAT BOOK CAFE CAKE CAMP CITY COAT CORN DEER DESK
  DOOR DRUM DUCK EAST EXIT FARM FERN FIRE FISH FLAG FOOD FROG GATE GIFT GOLD HAND HERO HILL HOME
  HOPE IRON JAZZ JUMP KITE LAKE LAMP LEAF LION MILK MOON NEST NOON OPEN OVEN PARK PLUM QUIZ RAIN
  ROAD ROCK SALE SALT SHIP SHOP SNOW SOUP STAR STOP SWAN TAXI TENT TREE VASE WAVE WEST WIND WOLF
  APPLE BEACH BERRY BREAD CABLE CANDY CHAIR CLOCK CLOUD DAIRY EAGLE EARTH FIELD FLOUR GRAPE GREEN
  HONEY HORSE HOTEL HOUSE IVORY JELLY JUICE KOALA LEMON LIGHT MANGO MAPLE MOUSE MUSIC NIGHT NORTH
  OCEAN OLIVE PANDA PAPER PIANO PIZZA PLANT QUEEN QUILT RADIO RIVER ROBOT SALAD SHEEP SOUTH STONE
  SUGAR TIGER TRAIN TULIP VIDEO VIOLA WATER WHALE WHEAT YACHT ZEBRA
  ANCHOR AUTUMN BAKERY BAMBOO BANANA BRIDGE BUTTON CAMERA CANDLE CASTLE CHEESE CHERRY CIRCUS COFFEE
  COOKIE DONKEY DRAGON ENGINE FALCON FLOWER FOREST GALAXY GARDEN GINGER GUITAR HAMMER HARBOR ISLAND
  JACKET JIGSAW JUNGLE KITTEN LADDER MARKET MEADOW MUSEUM ORANGE OYSTER PARROT PEPPER PLANET POCKET
  PUZZLE RABBIT ROCKET SADDLE SCHOOL SILVER SPRING SUMMER TEMPLE TICKET TOMATO TUNNEL VALLEY VIOLIN
  WALNUT WINTER WIZARD ZIPPER
""".split()


def held_out(word: str) -> bool:
  """Whether a word is held out for validation."""
  return hashlib.sha256(word.encode()).digest()[0] % HELD_OUT_PART == 0


@functools.cache
def _real(length: int, held: bool) -> tuple[str, ...]:
  return tuple(word for word in REAL if len(word) == length and held_out(word) is held)


def draw(rng: np.random.Generator, length: int, *, held: bool) -> str:
  """A word of `length` letters: a real one or random letters, held out or not as requested.

  Raises:
    UserError: on a length outside 1..MAX_LETTERS.
  """
  if not 1 <= length <= MAX_LETTERS:
    raise UserError(f"words.draw: length is {length}; choose 1 to {MAX_LETTERS}")
  real = _real(length, held)
  if real and rng.uniform() < REAL_SHARE:
    return real[int(rng.integers(len(real)))]
  while True:
    word = "".join(ALPHABET[i] for i in rng.integers(len(ALPHABET), size=length))
    if held_out(word) is held:
      return word
