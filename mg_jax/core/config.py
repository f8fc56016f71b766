"""Configs: typed argument strings, ConfigDicts at the edge, dataclasses inside.

An experiment is a Python file with `get_config(arg)`. `parse_arg` gives the argument types,
`build` turns a section into the dataclass or Linen module whose fields are its schema, and `run`
is the main of every command: it turns a user's mistake into one line and a non-zero exit.
"""

import dataclasses
import difflib
import errno
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mg_jax.core import background, compile_cache, termination
from mg_jax.core.errors import UserError, refusal

_CONFIG = "config"  # the flag --config=FILE[:ARG], with overrides --config.SECTION.FIELD=VALUE
_CONFIG_FLAG = re.compile(r"--?(?:no)?config(?:\.([^=]*))?(?:=(.*))?", re.DOTALL)
_FLAG_VALUE = re.compile(r"flag --config\.([\w.]+)=(.*?): ", re.DOTALL)
# OS errors caused by a user's path; apart from refusals of a disk, other OS errors are bugs.
_PATH_ERRORS = {
  errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
  errno.ELOOP,
}
_PATIENCE = 10.0  # seconds that threads may take to end after a command has failed


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
  """Parses "tiny,frames=8" against typed defaults; a bare word sets a bool to True.

  Raises:
    UserError: on a key that is not among the defaults or a value of another type.
  """
  values = ConfigDict(dict(defaults))
  for item in filter(None, (arg or "").split(",")):
    key, _, text = item.partition("=")
    if key not in defaults:
      raise UserError(f"config argument {key!r} is unknown{_hint(key, defaults)}")
    kind = type(defaults[key])
    if not text and kind is not bool:
      raise UserError(f"config argument {key!r} needs a value: {key}=...")
    try:
      values[key] = _parse_bool(text) if kind is bool else kind(text)
    except ValueError as e:
      raise UserError(f"config argument {item!r} is not of type {kind.__name__}") from e
  return values


def split_arg(arg: str | None, **defaults: Any) -> tuple[ConfigDict, str]:
  """Splits off a recipe's own arguments; returns them and the rest, for its parent recipe.

  Raises:
    UserError: as `parse_arg`, on own arguments.
  """
  items = [item for item in (arg or "").split(",") if item]
  own = [item for item in items if item.partition("=")[0] in defaults]
  rest = ",".join(item for item in items if item not in own)
  return parse_arg(",".join(own), **defaults), rest


def is_tiny(arg: str | None) -> bool:
  """Whether the argument of a recipe selects its tiny form."""
  return split_arg(arg, tiny=False)[0].tiny


def _parse_bool(text: str) -> bool:
  table = {"": True, "true": True, "1": True, "false": False, "0": False}
  if text.lower() not in table:
    raise ValueError(text)
  return table[text.lower()]


def _hint(key: str, known) -> str:
  close = difflib.get_close_matches(key, list(known), n=1)
  return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


def _accepts(annotation: Any, value: Any) -> bool:
  """Whether a plain config value fits a field's annotation; only plain types are checked."""
  origin = typing.get_origin(annotation)
  if annotation is Any or isinstance(annotation, str):
    return True
  if origin is typing.Literal:
    return value in typing.get_args(annotation)
  if origin in (typing.Union, types.UnionType):
    return any(_accepts(a, value) for a in typing.get_args(annotation))
  if annotation is None or annotation is type(None):
    return value is None
  if dataclasses.is_dataclass(annotation):
    return isinstance(value, annotation)
  kind = origin or annotation
  if kind is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if kind is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if kind in (bool, str):
    return isinstance(value, kind)
  if kind in (tuple, list):
    return isinstance(value, (tuple, list)) and _accept_items(typing.get_args(annotation), value)
  if kind in (dict, Mapping):
    of_values = typing.get_args(annotation)[1:] or (Any,)
    return isinstance(value, Mapping) and all(_accepts(of_values[0], v) for v in value.values())
  return True


def _accept_items(annotations: tuple, values: Sequence) -> bool:
  """Whether items fit the type arguments of tuple[...] or list[...]."""
  if not annotations:
    return True
  if len(annotations) == 1 or annotations[1] is ...:
    return all(_accepts(annotations[0], v) for v in values)
  pairs = zip(annotations, values, strict=False)
  return len(annotations) == len(values) and all(_accepts(a, v) for a, v in pairs)


def build(cls: Callable, config: Mapping[str, Any] | None = None, *, where: str = "", **extra: Any):
  """`cls(**config)`, where the dataclass fields of `cls` are the schema of the section.

  Args:
    cls: a dataclass or Linen module.
    config: the section; ConfigDicts become plain dicts and lists become tuples.
    where: the section's name, for messages.
    **extra: fields that do not come from the config.

  Raises:
    UserError: on an unknown key or a value of another type.
  """
  where = where or cls.__name__
  fields = _fields(cls)
  hints = typing.get_type_hints(cls)
  values = _plain(config or {})
  for key, value in values.items():
    if key not in fields:
      raise UserError(f"config {where} has no field {key!r}{_hint(key, fields)}")
    kind = hints.get(key, Any)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
      value = build(kind, value, where=f"{where}.{key}")
    elif typing.get_origin(kind) is Mapping and isinstance(value, Mapping):
      of_values = typing.get_args(kind)[1]
      if dataclasses.is_dataclass(of_values):  # sections by name
        value = {
          name: build(of_values, fields, where=f"{where}.{key}.{name}")
          if isinstance(fields, Mapping) else fields
          for name, fields in value.items()
        }  # fmt: skip
    values[key] = value
    if not _accepts(kind, value):
      raise UserError(f"config {where}.{key} is {value!r}, which {_wanted(kind)}")
  try:
    return cls(**values, **extra)
  except TypeError as e:
    raise UserError(f"config {where}: {e}") from e


def _wanted(annotation: Any) -> str:
  """The end of a sentence about a value that an annotation does not accept."""
  if typing.get_origin(annotation) is typing.Literal:
    return f"is unknown; give one of {', '.join(map(repr, typing.get_args(annotation)))}"
  plain = annotation.__name__ if type(annotation) is type else str(annotation)
  return f"is not of type {plain.replace('typing.', '')}"


def module_fields(cls: Callable, **overrides: Any) -> dict[str, Any]:
  """Every field of a Linen module at its default or override, so that flags can set any of them.

  Types are given by name, as flags give them.
  """
  defaults = {name: f.default for name, f in _fields(cls).items()}
  return defaults | {"dtype": "float32"} | overrides


def _fields(cls: Callable) -> dict[str, dataclasses.Field]:
  """The fields that a config may set."""
  hidden = ("parent", "name") if hasattr(cls, "apply") else ()  # of Linen modules
  return {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in hidden}


def section(cls: Callable, *, without: Sequence[str] = (), **overrides: Any) -> ConfigDict:
  """A config section with every field of a dataclass at its default, so that flags can set it.

  Args:
    cls: a dataclass whose fields all have defaults, except those of `without`.
    without: fields that do not come from a config.
    **overrides: values that this experiment sets.

  Raises:
    UserError: on an override of an unknown field.
  """
  values = dataclasses.asdict(build(cls, overrides, **dict.fromkeys(without)))
  result = ConfigDict()
  for key, value in values.items():
    if key in without:
      continue
    # None carries no type to check a later override against.
    result[key] = placeholder(object) if value is None else _plain(value)
  return result


def _plain(value: Any) -> Any:
  if isinstance(value, (Mapping, ConfigDict)):
    return {k: _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return tuple(_plain(v) for v in value)
  return value


def to_dict(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
  """A config as plain nested dicts and lists, ready for JSON."""

  def listed(value: Any) -> Any:
    if isinstance(value, dict):
      return {k: listed(v) for k, v in value.items()}
    return [listed(v) for v in value] if isinstance(value, tuple) else value

  return listed(_plain(config))


def settle_flags() -> None:
  """Lets libraries read absl's flags at their defaults if no command parses them (a notebook)."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


def run(main: Callable[[list[str]], Any], *, cached: bool = True) -> None:
  """Runs an absl main; a user's mistake becomes one line on stderr and exit code 2.

  Mistakes are UserErrors, any error on the command line, and OS errors caused by a path (a missing
  permission, a full disk). Ctrl-C exits with code 130, SIGTERM with 143, both after removing
  unfinished files; training saves a checkpoint instead; a closed pipe, as by `head`, with 141. Any
  other error is a bug and shows its traceback. If `cached`, compiled programs are kept.
  """
  held = background.Held()

  def guarded(argv: list[str]):
    absl_logging.set_verbosity(absl_logging.ERROR)
    held.listen()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("mg_jax")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    return main(argv)

  try:
    if cached:
      compile_cache.enable()
    with termination.on_sigterm(_terminate), termination.on_closed_output():
      app.run(guarded, flags_parser=_parse_flags)
  except UserError as e:
    _leave(f"error: {e}", 2, held)
  except KeyboardInterrupt:
    _leave("interrupted", 130, held)
  except termination.Terminated:
    _leave(termination.SENTENCE, termination.CODE, held)
  except Exception as e:
    if reason := _refused(e):
      _leave(f"error: {reason}", 2, held)
    if held.text:
      print(f"Errors in the background:\n{held.text}\n", file=sys.stderr)
    raise


def _terminate() -> None:
  signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleanup
  raise termination.Terminated


def _refused(error: Exception) -> str | None:
  """A sentence for an error caused by a path or a disk."""
  if refused := refusal(error):
    return str(refused)
  if isinstance(error, OSError) and error.errno in _PATH_ERRORS:
    return f"{error.filename or 'a file'}: {os.strerror(error.errno)}"
  return None


def _leave(sentence: str, code: int, held: background.Held) -> None:
  held.silent = True  # threads may still be failing
  # A path or prompt may hold characters that the terminal's encoding lacks.
  encoding = sys.stderr.encoding or "utf-8"
  text = sentence.encode(encoding, errors="backslashreplace").decode(encoding)
  print(text, file=sys.stderr, flush=True)
  _wait_for_threads(code)
  sys.exit(code)


def _wait_for_threads(code: int) -> None:
  """Forces the process to end if threads keep it alive: one may wait for another that failed."""
  deadline = time.monotonic() + _PATIENCE
  for thread in threading.enumerate():
    if thread is not threading.current_thread() and not thread.daemon:
      thread.join(max(0.0, deadline - time.monotonic()))
      if thread.is_alive():
        sys.stdout.flush()
        os._exit(code)


def _parse_flags(argv: list[str]) -> list[str]:
  """absl's parser, except that every mistake on the command line is a UserError."""
  config = _load_config(argv) if _CONFIG in flags.FLAGS else None
  try:
    return flags.FLAGS(argv)
  except flags.Error as e:
    raise UserError(_flag_mistake(str(e), config)) from e
  except SystemExit as e:  # absl exits with 1 after --help
    raise SystemExit(0) from e


def _load_config(argv: list[str]) -> ConfigDict | None:
  """The config that --config names, after checking every overridden field; None without --config.

  The flag itself reports a missing file only at its first use, and a missing field as whatever
  error the look-up raises; so both are checked here before parsing.
  """
  named, overrides = None, []
  for position, item in enumerate(argv[1:], 1):
    if item == "--":
      break
    if match := _CONFIG_FLAG.fullmatch(item):
      field, value = match.groups()
      if field is not None:
        overrides.append(field)
      else:
        named = "".join(argv[position + 1 : position + 2]) if value is None else value
  if named is None:
    return None
  path = named.partition(":")[0]
  if not os.path.isfile(path):
    raise UserError(
      f"--config={named} names no file; give an experiment such as experiments/tae.py:tiny"
    )
  try:
    config = flags.FLAGS[_CONFIG].parser.parse(named)
  except UserError:
    raise
  except Exception as e:
    raise UserError(_config_mistake(e, path)) from e
  if not isinstance(config, ConfigDict):
    raise UserError(f"{path} returns no ConfigDict; make its get_config return one")
  for field in overrides:
    _find(config, field)
  return config


def _find(config: ConfigDict, field: str) -> Any:
  """The value of a dotted field. Raises UserError if there is none."""
  node, done = config, "the config"
  for key in field.split("."):
    known = list(node) if isinstance(node, (ConfigDict, Mapping)) else []
    if key not in known:
      hint = _hint(key, known) if known else ""
      raise UserError(f"--config.{field}: {done} has no field {key!r}{hint}")
    node, done = node[key], key
  return node


def _config_mistake(error: Exception, path: str) -> str:
  """A sentence that locates an error in the config file that raised it."""
  line, link = getattr(error, "lineno", None), error
  # The flag wraps some errors in others, which have no frame in the file.
  while link is not None:
    frames = [f for f in traceback.extract_tb(link.__traceback__) if _same_file(f.filename, path)]
    if frames:
      error, line = link, frames[-1].lineno
      break
    link = link.__cause__ or link.__context__
  place = path if line is None else f"{path} line {line}"
  return f"{place}: {type(error).__name__}: {' '.join(str(error).split())}"


def _same_file(name: str, path: str) -> bool:
  return os.path.abspath(name) == os.path.abspath(path)


def _flag_mistake(text: str, config: ConfigDict | None) -> str:
  match = _FLAG_VALUE.match(text)
  if match is None or config is None:
    return f"{' '.join(text.split())}; see --help"
  field, value = match.groups()
  default = _find(config, field)
  if isinstance(default, ConfigDict):
    return f"--config.{field} is a section; set one of its fields: {', '.join(default)}"
  return (
    f"--config.{field}={value} is not of type {type(default).__name__}; an example is {default!r}"
  )
