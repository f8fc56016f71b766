"""Warm starts: parameters of an earlier stage, mapped by path into a new model, loud on leftovers.

They come from a run, or from published weights as `launch/convert.py` leaves them. Every target
parameter is filled from the source, grown from it by a named rule, or explicitly allowed to stay at
its initial value; every source parameter is used or explicitly allowed to be left over. Growth
rules: position tables by linear interpolation, input columns by zeros, so that a model with new
input channels first computes what the old one did, and patches of one frame to patches of several,
so that an image model does to still clips what it did to images. A plain kernel fills one with
weight norm and the reverse. [MG 3.1.1, 3.1.4, 3.2.2, 5.1]
"""

import contextlib
import dataclasses
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.tree import flatten_paths, map_paths
from mg_jax.core.typing import PyTree
from mg_jax.models.weights import published
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.integrity import describe
from mg_jax.train.kernels import as_in

_log = logging.getLogger(__name__)
Grow = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
FRESH = "fresh"


@dataclasses.dataclass(frozen=True)
class WarmStartConfig:
  """Where parameters come from and how they are renamed. Paths read "role/module/.../kernel".

  Attributes:
    workdir: the run to take them from.
    step: defaults to its newest.
    ema: its averaged weights rather than the latest ones.
    weights: instead of a run, the folder of converted weights to take them from.
    into: where those belong, as the beginning of a path: the role, such as "autoencoder", and what
      else stands before the paths of their module.
    rename: (pattern, replacement) pairs applied to source paths; the first that matches counts.
    allow_missing: patterns of target paths that may stay at their initial value.
    allow_unexpected: patterns of source paths (after renaming) that may be left over.
    grow: (pattern, rule) pairs on target paths, of which the first match counts. To parameters of
      another shape apply "interpolate", "pad_input", "pad_input:n" for a flattened (n, channels)
      input of n patch positions, and "inflate" for patches that gain frames; "fresh" leaves a
      parameter of any shape at its initial value.
    after: the experiment whose run it starts from, for messages; another one's is warned of.
    required: whether to refuse random parameters where there is no origin.
  """

  workdir: str = ""
  step: int | None = None
  ema: bool = True
  weights: str = ""
  into: str = ""
  rename: tuple[tuple[str, str], ...] = ()
  allow_missing: tuple[str, ...] = ()
  allow_unexpected: tuple[str, ...] = ()
  grow: tuple[tuple[str, str], ...] = ()
  after: str = ""
  required: bool = False

  def __post_init__(self):
    if self.workdir and self.weights:
      raise UserError("a warm start takes workdir or weights, not both; leave one of them empty")

  @property
  def origin(self) -> str:
    """The run or folder, "" for none."""
    return self.workdir or self.weights


# From {path in the source: shape, type and maybe sharding} to its arrays.
_Read = Callable[[Mapping[str, jax.ShapeDtypeStruct]], dict[str, Any]]


def warm_start(params: dict[str, PyTree], config: WarmStartConfig) -> dict[str, PyTree]:
  """Parameters of {role: tree}, filled from another run or from published weights.

  Args:
    params: concrete initial parameters; shapes, dtypes and shardings are kept.
    config: the source and the map.

  Raises:
    UserError: listing every parameter that is missing, unexpected or of the wrong shape.
  """
  open_source = _published if config.weights else _run
  with open_source(config) as (saved, read):
    target = flatten_paths(params)
    saved, read = as_in(target, saved, read, rename=lambda path: _rename(path, config.rename))
    source = _assign(saved, target, config)
    arrays = read({
      # A leaf that fits goes straight to its devices; one that grows passes through the host.
      path: jax.ShapeDtypeStruct(
        saved[path].shape, saved[path].dtype,
        sharding=target[name].sharding if saved[path].shape == target[name].shape else None,
      )
      for name, path in source.items()
    })  # fmt: skip

  def fill(name: str, initial: jax.Array) -> jax.Array:
    if name not in source:
      return initial
    array = arrays[source[name]]
    if array.shape != initial.shape:
      array = _rule(name, config)(np.asarray(array), initial.shape)
    return jax.device_put(array.astype(initial.dtype), initial.sharding)

  return map_paths(fill, params)


@contextlib.contextmanager
def _run(config: WarmStartConfig) -> Iterator[tuple[dict[str, jax.ShapeDtypeStruct], _Read]]:
  prefix = "ema/" if config.ema else "params/"
  reader = Checkpointer(config.workdir, read_only=True)

  def read(wanted):
    leaves = reader.read({prefix + path: leaf for path, leaf in wanted.items()}, config.step)
    return {path.removeprefix(prefix): leaf for path, leaf in leaves.items()}

  try:
    leaves = reader.leaves(config.step)
    saved = {
      path.removeprefix(prefix): leaf for path, leaf in leaves.items() if path.startswith(prefix)
    }
    name = reader.meta(reader.pick(config.step)).get("name")
    expected = re.findall(r"experiments/(\w+)\.py", config.after)
    if expected and name and name not in expected:
      _log.warning(
        "%s is a run of experiment %s; this stage starts from %s", config.workdir, name,
        config.after,
      )  # fmt: skip
    if not saved:
      raise UserError(f"{config.workdir} holds no {prefix[:-1]}; set ema={not config.ema}")
    yield saved, read
  finally:
    reader.close()


@contextlib.contextmanager
def _published(config: WarmStartConfig) -> Iterator[tuple[dict[str, jax.ShapeDtypeStruct], _Read]]:
  prefix = f"{config.into}/" if config.into else ""
  file = published.open_converted(config.weights)[-1]
  saved = {prefix + p: jax.ShapeDtypeStruct(e.shape, e.dtype) for p, e in file.entries.items()}
  yield saved, lambda wanted: {path: file.read(path.removeprefix(prefix)) for path in wanted}


def _assign(
  saved: Mapping[str, Any], target: Mapping[str, Any], config: WarmStartConfig
) -> dict[str, str]:
  """{target path: source path}, or a UserError with everything that does not work out."""
  source: dict[str, str] = {}
  problems = []
  for path in saved:
    name = _rename(path, config.rename)
    if name in target and _first_rule(name, config) == FRESH:
      continue
    if name in source:
      problems.append(f"{name}: both {source[name]} and {path} map to it")
    elif name in target:
      source[name] = path
    elif not _any(config.allow_unexpected, name):
      problems.append(f"{name}: saved {describe(saved[path])}, not in this model (unexpected)")
  for name, leaf in target.items():
    if name not in source:
      if not _any(config.allow_missing, name) and _first_rule(name, config) != FRESH:
        problems.append(f"{name}: wanted {describe(leaf)}, not saved (missing)")
    elif saved[source[name]].shape != leaf.shape and _rule(name, config) is None:
      problems.append(f"{name}: saved {describe(saved[source[name]])}, wanted {describe(leaf)}")
  if problems:
    shown = "\n  ".join(problems[:30] + (["..."] if len(problems) > 30 else []))
    raise UserError(
      f"warm start from {config.origin} leaves {len(problems)} parameters unsettled; use rename, "
      f"grow, allow_missing or allow_unexpected:\n  {shown}"
    )
  return source


def _rename(path: str, rules: tuple[tuple[str, str], ...]) -> str:
  for pattern, replacement in rules:
    if re.search(pattern, path):
      return re.sub(pattern, replacement, path)
  return path


def _any(patterns: tuple[str, ...], path: str) -> bool:
  return any(re.search(pattern, path) for pattern in patterns)


def _first_rule(name: str, config: WarmStartConfig) -> str:
  return next((rule for pattern, rule in config.grow if re.search(pattern, name)), "")


def _rule(name: str, config: WarmStartConfig) -> Grow | None:
  rule = _first_rule(name, config)
  kind, _, count = rule.partition(":")
  if not rule:
    return None
  if kind == "interpolate" and not count:
    return interpolate
  if kind == "inflate" and not count:
    return inflate
  if kind == "pad_input" and (not count or count.isdigit()):
    return lambda old, shape: pad_input(old, shape, positions=int(count or 1))
  raise UserError(
    f"growth rule {rule!r} is unknown; use interpolate, pad_input, pad_input:n, inflate or fresh"
  )


def interpolate(old: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Resamples linearly every axis that differs; old and new cells cover the same extent."""
  _same_rank(old, shape)
  for axis, size in enumerate(shape):
    before = old.shape[axis]
    if before == size:
      continue
    place = np.clip((np.arange(size) + 0.5) * before / size - 0.5, 0, before - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, before - 1)
    weight = (place - low).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    old = np.take(old, low, axis) * (1 - weight) + np.take(old, high, axis) * weight
  return old


def pad_input(old: np.ndarray, shape: tuple[int, ...], *, positions: int = 1) -> np.ndarray:
  """Adds zeros for new input channels behind the old ones.

  Args:
    old: a kernel with the input channels on some axis, or on an axis of (positions * channels)
      where a patch was flattened.
    shape: the new shape, larger on one axis.
    positions: patch positions in that axis.
  """
  _same_rank(old, shape)
  grown = [axis for axis, size in enumerate(shape) if size != old.shape[axis]]
  axis = grown[0]
  before, after = old.shape[axis], shape[axis]
  if len(grown) != 1 or after < before or before % positions or after % positions:
    raise UserError(f"input {old.shape} cannot be padded to {shape} in {positions} positions")
  split = old.reshape(*old.shape[:axis], positions, before // positions, *old.shape[axis + 1 :])
  widths = [(0, 0)] * split.ndim
  widths[axis + 1] = (0, (after - before) // positions)
  return np.pad(split, widths).reshape(shape)


def inflate(old: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Repeats the one axis that grew, which is flattened with time first.

  Inputs of a kernel (in, out) are divided by the repeats, so that the same frame repeated gives
  what the frame alone gave; outputs and biases are not, so that each frame comes out alike.
  """
  _same_rank(old, shape)
  grown = [axis for axis, size in enumerate(shape) if size != old.shape[axis]]
  repeats, rest = divmod(shape[grown[0]], old.shape[grown[0]])
  if len(grown) != 1 or rest:
    raise UserError(f"a parameter of shape {old.shape} cannot be inflated to {shape}")
  tiled = np.concatenate([old] * repeats, axis=grown[0])
  return tiled / repeats if grown[0] < old.ndim - 1 else tiled


def _same_rank(old: np.ndarray, shape: tuple[int, ...]) -> None:
  if old.ndim != len(shape) or math.prod(old.shape) == 0:
    raise UserError(f"a parameter of shape {old.shape} cannot grow to {shape}")
