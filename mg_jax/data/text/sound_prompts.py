"""What a user says of a sound, as a caption with the fields of the training captions [MG 6.2, 6.3].

Audio quality, speech, singing, the sound in quotes, the likelihood of music, and the music in
quotes. Neither speech nor singing is ever made, and `voices` tells which words ask for them.
"""

import re

QUALITY, QUALITY_WITH_MUSIC = 7.0, 8.0  # [MG 6.2] what is prompted for
WITH_MUSIC, WITHOUT_MUSIC = 0.90, 0.01
FRAME = (
  'Audio quality: {quality:.1f}. No speech. No singing. Sound: "{sound}". '
  'Music likelihood: {likelihood:.2f}. Music: "{music}".'
)

# Words, and beginnings of words where a * ends them, that ask for a voice.
VOICES = (
  "speech*", "speak*", "spoken", "spoke", "talk*", "says", "say", "saying", "said", "voice*",
  "dialog*", "monolog*", "conversation*", "narrat*", "whisper*", "lecture*", "sing", "sings",
  "singing", "singer*", "sung", "sang", "vocal*", "lyric*", "choir*", "choral", "rap", "raps",
  "rapper*", "rapping", "announcer*", "commentator*", "shouts", "shouting", "yells", "yelling",
)  # fmt: skip
_VOICE = re.compile(
  r"(?<!\w)(?:" + "|".join(re.escape(v).replace(r"\*", r"\w*") for v in VOICES) + r")(?!\w)", re.I
)
# What is denied is not asked for: "no speech", "without any voices".
_DENIED = re.compile(r"\b(?:no|not|without|never|nobody)(?:\s+\w+)?\s*$", re.I)


def caption(
  sound: str = "", music: str = "", *, quality: float | None = None, has_music: bool
) -> str:
  """The caption of a sound, in the wording that the canonical captions are in.

  Args:
    sound: what is heard but music. Line breaks become spaces, double quotes single ones, since
      these frame the descriptions.
    music: what music is heard, "" for any.
    quality: 1 to 10, by default 7, and 8 with music, as the paper prompts for.
    has_music: whether there is music; without, what `music` says is not wanted.

  Raises:
    ValueError: for a quality outside 1 to 10.
  """
  if quality is None:
    quality = QUALITY_WITH_MUSIC if has_music else QUALITY
  if not 1 <= quality <= 10:
    raise ValueError(f"quality is {quality}; it lies within 1 to 10")
  return FRAME.format(
    quality=quality,
    sound=_plain(sound),
    likelihood=WITH_MUSIC if has_music else WITHOUT_MUSIC,
    music=_plain(music),
  )


def voices(text: str) -> list[str]:
  """Words of a prompt that ask for speech or singing, in order, each once and in lower case."""
  found = []
  for match in _VOICE.finditer(text):
    word = match[0].lower()
    if word not in found and not _DENIED.search(text[: match.start()]):
      found.append(word)
  return found


def _plain(text: str) -> str:
  """One line, with single quotes only and no full stop at its end."""
  return re.sub(r"\s+", " ", re.sub(r'["\u201c\u201d\u00ab\u00bb]', "'", text)).strip().rstrip(".")
