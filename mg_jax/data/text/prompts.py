"""Byte tokens of captions, tags that precede them, and words that they quote [MG 3.1.4].

The vocabulary is ByT5's: 0 is padding, 1 the end of the sequence, 2 unknown, and byte b of the
UTF-8 text is b + 3. A caption becomes ids (S,) int32 and a mask (S,) bool that is True on real
tokens, the end token included. A caption is data: special tokens such as "</s>" in its text are
encoded as plain characters.
"""

import re

import numpy as np

PAD, EOS, UNK = 0, 1, 2
BYTE_OFFSET = 3
VOCABULARY = 256 + BYTE_OFFSET
# [MG 3.2.1] Camera motions, predicted by a classifier and prefixed to the caption, and the six
# views that finetuning adds [MG 3.3].
CAMERAS = (
  "zoom in", "zoom out", "push in", "pull out", "pan right", "pan left", "truck right",
  "truck left", "tilt up", "tilt down", "pedestal up", "pedestal down", "arc shot",
  "tracking shot", "static shot", "handheld shot",
  "wide angle", "close-up", "aerial", "low angle", "over the shoulder", "first-person view",
)
_QUOTES = re.compile(r'"([^"]*)"|\u201c([^\u201d]*)\u201d|\u00ab([^\u00bb]*)\u00bb')


def encode_bytes(text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
  """Encodes `text` as exactly `length` byte tokens.

  A longer text is truncated to its first `length - 1` bytes and still ends with EOS. A lone
  surrogate, which UTF-8 cannot encode, becomes "?".

  Args:
    text: any string; may be empty or contain NUL characters.
    length: S >= 1, the end token included.

  Returns:
    ids int32 (S,) and mask bool (S,).
  """
  if length < 1:
    raise ValueError(f"length must be at least 1 to hold the end token, got {length}")
  # A character takes at least one byte, so slicing first keeps the work small on huge captions.
  data = text[: length - 1].encode("utf-8", errors="replace")[: length - 1]
  ids = np.full((length,), PAD, np.int32)
  ids[: len(data)] = np.frombuffer(data, np.uint8).astype(np.int32) + BYTE_OFFSET
  ids[len(data)] = EOS
  mask = np.arange(length) <= len(data)
  return ids, mask


def decode_bytes(ids: np.ndarray) -> str:
  """Returns the text of `ids` (S,) up to the first EOS; a truncated character becomes U+FFFD."""
  values = np.asarray(ids).tolist()
  if EOS in values:
    values = values[: values.index(EOS)]
  data = bytes(v - BYTE_OFFSET for v in values if BYTE_OFFSET <= v < VOCABULARY)
  return data.decode("utf-8", errors="replace")


def fps_tag(prompt: str, fps: float) -> str:
  """Prefixes the frame rate, rounded to a whole number, as in "FPS-16 a dog runs" [MG 3.1.4]."""
  if not fps > 0:
    raise ValueError(f"fps must be positive, got {fps}")
  return f"FPS-{int(fps + 0.5)} {prompt}"


def camera_tag(prompt: str, camera: str) -> str:
  """Prefixes the camera motion, as in "Pan left. A dog runs" [MG 3.2.1]; "" adds nothing."""
  return f"{camera.capitalize()}. {prompt}" if camera else prompt


def quoted(prompt: str) -> str:
  """The words inside quotation marks, straight or typographic, that the picture is to show.

  Several quotations are joined by a space. Apostrophes and unpaired marks are ignored.
  """
  parts = ("".join(groups).strip() for groups in _QUOTES.findall(prompt))
  return " ".join(part for part in parts if part)
