"""What the data sections of all configs have in common, mixtures included."""

import dataclasses
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, Literal

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.data.media.files import Kind


@dataclasses.dataclass(frozen=True)
class SourceConfig:
  """One data set of a run, or a mixture of several.

  Attributes:
    source: "toy" renders the toy world, "folder" reads files.
    path: the folder (source "folder").
    clips: toy scenes to train on.
    held_out: toy scenes held out.
    holdout: how a folder is split: "file" holds out a fifth of the files by name, "tail" the last
      fifth of each file, "none" nothing.
    bad_limit: fraction of a source, 0 to 1, that may be unreadable in training; unreadable pieces
      are replaced by others.
    global_batch: rows of a batch over all processes.
    seed: of the world, of every order and every random position.
    mixture: entries by name, each with the fields that differ from these, its "weight" (1), and
      "constants": condition -> what all its records have of it, None for the null. Entries are read
      in whole batches, as often as their weights say.
  """

  source: Literal["toy", "folder"] = "folder"
  path: str = ""
  clips: int = 4000
  held_out: int = 256
  holdout: Literal["file", "tail", "none"] = "file"
  bad_limit: float | int = 0.05
  global_batch: int = 16
  seed: int = 0
  mixture: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict, hash=False)

  # Fields of the batches of a run, which entries of a mixture cannot set.
  OF_RUN: ClassVar[tuple[str, ...]] = ("mixture", "global_batch")

  def __post_init__(self):
    for name in ("clips", "held_out", "global_batch"):
      if not 1 <= getattr(self, name) < math.inf:
        raise UserError(f"data.{name} is {getattr(self, name)}; it must be at least 1")
    if not 0 <= self.bad_limit <= 1:
      raise UserError(f"data.bad_limit is {self.bad_limit}; give a fraction from 0 to 1")
    if not 0 <= self.seed < 2**32:
      raise UserError(f"data.seed is {self.seed}; give a number from 0 to 2**32 - 1")
    # Raises on entries that cannot be.
    _ = self.parts

  @property
  def weights(self) -> dict[Kind, int]:
    """How often batches of each kind come; the first that is positive is used for evaluation."""
    raise NotImplementedError

  @property
  def parts(self) -> dict[str, "Part"]:
    """The entries of the mixture by name; without one, the data themselves under an empty name.

    Raises:
      UserError: on an entry that cannot be.
    """
    if not self.mixture:
      return {"": Part(self)}
    return {name: _part(self, name, entry) for name, entry in sorted(self.mixture.items())}


@dataclasses.dataclass(frozen=True)
class Part:
  """An entry of a mixture.

  Attributes:
    data: its own section, which has no mixture.
    weight: how often its batches come, relative to those of the others.
    constants: see `SourceConfig.mixture`.
  """

  data: Any
  weight: int = 1
  constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _part(config: SourceConfig, name: str, entry: Mapping[str, Any]) -> Part:
  where = f"data.mixture.{name}"
  if not isinstance(entry, Mapping):
    raise UserError(f"{where} is {entry!r}; give the fields in which it differs from data")
  fields = dict(entry)
  if not re.fullmatch(r"[a-z0-9_]+", name) or name in ("train", "validation"):
    raise UserError(
      f"{where}: an entry is named by lower-case letters, digits and _, and neither train nor "
      "validation"
    )
  weight, constants = fields.pop("weight", 1), fields.pop("constants", {})
  if not isinstance(weight, int) or isinstance(weight, bool) or weight < 1:
    raise UserError(f"{where}.weight is {weight!r}; give a whole number from 1")
  if not isinstance(constants, Mapping):
    raise UserError(f"{where}.constants is {constants!r}; give values by condition")
  for field in config.OF_RUN:
    if field in fields:
      raise UserError(f"{where} sets {field}, which all entries share; set data.{field}")
  base = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
  del base["mixture"]
  try:
    return Part(configs.build(type(config), base | fields, where=where), weight, constants)
  except UserError as error:
    if where in str(error):
      raise
    raise UserError(f"{where}: {error}") from error


def groups(config: SourceConfig) -> list[tuple[str, Kind, Fraction]]:
  """(entry, kind, share of the batches) of everything that is read."""
  parts, found = config.parts, []
  whole = sum(part.weight for part in parts.values())
  for name, part in parts.items():
    weights = part.data.weights
    for kind, weight in weights.items():
      if weight:
        found.append((name, kind, Fraction(part.weight * weight, whole * sum(weights.values()))))
  return found


def held_out(config: SourceConfig) -> dict[str, Kind]:
  """The kind of held-out clips that evaluations use of every entry."""
  kinds: dict[str, Kind] = {}
  for name, kind, _ in groups(config):
    kinds.setdefault(name, kind)
  return kinds
