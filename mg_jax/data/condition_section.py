"""The config's section "conditions": what it says of each, and what it must agree on.

An entry has `kind`, the fields of its class in `data.conditions`, `route`, how it enters the model
(see `models.conditioning`), for images `encoder`, the fields of a vision tower that is trained with
the model, and optionally `constant`. Constants that are files stand in the config of a run as the
arrays that were read, see `pinned`.
"""

import base64
import binascii
import dataclasses
import io
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.data.conditions import (
  ClassId,
  Condition,
  Constant,
  Default,
  Given,
  Image,
  Latent,
  Mask,
  given_name,
)
from mg_jax.data.schema import Sample
from mg_jax.data.sources.folder import Index
from mg_jax.data.text import captions

KINDS: dict[str, type] = {"image": Image, "latent": Latent, "class_id": ClassId, "mask": Mask}
# Fields of an entry that are not those of its class.
_ENTRY = ("kind", "route", "encoder", "constant")
# Key of a constant that is an array: a compressed .npz file, base64.
_ARRAY = "npz"
# Keys of batches and of caption files, which no condition can have as its name.
_TAKEN = (*captions.KEYS, "latent", "index", "length", "fps", "valid", "video")


def build(section: Mapping[str, Any]) -> dict[str, Condition]:
  """The conditions of the section, by name.

  Raises:
    UserError: an unknown kind or field, a constant that is no value of the condition.
  """
  found: dict[str, Condition] = {}
  for name, fields in sorted(section.items()):
    rest = {key: value for key, value in fields.items() if key not in _ENTRY}
    if fields.get("kind") not in KINDS:
      raise UserError(
        f"config conditions.{name}.kind is {fields.get('kind')!r}; known are {', '.join(KINDS)}"
      )
    if name in _TAKEN:
      raise UserError(
        f"config conditions.{name}: batches and captions have a {name} of their own; choose "
        "another name"
      )
    found[name] = configs.build(KINDS[fields["kind"]], rest, where=f"conditions.{name}")
    if "constant" in fields:
      [constant] = fixed(
        {name: found[name]}, {name: fields["constant"]}, where=f"conditions.{name}.constant"
      ).values()
      known = isinstance(found[name], Given)
      found[name] = Default(found[name], constant.value) if known else constant
  return found


def fixed(
  found: Mapping[str, Condition], constants: Mapping[str, Any], *, where: str
) -> dict[str, Condition]:
  """Conditions of which some are constant.

  Args:
    found: by name.
    constants: by name, values as a caption file gives them or `pinned` ones, None for the null.
    where: the config field that has them, for messages.

  Raises:
    UserError: on a name without a condition, or no value of it.
  """
  result = dict(found)
  for name, value in constants.items():
    if name not in found:
      raise UserError(f"config {where} names {name!r}; the conditions are {', '.join(found)}")
    condition = _plain(found[name])
    if value is not None:
      if not isinstance(condition, Given):
        raise UserError(f"config {where} sets {name!r}, which comes from the clips; give null")
      held = isinstance(value, Mapping)
      value = _unpacked(value, where) if held else condition.read(name, value)
    result[name] = Constant(condition, value)
  return result


def pinned(section: Mapping[str, Any]) -> dict[str, Any]:
  """The section with arrays for those constants that name files, as JSON.

  A run saves this: when it is loaded, it depends neither on the current directory nor on the files.

  Raises:
    UserError: as `build`.
  """
  result = dict(section)
  for name, condition in build(section).items():
    if isinstance(condition, Constant) and isinstance(condition.value, np.ndarray):
      result[name] = {**section[name], "constant": _packed(condition.value)}
  return result


def _packed(array: np.ndarray) -> dict[str, str]:
  file = io.BytesIO()
  np.savez_compressed(file, array=array)
  return {_ARRAY: base64.b64encode(file.getvalue()).decode("ascii")}


def _unpacked(value: Mapping[str, Any], where: str) -> np.ndarray:
  try:
    file = io.BytesIO(base64.b64decode(value[_ARRAY], validate=True))
    with np.load(file, allow_pickle=False) as arrays:
      return arrays["array"]
  except (KeyError, TypeError, ValueError, EOFError, OSError, binascii.Error,
          zipfile.BadZipFile) as e:
    raise UserError(f"config {where} holds no array ({e!r}); name the file again") from e


def _plain(condition: Condition) -> Condition:
  return condition.condition if isinstance(condition, Constant) else condition


def given(found: Mapping[str, Condition]) -> dict[str, Given]:
  """The conditions whose values are given; those that are constant have none."""
  return {name: condition for name, condition in found.items() if isinstance(condition, Given)}


def check_sources(found: Mapping[str, Condition], scans: Iterable[Index], *, where: str) -> None:
  """Checks that each condition has a value in a caption file, or a constant.

  Args:
    found: by name.
    scans: the folders that are read; none of the toy world.
    where: the config field that names them, for messages.

  Raises:
    UserError: if one has neither, or a class that it does not have.
  """
  pieces = [piece for scan in scans for piece in scan.pieces]
  for name, condition in given(found).items():
    values = [(piece.key, piece.caption.given.get(name)) for piece in pieces]
    values = [(key, value) for key, value in values if value is not None]
    if isinstance(_plain(condition), ClassId):
      for key, value in values:
        _read(condition, name, value, "", key)
    if not values and not isinstance(condition, Default):
      raise UserError(
        f"condition {name!r} has no source in {where}; give {name!r} in its captions.jsonl, or "
        f"set config conditions.{name}.constant (None for the null), or constants of the entry of "
        "a mixture"
      )


def parse(entries: Iterable[str], found: Mapping[str, Condition]) -> dict[str, Any]:
  """Values of conditions from a command line.

  Args:
    entries: NAME=VALUE each; several images are several entries.
    found: the conditions of a model, by name.

  Raises:
    UserError: no such condition, or no value of it.
  """
  takes, values = given(found), {}
  for entry in entries:
    name, equals, value = entry.partition("=")
    if not equals or name not in takes:
      known = ", ".join(takes) or "none"
      raise UserError(f"--condition={entry} is not NAME=VALUE of a condition; there are {known}")
    values.setdefault(name, []).append(value)
  return {
    name: takes[name].read(name, texts[0] if len(texts) == 1 else texts)
    for name, texts in values.items()
  }


def stored(found: Mapping[str, Given], sample: Sample) -> dict[str, Any]:
  """What a record holds of the values that a sample has.

  Raises:
    UserError: as `Given.read`.
  """
  return {
    given_name(name): _read(condition, name, sample.given[name], sample.root, sample.key)
    for name, condition in found.items()
    if sample.given.get(name) is not None
  }


def _read(condition: Given, name: str, value: Any, root: str, key: str) -> Any:
  try:
    return condition.read(name, value, root)
  except UserError as error:
    raise UserError(f"{key}: {error}") from error


def identity(found: Mapping[str, Condition]) -> dict[str, Any]:
  """What determines the values that records hold; empty if a model takes none."""
  fields = {
    name: dataclasses.asdict(_plain(condition)) for name, condition in given(found).items()
  }
  takes = any(isinstance(_plain(condition), Given) for condition in found.values())
  return {"conditions": fields} if takes else {}


def encoders(section: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """The fields of the encoders that conditions bring along, as of a config's "model.encoders".

  Raises:
    UserError: images without an encoder, or of another size than it takes; one without images.
  """
  found = {}
  for name, fields in section.items():
    encoder = fields.get("encoder")
    if (fields["kind"] == "image") != bool(encoder):
      raise UserError(
        f"config conditions.{name} has no encoder; give the fields of a vision tower"
        if fields["kind"] == "image"
        else f"config conditions.{name} has an encoder, but is no image; leave it out"
      )
    if encoder:
      if encoder.get("size") != fields["size"]:
        raise UserError(
          f"config conditions.{name} has images of {fields['size']} pixels, but its encoder takes "
          f"{encoder.get('size')}; make them equal"
        )
      found[name] = {"kind": "vision", **encoder}
  return found


def routes(section: Mapping[str, Any]) -> dict[str, Any]:
  """The routes of the conditions of a config's section, see `models.conditioning.table`.

  Raises:
    UserError: a condition without a route, or with one for other classes, channels or features.
  """
  for name, fields in section.items():
    if not fields.get("route"):
      raise UserError(
        f"config conditions.{name} has no route; say how it enters the model, such as "
        '{"kind": "concat", "features": 17}'
      )
    entries = fields["route"] if isinstance(fields["route"], (list, tuple)) else [fields["route"]]
    for entry in entries:
      if fields.get("classes", 0) != entry.get("classes", 0):
        raise UserError(
          f"config conditions.{name} has {fields.get('classes', 0)} classes, but its route takes "
          f"{entry.get('classes', 0)}; make them equal"
        )
      if fields["kind"] == "latent" and entry.get("features") != fields["channels"] + 1:
        raise UserError(
          f"config conditions.{name} has {fields['channels']} channels and a mask, but its route "
          f"takes {entry.get('features')} features; give {fields['channels'] + 1}"
        )
      width = fields.get("encoder", {}).get("width")
      if fields["kind"] == "image" and (entry["kind"], entry.get("features")) != ("cross", width):
        raise UserError(
          f"config conditions.{name} is an image, whose tokens are read by a cross route with the "
          f"{width} features of its encoder; give that"
        )
  return {name: fields["route"] for name, fields in section.items()}
