"""The cast: trained weights that come with the package, by name.

`cast/NAME` is a folder of converted weights (`models.weights.converted`) beside this package's
code, wherever a run or converted weights can be named. Other folders called so need absolute paths.
"""

import hashlib
import os
import pathlib

from mg_jax.core.errors import UserError

PREFIX = "cast/"
FOLDER = pathlib.Path(__file__).resolve().parent.parent / "cast"


def is_shipped(reference: str | os.PathLike[str]) -> bool:
  """Whether a reference is a name of the cast, or the path of one."""
  text = os.fspath(reference)
  if "://" in text:
    return False
  return text.startswith(PREFIX) or FOLDER in pathlib.Path(text).expanduser().resolve().parents


def names() -> list[str]:
  """All names of the cast, such as "cast/codec"."""
  return sorted(PREFIX + path.parent.name for path in FOLDER.glob("*/config.json"))


def locate(reference: str | os.PathLike[str]) -> str:
  """The path that a reference stands for: that of a name of the cast, else itself.

  Raises:
    UserError: for a name that is not of the cast.
  """
  text = os.fspath(reference)
  if not text.startswith(PREFIX):
    return text
  if text.rstrip("/") not in names():
    if not names():
      raise UserError(
        f"{text}: this installation has no shipped weights; install mg_jax from its repository"
      )
    raise UserError(
      f"{text} is not of the cast; choose one of {', '.join(names())}, or give the absolute path "
      "of a folder of your own"
    )
  return os.fspath(FOLDER / text.rstrip("/").removeprefix(PREFIX))


def results(reference: str | os.PathLike[str]) -> pathlib.Path:
  """The folder for what is made with weights: that of the run, or `runs/cast/NAME`."""
  if not is_shipped(reference):
    return pathlib.Path(reference)
  return pathlib.Path("runs", "cast", pathlib.Path(locate(reference)).resolve().name)


def verify(file: pathlib.Path, sha256: str) -> None:
  """Checks a file of the cast. Raises UserError if it is missing or not the one shipped."""
  if not file.is_file():
    raise UserError(f"{file} is missing; install mg_jax again")
  with file.open("rb") as opened:
    if hashlib.file_digest(opened, "sha256").hexdigest() != sha256:
      raise UserError(f"{file} is damaged: it is not the file that was shipped; install again")
