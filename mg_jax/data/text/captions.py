"""Captions of the files of a media folder [MG 3.2.1].

Captions are in `name.txt` next to `name.mp4`, or for many files in one `captions.jsonl` with a
line {"file": ..., "caption": ...} each, plus "camera" or "sound_caption" if known, and the values
of conditions under their names, see `data.conditions`. Names are
compared in Unicode's composed form (NFC), as some file systems and archives decompose them. File
names are taken from the folder's listing only: nothing in a caption file becomes a path.
"""

import json
import logging
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mg_jax.core.errors import UserError
from mg_jax.data.text import files as textfiles
from mg_jax.data.text import prompts as text

_log = logging.getLogger(__name__)
FILE = "captions.jsonl"
_SHOWN = 3  # names in a message
KEYS = ("file", "caption", "camera", "sound_caption")  # of a row; others are values of conditions


class Caption(NamedTuple):
  """Captions of a file; fields are empty if unknown. `given` has the other keys of its row."""

  text: str = ""
  camera: str = ""
  sound: str = ""
  given: Mapping[str, Any] = {}


def read_captions(
  folder: str | os.PathLike[str], names: Sequence[str], *, required: bool, sound: bool = True
) -> dict[str, Caption]:
  """The captions of every named file; rows that match no file of the folder are logged.

  Args:
    folder: the folder.
    names: files of it.
    required: whether a file without a caption is an error; white space does not count as one.
    sound: whether a sound caption suffices.

  Raises:
    UserError: if a caption is missing although `required`, or a caption file is malformed.
  """
  listed = _listing(folder)
  table = _table(pathlib.Path(folder) / FILE)
  unmatched = [file for file in table if _composed(file) not in listed]
  by_name = {_composed(file): caption for file, caption in table.items()}
  captions = {}
  for name in names:
    txt = _composed(pathlib.PurePath(name).with_suffix(".txt").name)
    # Names of two files may differ only in Unicode form: then each has its own row.
    caption = table.get(name) or by_name.get(_composed(name))
    path = os.path.join(folder, listed.get(txt, txt))
    if not (caption and caption.text) and txt in listed and os.path.isfile(path):
      caption = (caption or Caption())._replace(text=textfiles.read(path).strip())
    captions[name] = caption or Caption()
    if required and not (captions[name].text or (sound and captions[name].sound)):
      raise UserError(_missing(os.fspath(folder), name, caption, unmatched))
  if unmatched:
    _log.warning(
      "%s: %d of %d rows match no file: %s%s", pathlib.Path(folder) / FILE, len(unmatched),
      len(table), _some(unmatched), _hint(unmatched, listed),
    )  # fmt: skip
  return captions


def _missing(folder: str, name: str, caption: Caption | None, unmatched: Sequence[str]) -> str:
  txt = pathlib.PurePath(name).with_suffix(".txt").name
  lacks = "has no caption" if caption is None else "has an empty caption"
  near = [file for file in unmatched if _base(file) == _composed(name)]
  if near:
    return (
      f'{folder}: {name} {lacks}; a row of {FILE} names it "{near[0]}": write the name without '
      "its folder."
    )
  return (
    f"{folder}: {name} {lacks}; write it to {txt} or to {FILE} as "
    f'{{"file": "{name}", "caption": "..."}}.'
  )


def _hint(unmatched: Iterable[str], listed: dict[str, str]) -> str:
  near = [file for file in unmatched if _base(file) in listed]
  if not near:
    return ""
  return f"; {len(near)} would match by name only: write file names without folders"


def _some(names: Sequence[str]) -> str:
  return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _base(file: str) -> str:
  """The last component of a POSIX or Windows path, composed."""
  return _composed(file.replace("\\", "/").rsplit("/", 1)[-1])


def _composed(name: str) -> str:
  return unicodedata.normalize("NFC", name)


def _listing(folder: str | os.PathLike[str]) -> dict[str, str]:
  """Names of a folder by their composed form."""
  try:
    return {_composed(name): name for name in sorted(os.listdir(folder))}
  except OSError as error:
    raise UserError(
      f"{os.fspath(folder)} cannot be read ({error.strerror}); give a readable folder."
    ) from error


def _table(path: pathlib.Path) -> dict[str, Caption]:
  """The rows of `captions.jsonl` by file name; empty if there is no such file."""
  if not path.is_file():
    return {}
  table, twice = {}, []
  for number, line in textfiles.lines(path):
    row = _row(line)
    if row is None:
      raise UserError(
        f'{path} line {number} is not {{"file": "...", "caption": "..."}}; correct or remove it.'
      )
    file, caption = row
    if caption.camera and caption.camera not in text.CAMERAS:
      raise UserError(
        f"{path} line {number} has camera {caption.camera!r}; known are {', '.join(text.CAMERAS)}."
      )
    if file in table:
      twice.append(file)
    table[file] = caption
  if twice:
    _log.warning(
      "%s: %d rows are not used, as later ones name the same file: %s", path, len(twice),
      _some(twice),
    )  # fmt: skip
  return table


def _row(line: str) -> tuple[str, Caption] | None:
  try:
    row: Any = json.loads(line)
  except (ValueError, RecursionError):
    return None
  if not isinstance(row, dict):
    return None
  values = row.get("file"), row.get("caption"), row.get("camera", ""), row.get("sound_caption", "")
  given = {key: value for key, value in row.items() if key not in KEYS}
  if not all(isinstance(value, str) for value in values):
    return None
  file, caption, camera, sound = values
  # White space counts as empty; any other text is kept verbatim.
  return file, Caption(
    caption if caption.strip() else "", camera, sound if sound.strip() else "", given
  )
