"""Reading text files that people write: captions, prompts; one reader, one convention.

UTF-8 is expected, with or without a byte-order mark; UTF-16 is accepted with a byte-order mark, as
some editors and shells write it. Anything else is rejected rather than guessed.
"""

import codecs
import os

from mg_jax.core.errors import UserError


def read(path: str | os.PathLike[str], *, what: str = "") -> str:
  """The text of a file, without its byte-order mark; line ends are kept.

  Args:
    path: the file.
    what: a description of the file, for messages.

  Raises:
    UserError: if it is unreadable or not such text, with the line and byte of the first fault.
  """
  name = f"{what} {os.fspath(path)}".strip()
  try:
    with open(path, "rb") as file:
      data = file.read()
  except OSError as error:
    raise UserError(f"{name} cannot be read ({error.strerror}); check the path.") from error
  wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  try:
    text = data.decode("utf-16" if wide else "utf-8-sig")
  except UnicodeDecodeError as error:
    if wide:
      place = f"byte {error.start + 1} is invalid UTF-16, which its byte-order mark announces"
    else:
      # The codec drops the mark, and positions count from after it.
      start = error.start + len(data) - len(error.object)
      line = data.count(b"\n", 0, start) + 1
      place = f"line {line}, byte {start + 1} of the file, is 0x{data[start]:02x}"
    raise UserError(f"{name} is not UTF-8 text: {place}; save it as UTF-8.") from error
  if "\0" in text:
    line = text.count("\n", 0, text.index("\0")) + 1
    raise UserError(
      f"{name} is not UTF-8 text: line {line} holds a zero byte, as UTF-16 without a byte-order "
      "mark does; save it as UTF-8."
    )
  return text


def lines(path: str | os.PathLike[str], *, what: str = "") -> list[tuple[int, str]]:
  """(number from 1, stripped text) of the non-blank lines of a file; raises as `read`.

  Only a line feed ends a line: text may contain other Unicode separators.
  """
  numbered = enumerate(read(path, what=what).split("\n"), start=1)
  return [(number, line.strip()) for number, line in numbered if line.strip()]
