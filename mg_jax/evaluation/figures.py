"""Figures: the measurements of a command, in a JSON file with everything that produced them.

A number in README.md or docs/ is a link to its value, `[27.1 dB](docs/figures/NAME.json#KEY)`, and
`tests/docs_test.py` checks the number, and the command printed next to it, against the file.
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

flags.disclaim_key_flags()  # a flag defined here belongs to the command that defines it

_log = logging.getLogger(__name__)
LIBRARIES = ("jax", "jaxlib", "flax", "numpy")
CODE = ("mg_jax", "experiments", "launch")  # what determines a result, besides the libraries
_ROOT = pathlib.Path(mg_jax.__file__).resolve().parent.parent
_OWN = re.compile(r"--?figure(=.*)?", re.DOTALL)
_ABSOLUTE = re.compile(r"(?:^|[=,])[/~]")


def measured(main: Callable[[list[str]], Any]) -> Callable[[list[str]], None]:
  """Gives a command the flag `--figure=FILE.json`, which saves what its main returns.

  A main returns its measurements as `record` takes them; or a pair of them and `about`, if another
  process measured; or None if it did not finish.
  """
  flag = flags.DEFINE_string("figure", None, "Also save the measurements to this JSON file.")

  @functools.wraps(main)
  def run(argv: list[str]) -> None:
    if flag.value:
      check(flag.value)
    result = main(argv)
    if flag.value and result is not None:
      values, about = result if isinstance(result, tuple) else (result, None)
      record(flag.value, values, about=about)

  return run


def check(path: str | os.PathLike[str]) -> None:
  """Checks, before measuring, whether the run can become a figure; remembers the commit.

  Raises:
    UserError: if the file is not a .json, or the command names an absolute path.
  """
  if pathlib.Path(path).suffix != ".json":
    raise UserError(f"--figure={os.fspath(path)} is not a .json file; give docs/figures/NAME.json")
  for word in _arguments():
    if _ABSOLUTE.search(word):
      raise UserError(
        f"a figure must be reproducible on any machine, but {word!r} is an absolute path; "
        "give paths relative to the repository"
      )
  if (head := commit()) and head["dirty"]:
    _log.warning(
      "the code differs from its commit, so %s cannot be a figure of the docs", os.fspath(path)
    )


def record(
  path: str | os.PathLike[str],
  values: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
  *,
  about: Mapping[str, Any] | None = None,
) -> None:
  """Writes measurements with the command, versions, machine, commit and date that produced them.

  Does nothing on processes other than the first. Non-finite values become null.

  Args:
    path: the JSON file; its folder is created.
    values: nested dictionaries of numbers, lists and text, or a function that returns them, only
      called by the process that writes. A link names a value by its keys joined with slashes.
    about: "versions" and "machine", if another process measured; default `describe()`.
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
  """The command line as typed, without --figure."""
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
  """Versions of Python, mg_jax and those of the libraries that are installed."""
  installed = {"python": platform.python_version(), "mg_jax": mg_jax.__version__}
  for name in libraries:
    try:
      installed[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return installed


def machine() -> dict[str, Any]:
  """Processor model, number of cores available to this process, XLA flags."""
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
  """{"id", "dirty"} of the checkout, "dirty" if its code differs; None outside a git checkout.

  Cached at the first call, as code may change while a training runs.
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
