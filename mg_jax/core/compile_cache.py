"""The persistent cache of compiled programs, on by default for every command.

`MG_COMPILE_CACHE` names another folder or a bucket, and is empty for none;
`JAX_COMPILATION_CACHE_DIR`, jax's own variable, goes before it.
"""

import hashlib
import logging
import os
import pathlib
import platform
import sys

from mg_jax.core.errors import UserError

_log = logging.getLogger(__name__)
VARIABLE = "MG_COMPILE_CACHE"


def enable() -> str:
  """Turns the cache on before or after jax is imported; returns where it is, "" for nowhere.

  Raises:
    UserError: if the folder that the variable names belongs to another user or cannot be created.
  """
  if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    return os.environ["JAX_COMPILATION_CACHE_DIR"]
  named = os.environ.get(VARIABLE)
  if named == "":
    return ""
  try:
    folder = named if named and "://" in named else str(private(named or default()))
  except (UserError, RuntimeError) as e:  # the latter where there is no home
    if named:
      raise
    _log.warning("%s; programs are compiled anew by each command", e)
    return ""
  settings = {
    "jax_compilation_cache_dir": folder,
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  for name, value in settings.items():
    if os.environ.setdefault(name.upper(), str(value)) == str(value) and "jax" in sys.modules:
      sys.modules["jax"].config.update(name, value)  # it has read its environment already
  return folder


def default() -> pathlib.Path:
  """A folder of the user's for this kind of processor, whose instructions its programs use."""
  base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
  return base / "mg_jax" / "xla" / _processor()


def private(folder: str | os.PathLike[str]) -> pathlib.Path:
  """Creates a folder that only its owner may use: it holds native code that is loaded and run.

  Raises:
    UserError: if it belongs to another user or cannot be created.
  """
  path = pathlib.Path(folder).expanduser().absolute()
  try:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.stat().st_uid != os.getuid():
      raise UserError(
        f"compile cache {path} belongs to another user; set {VARIABLE} to a folder of your own"
      )
    path.chmod(0o700)
  except OSError as e:
    raise UserError(
      f"compile cache {path} cannot be created ({e.strerror}); set {VARIABLE} to another folder"
    ) from e
  return path


def _processor() -> str:
  """Name of a kind of processor: homes are often shared by machines of several kinds."""
  features = platform.processor()
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    features = next(line for line in lines if line.startswith(("flags", "Features")))
  except (OSError, StopIteration):
    pass  # not Linux: the name has to do
  return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
