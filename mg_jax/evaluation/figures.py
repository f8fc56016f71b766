"""Figures: what a command measured, in a JSON file with all that made it.

A number in README.md or docs/ is a link to its value, `[27.1 dB](docs/figures/NAME.json#KEY)`, and
`tests/docs_test.py` holds the number, and the command printed beside it, against the file.
"""

import datetime
import functools
import importlib.metadata
import logging
import math
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from absl import flags

import mg_jax
from mg_jax.core.errors import UserError
from mg_jax.data import atomic

flags.disclaim_key_flags()  # a flag defined here belongs to the command that asked for it

_log = logging.getLogger(__name__)
LIBRARIES = ("jax", "jaxlib", "flax", "numpy")
CODE = ("mg_jax", "experiments", "launch")  # what decides a result, beside the libraries
_ROOT = pathlib.Path(mg_jax.__file__).resolve().parent.parent
_OWN = re.compile(r"--?figure(=.*)?", re.DOTALL)
_ABSOLUTE = re.compile(r"(?:^|[=,])[/~]")


def measured(main: Callable[[list[str]], Any]) -> Callable[[list[str]], None]:
  """Gives a command the flag `--figure=FILE.json`, which keeps what its main returns.

  A main returns its measurements as `record` takes them; with them, as a pair, its `about`, where
  another process has measured; or None where it did not come to its end.
  """
  flag = flags.DEFINE_string("figure", None, "Also keep what was measured in this JSON file.")

  @functools.wraps(main)
  def run(argv: list[str]) -> None:
    if flag.value:
      check(flag.value)
    found = main(argv)
    if flag.value and found is not None:
      values, about = found if isinstance(found, tuple) else (found, None)
      record(flag.value, values, about=about)

  return run


def check(path: str | os.PathLike[str]) -> None:
  """Finds out before anything is measured whether it can become a figure; remembers the commit.

  Raises:
    UserError: when the file is no .json, or the command names a path of this machine alone.
  """
  if pathlib.Path(path).suffix != ".json":
    raise UserError(f"--figure={os.fspath(path)} is no .json file; give docs/figures/NAME.json")
  for word in _arguments():
    if _ABSOLUTE.search(word):
      raise UserError(
        f"a figure is for every machine, and {word!r} is a path of this one; "
        "give paths relative to the repository"
      )
  if (found := commit()) and found["dirty"]:
    _log.warning(
      "the code differs from its commit, so %s can be no figure of README or docs/", os.fspath(path)
    )


def record(
  path: str | os.PathLike[str],
  values: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
  *,
  about: Mapping[str, Any] | None = None,
) -> None:
  """Writes measurements with the command, versions, machine, commit and date that made them.

  On processes other than the first it does nothing. What is not finite becomes null.

  Args:
    path: the JSON file; its folder is made.
    values: nested dictionaries of numbers, lists and text, or a function that reads them, which
      only the process that writes calls. A link names one by its keys with slashes between them.
    about: "versions" and "machine", where another process has measured; default `describe()`.
  """
  if about is None:
    import jax

    if jax.process_index():
      return
    about = describe()
  document = {
    "command": command(),
    "values": _plain(values() if callable(values) else values),
    **about,
    "commit": commit(),
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }
  atomic.write_json(path, document)


def command() -> str:
  """The command line as it was typed, without --figure."""
  program = pathlib.Path(sys.argv[0])
  if program.is_absolute() and program.is_relative_to(_ROOT):
    program = program.relative_to(_ROOT)
  return shlex.join(["python", str(program), *_arguments()])


def _arguments() -> list[str]:
  kept, words = [], iter(sys.argv[1:])
  for word in words:
    if match := _OWN.fullmatch(word):
      if match[1] is None:  # the file is the next word
        next(words, None)
    else:
      kept.append(word)
  return kept


def describe() -> dict[str, Any]:
  """Versions and machine of this process."""
  import jax

  devices = jax.devices()
  kind = None if devices[0].platform == "cpu" else f"{len(devices)} x {devices[0].device_kind}"
  return {"versions": versions(), "machine": machine() | {"accelerator": kind}}


def versions(libraries: Iterable[str] = LIBRARIES) -> dict[str, str]:
  """Of Python, mg_jax and those of the libraries that are installed."""
  found = {"python": platform.python_version(), "mg_jax": mg_jax.__version__}
  for name in libraries:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def machine() -> dict[str, Any]:
  """Model of the processor, how many of its cores this process may use, flags of XLA."""
  model = platform.processor() or platform.machine()
  try:
    with open("/proc/cpuinfo") as f:
      model = next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
  except (OSError, StopIteration):
    pass
  some = hasattr(os, "sched_getaffinity")
  cores = len(os.sched_getaffinity(0)) if some else os.cpu_count()
  return {"cpu": model, "cores": cores, "xla_flags": os.environ.get("XLA_FLAGS", "")}


@functools.cache
def commit() -> dict[str, Any] | None:
  """{"id", "dirty"} of the checkout, "dirty" when its code differs; None where git knows of none.

  Remembered from the first call, as code may change while a training runs.
  """
  try:
    if pathlib.Path(_git("rev-parse", "--show-toplevel").strip()) != _ROOT:
      return None  # installed inside of another checkout
    changed = _git("status", "--porcelain", "--", *CODE)
    return {"id": _git("rev-parse", "HEAD").strip(), "dirty": bool(changed.strip())}
  except (OSError, subprocess.CalledProcessError):
    return None


def _git(*arguments: str) -> str:
  done = subprocess.run(
    ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True
  )
  return done.stdout


def _plain(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(key): _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, np.generic | np.ndarray):
    return _plain(value.tolist())
  return None if isinstance(value, float) and not math.isfinite(value) else value
