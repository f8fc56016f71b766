"""Sound prompts as captions with the fields of the training captions [MG 6.2, 6.3].

Audio quality, speech, singing, the sound in quotes, the likelihood of music, and the music in
quotes. Speech and singing are never generated; `voices` finds words that request them.
"""

import re

QUALITY, QUALITY_WITH_MUSIC = 7.0, 8.0  # of prompts [MG 6.2]
WITH_MUSIC, WITHOUT_MUSIC = 0.90, 0.01
FRAME = (
  'Audio quality: {quality:.1f}. No speech. No singing. Sound: "{sound}". '
  'Music likelihood: {likelihood:.2f}. Music: "{music}".'
)

# Words that request a voice; a trailing * matches any suffix.
VOICES = (
  "speech*", "speak*", "spoken", "spoke", "talk*", "says", "say", "saying", "said", "voice*",
  "dialog*", "monolog*", "conversation*", "narrat*", "whisper*", "lecture*", "sing", "sings",
  "singing", "singer*", "sung", "sang", "vocal*", "lyric*", "choir*", "choral", "rap", "raps",
  "rapper*", "rapping", "announcer*", "commentator*", "shouts", "shouting", "yells", "yelling",
)  # fmt: skip
_VOICE = re.compile(
  r"(?<!\w)(?:" + "|".join(re.escape(v).replace(r"\*", r"\w*") for v in VOICES) + r")(?!\w)", re.I
)
# Negated words do not count: "no speech", "without any voices".
_DENIED = re.compile(r"\b(?:no|not|without|never|nobody)(?:\s+\w+)?\s*$", re.I)


def caption(
  sound: str = "", music: str = "", *, quality: float | None = None, has_music: bool
) -> str:
  """The caption of a sound, in the wording of the canonical captions.

  Args:
    sound: sound other than music. Line breaks become spaces and double quotes single ones, since
      double quotes delimit the descriptions.
    music: music, "" for any.
    quality: 1 to 10, by default 7, and 8 with music, as in the paper's prompts.
    has_music: whether there is music; if not, `music` describes what to avoid.

  Raises:
    ValueError: if the quality is outside 1 to 10.
  """
  if quality is None:
    quality = QUALITY_WITH_MUSIC if has_music else QUALITY
  if not 1 <= quality <= 10:
    raise ValueError(f"quality is {quality}; it must be within 1 to 10")
  return FRAME.format(
    quality=quality,
    sound=_plain(sound),
    likelihood=WITH_MUSIC if has_music else WITHOUT_MUSIC,
    music=_plain(music),
  )


def voices(text: str) -> list[str]:
  """Words of a prompt that request speech or singing, in order, each once and in lower case."""
  words = []
  for match in _VOICE.finditer(text):
    word = match[0].lower()
    if word not in words and not _DENIED.search(text[: match.start()]):
      words.append(word)
  return words


def _plain(text: str) -> str:
  """One line, with single quotes only and no full stop at its end."""
  return re.sub(r"\s+", " ", re.sub(r'["\u201c\u201d\u00ab\u00bb]', "'", text)).strip().rstrip(".")
