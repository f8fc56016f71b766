"""Configs: typed argument strings, ConfigDicts at the edge, dataclasses inside.

An experiment is a Python file with `get_config(arg)`. `parse_arg` gives the argument types,
`build` turns a section into the dataclass or Linen module whose fields are its schema, and `run`
is the main of every command: it turns a user's mistake into one line and a non-zero exit.
"""

import dataclasses
import difflib
import logging
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from absl import app
from absl import logging as absl_logging
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mg_jax.core.errors import UserError


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


def _parse_bool(text: str) -> bool:
  table = {"": True, "true": True, "1": True, "false": False, "0": False}
  if text.lower() not in table:
    raise ValueError(text)
  return table[text.lower()]


def _hint(key: str, known) -> str:
  close = difflib.get_close_matches(key, list(known), n=1)
  return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


def _accepts(annotation: Any, value: Any) -> bool:
  """Whether a plain config value fits a field's annotation; only plain types are judged."""
  origin = typing.get_origin(annotation)
  if annotation is Any or isinstance(annotation, str):
    return True
  if origin is typing.Literal:
    return value in typing.get_args(annotation)
  if origin in (typing.Union, types.UnionType):
    return any(_accepts(a, value) for a in typing.get_args(annotation))
  if annotation is None or annotation is type(None):
    return value is None
  kind = origin or annotation
  if kind is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if kind is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if kind in (bool, str):
    return isinstance(value, kind)
  if kind in (tuple, list):
    return isinstance(value, (tuple, list))
  if kind in (dict, Mapping):
    return isinstance(value, Mapping)
  return True


def build(cls: Callable, config: Mapping[str, Any] | None = None, *, where: str = "", **extra: Any):
  """`cls(**config)`, where the dataclass fields of `cls` are the schema of the section.

  Args:
    cls: a dataclass or Linen module.
    config: the section; ConfigDicts become plain dicts and lists become tuples.
    where: the section's name, for messages.
    **extra: fields that do not come from the config.

  Raises:
    UserError: on a key that is no field, and on a value of another type.
  """
  where = where or cls.__name__
  hidden = ("parent", "name") if hasattr(cls, "apply") else ()  # of Linen modules
  fields = {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in hidden}
  hints = typing.get_type_hints(cls)
  values = _plain(config or {})
  for key, value in values.items():
    if key not in fields:
      raise UserError(f"config {where} has no field {key!r}{_hint(key, fields)}")
    if not _accepts(hints.get(key, Any), value):
      raise UserError(f"config {where}.{key} is {value!r}, which does not fit {hints[key]}")
  try:
    return cls(**values, **extra)
  except TypeError as e:
    raise UserError(f"config {where}: {e}") from e


def section(cls: Callable, **overrides: Any) -> ConfigDict:
  """A config section with every field of a dataclass at its default, so that flags can reach all.

  Args:
    cls: a dataclass whose fields all have defaults.
    **overrides: the values this experiment states itself.

  Raises:
    UserError: on an override that is no field.
  """
  values = dataclasses.asdict(build(cls, overrides))
  result = ConfigDict()
  for key, value in values.items():
    # None has no type to hold a later override to.
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


def run(main: Callable[[list[str]], Any]) -> None:
  """Runs an absl main; a UserError becomes one line on stderr and exit code 2.

  The project's own log is shown as plain lines; libraries speak up from warnings on.
  """

  def guarded(argv: list[str]):
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("mg_jax")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    try:
      return main(argv)
    except UserError as e:
      print(f"error: {e}", file=sys.stderr, flush=True)
      sys.exit(2)

  try:
    app.run(guarded)
  except UserError as e:
    print(f"error: {e}", file=sys.stderr, flush=True)
    sys.exit(2)
