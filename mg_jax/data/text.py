"""Captions to byte tokens, and the tag that tells the generator its frame rate [MG 3.1.4].

The vocabulary is ByT5's: 0 pads, 1 ends the sequence, 2 is unknown, and byte b of the UTF-8 text is
b + 3. A caption becomes ids (S,) int32 and a mask (S,) bool that is True on real tokens, the end
token included. A caption is data: the text of a special token such as "</s>" is plain characters
here, and nothing in it is interpreted.
"""

import numpy as np

PAD, EOS, UNK = 0, 1, 2
BYTE_OFFSET = 3
VOCABULARY = 256 + BYTE_OFFSET


def encode_bytes(text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
  """Encodes `text` as exactly `length` byte tokens.

  A text that does not fit keeps its first `length - 1` bytes and still ends with EOS. What UTF-8
  cannot hold (a lone surrogate) becomes "?".

  Args:
    text: any string, also empty, also with NUL characters.
    length: S >= 1, the end token included.

  Returns:
    ids int32 (S,) and mask bool (S,).
  """
  if length < 1:
    raise ValueError(f"length must be at least 1 to hold the end token, got {length}")
  # No character takes less than a byte, so the slice keeps the work small on a caption of
  # megabytes.
  data = text[: length - 1].encode("utf-8", errors="replace")[: length - 1]
  ids = np.full((length,), PAD, np.int32)
  ids[: len(data)] = np.frombuffer(data, np.uint8).astype(np.int32) + BYTE_OFFSET
  ids[len(data)] = EOS
  mask = np.arange(length) <= len(data)
  return ids, mask


def count_bytes(text: str) -> int:
  """Tokens that `encode_bytes` takes for a whole text, the end token included."""
  return len(text.encode("utf-8", errors="replace")) + 1


def decode_bytes(ids: np.ndarray) -> str:
  """Returns the text of `ids` (S,) up to the first EOS; a cut character becomes U+FFFD."""
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
