"""Warm starts: parameters of an earlier stage, mapped by path into a new model, loud on leftovers.

They come from runs, or from published weights as `launch/convert.py` leaves them. Every target
parameter is filled from exactly one of these origins, grown from it by a named rule, or explicitly
allowed to stay at its initial value; every source parameter is used or explicitly allowed to be
left over. One origin may fill several roles: a student, its frozen teacher and a critic. Growth
rules: position tables by linear interpolation, input columns by zeros, so that a model with new
input channels first computes what the old one did, and patches of one frame to patches of several,
so that an image model does to still clips what it did to images. A plain kernel fills one with
weight norm and the reverse. [MG 3.1.1, 3.1.4, 3.2.2, 5.1]
"""

import contextlib
import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.tree import flatten_paths, map_paths
from mg_jax.core.typing import PyTree
from mg_jax.models.weights import converted
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.growth import inflate, interpolate, pad_input
from mg_jax.train.integrity import describe
from mg_jax.train.kernels import as_in
from mg_jax.train.runs import TRAINED

_log = logging.getLogger(__name__)
Grow = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
FRESH = "fresh"


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where parameters come from and how they are renamed. Paths read "role/module/.../kernel".

  Attributes:
    workdir: the run to take them from, or a folder of converted weights.
    step: defaults to its newest.
    ema: its averaged weights rather than the latest ones.
    into: where converted weights belong, as the beginning of a path: the role, such as
      "autoencoder", and what else precedes the paths of their module. By default the role that
      would have trained them: "autoencoder", or "model" for a CLIP.
    roles: (role of the origin, role to fill) pairs; one may fill several, and those that are not
      named are left out. Without any, every role fills the one of its name.
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
  into: str = ""
  roles: tuple[tuple[str, str], ...] = ()
  rename: tuple[tuple[str, str], ...] = ()
  allow_missing: tuple[str, ...] = ()
  allow_unexpected: tuple[str, ...] = ()
  grow: tuple[tuple[str, str], ...] = ()
  after: str = ""
  required: bool = False

  def __post_init__(self):
    filled = [role for _, role in self.roles]
    if twice := sorted({role for role in filled if filled.count(role) > 1}):
      raise UserError(f"warm_start.roles fills {', '.join(twice)} twice; map one role to each")


@dataclasses.dataclass(frozen=True)
class WarmStartConfig(Origin):
  """One origin by the fields above, and others by name, which fill the rest.

  A config file adds one by `config.train.warm_start.more.clip = section(Origin, into="model/face")`
  and a command line then fills it in: `--config.train.warm_start.more.clip.workdir=DIR`.

  Attributes:
    more: further origins. Every parameter comes from exactly one of all.
  """

  more: Mapping[str, Origin] = dataclasses.field(default_factory=dict)

  @property
  def sections(self) -> dict[str, Origin]:
    """Every origin by the field of the config that holds it, also those that are not filled in."""
    return {"train.warm_start": self} | {
      f"train.warm_start.more.{name}": origin for name, origin in self.more.items()
    }

  @property
  def origins(self) -> list[Origin]:
    """Those that are filled in."""
    return [origin for origin in self.sections.values() if origin.workdir]


# From {path in the source: shape, type and maybe sharding} to its arrays.
_Read = Callable[[Mapping[str, jax.ShapeDtypeStruct]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Source:
  """An origin that is open.

  Attributes:
    label: for messages, with the step of a run.
    saved: the shapes of what it holds, by path; the roles are those of the target.
    read: of `saved`.
    paths: {target path: saved path} of what it fills.
  """

  config: Origin
  label: str
  saved: Mapping[str, jax.ShapeDtypeStruct]
  read: _Read
  paths: dict[str, str] = dataclasses.field(default_factory=dict)

  def arrays(self, target: Mapping[str, Any]) -> dict[str, Any]:
    """{target path: array} of what it fills, in the shapes of the target."""
    wanted = {
      # A leaf that fits goes straight to its devices; one that grows passes through the host.
      path: jax.ShapeDtypeStruct(
        self.saved[path].shape, self.saved[path].dtype,
        sharding=target[name].sharding if self.saved[path].shape == target[name].shape else None,
      )
      for name, path in self.paths.items()
    }  # fmt: skip
    arrays, found = self.read(wanted), {}
    for name, path in self.paths.items():
      array, shape = arrays[path], target[name].shape
      if array.shape != shape:
        array = _rule(name, self.config)(np.asarray(array), shape)
      found[name] = jax.device_put(array.astype(target[name].dtype), target[name].sharding)
    return found


def warm_start(params: dict[str, PyTree], config: WarmStartConfig) -> dict[str, PyTree]:
  """Parameters of {role: tree}, filled from other runs and published weights as by `fill`."""
  return fill(params, config)[0]


def fill(
  params: dict[str, PyTree], config: WarmStartConfig, *, without: Sequence[str] = ()
) -> tuple[dict[str, PyTree], dict[str, str]]:
  """Parameters of {role: tree} and where those of each role are from.

  Args:
    params: concrete initial parameters; shapes, dtypes and shardings are kept. Shapes in their
      place, those of frozen roles, have no initial value, so an origin has to fill them.
    config: the sources and the map.
    without: roles that origins hold but that are not to be filled.

  Raises:
    UserError: listing every parameter that is missing, unexpected, of the wrong shape or in two
      origins.
  """
  target = flatten_paths(params)
  with contextlib.ExitStack() as stack:
    sources = [stack.enter_context(_open(origin, target)) for origin in config.origins]
    _settle(sources, target, without)
    arrays, labels = {}, {}
    for source in sources:
      arrays |= source.arrays(target)
      for role in dict.fromkeys(map(_role, source.paths)):
        labels.setdefault(role, []).append(source.label)
  filled = map_paths(lambda name, initial: arrays.get(name, initial), params)
  return filled, {role: ", ".join(origins) for role, origins in labels.items()}


@contextlib.contextmanager
def _open(config: Origin, target: Mapping[str, Any]) -> Iterator[_Source]:
  opened = _published if converted.is_converted(config.workdir) else _run
  with opened(config) as (label, saved, read):
    if config.roles:
      saved, read = _cast(config, label, saved, read)
    saved, read = as_in(target, saved, read, rename=lambda path: _rename(path, config.rename))
    yield _Source(config, label, saved, read)


@contextlib.contextmanager
def _run(config: Origin) -> Iterator[tuple[str, Mapping[str, jax.ShapeDtypeStruct], _Read]]:
  prefix = "ema/" if config.ema else "params/"
  reader = Checkpointer(config.workdir, read_only=True)
  try:
    # One step for all that is read: a running job may save another one in between.
    step = reader.pick(config.step)

    def read(wanted):
      leaves = reader.read({prefix + path: leaf for path, leaf in wanted.items()}, step)
      return {path.removeprefix(prefix): leaf for path, leaf in leaves.items()}

    leaves = reader.leaves(step)
    saved = {
      path.removeprefix(prefix): leaf for path, leaf in leaves.items() if path.startswith(prefix)
    }
    name = reader.meta(step).get("name")
    expected = re.findall(r"experiments/(\w+)\.py", config.after)
    if expected and name and name not in expected:
      _log.warning(
        "%s is a run of experiment %s; this stage starts from %s", config.workdir, name,
        config.after,
      )  # fmt: skip
    if not saved:
      raise UserError(f"{config.workdir} holds no {prefix[:-1]}; set ema={not config.ema}")
    yield f"{config.workdir}:{step}", saved, read
  finally:
    reader.close()


@contextlib.contextmanager
def _published(config: Origin) -> Iterator[tuple[str, Mapping[str, jax.ShapeDtypeStruct], _Read]]:
  described, file = converted.open_weights(config.workdir)
  trained = described.get("role") or TRAINED.get(described["kind"], ("", ""))[1]
  into = config.into or trained
  prefix = f"{into}/" if into else ""
  saved = {prefix + p: jax.ShapeDtypeStruct(e.shape, e.dtype) for p, e in file.entries.items()}
  yield config.workdir, saved, lambda wanted: {p: file.read(p.removeprefix(prefix)) for p in wanted}


def _cast(
  config: Origin, label: str, saved: Mapping[str, jax.ShapeDtypeStruct], read: _Read
) -> tuple[Mapping[str, jax.ShapeDtypeStruct], _Read]:
  """`saved` and `read` with the roles that an origin fills in the place of its own."""
  known = {_role(path) for path in saved}
  if unknown := sorted({old for old, _ in config.roles} - known):
    raise UserError(
      f"warm start from {label}: warm_start.roles names {', '.join(unknown)}, which it has not; "
      f"there are {', '.join(sorted(known))}"
    )
  paths = {
    new + path.removeprefix(old): path
    for old, new in config.roles for path in saved if _role(path) == old
  }  # fmt: skip

  def read_cast(wanted):
    found = {}
    # Each role for itself: a step donates its state, so no two leaves of that may share memory.
    for role in dict.fromkeys(map(_role, wanted)):
      part = {path: leaf for path, leaf in wanted.items() if _role(path) == role}
      arrays = read({paths[path]: leaf for path, leaf in part.items()})
      found |= {path: arrays[paths[path]] for path in part}
    return found

  return {path: saved[old] for path, old in paths.items()}, read_cast


def _settle(sources: Sequence[_Source], target: Mapping[str, Any], without: Sequence[str]) -> None:
  """Assigns `paths` to all sources. Raises UserError with everything that does not work out."""
  problems: dict[str, int] = {}  # a line, and how many parameters it is about
  for source in sources:
    where = f" ({source.label})" if len(sources) > 1 else ""
    problems |= {line + where: 1 for line in _assign(source, target, without)}
  left: dict[str, list[str]] = {}
  for name, leaf in target.items():
    owners = [source.label for source in sources if name in source.paths]
    if len(owners) > 1:
      problems[f"{name}: both {owners[0]} and {owners[1]} fill it"] = 1
    if not owners and not _may_stay(name, leaf, sources):
      left.setdefault(_role(name), []).append(name)
  filled = {_role(name) for source in sources for name in source.paths}
  for role, names in left.items():
    if role in filled:
      lines = [f"{name}: wanted {describe(target[name])}, not saved (missing)" for name in names]
      problems |= dict.fromkeys(lines, 1)
    else:
      problems[f"{role}: no origin fills this role, {len(names)} are missing"] = len(names)
  if problems:
    shown = "\n  ".join([*problems][:30] + (["..."] if len(problems) > 30 else []))
    raise UserError(
      f"warm start from {', '.join(source.label for source in sources) or 'no origin'} leaves "
      f"{sum(problems.values())} parameters unsettled; use roles, rename, grow, allow_missing or "
      f"allow_unexpected:\n  {shown}"
    )


def _assign(source: _Source, target: Mapping[str, Any], without: Sequence[str]) -> list[str]:
  """Fills `source.paths`; returns a line for everything that does not work out."""
  config, paths, problems = source.config, source.paths, []
  for path, leaf in source.saved.items():
    name = _rename(path, config.rename)
    if _role(name) in without or (name in target and _first_rule(name, config) == FRESH):
      continue
    if name in paths:
      problems.append(f"{name}: both {paths[name]} and {path} map to it")
    elif name in target:
      paths[name] = path
    elif not _any(config.allow_unexpected, name):
      problems.append(f"{name}: saved {describe(leaf)}, not in this model (unexpected)")
  for name, path in paths.items():
    saved, wanted = source.saved[path], target[name]
    if saved.shape != wanted.shape and _rule(name, config) is None:
      problems.append(f"{name}: saved {describe(saved)}, wanted {describe(wanted)}")
  return problems


def _may_stay(name: str, leaf: Any, sources: Sequence[_Source]) -> bool:
  """Whether a parameter may keep its initial value; a frozen one has none."""
  return not isinstance(leaf, jax.ShapeDtypeStruct) and any(
    _any(source.config.allow_missing, name) or _first_rule(name, source.config) == FRESH
    for source in sources
  )


def _role(path: str) -> str:
  return path.partition("/")[0]


def _rename(path: str, rules: tuple[tuple[str, str], ...]) -> str:
  for pattern, replacement in rules:
    if re.search(pattern, path):
      return re.sub(pattern, replacement, path)
  return path


def _any(patterns: tuple[str, ...], path: str) -> bool:
  return any(re.search(pattern, path) for pattern in patterns)


def _first_rule(name: str, config: Origin) -> str:
  return next((rule for pattern, rule in config.grow if re.search(pattern, name)), "")


def _rule(name: str, config: Origin) -> Grow | None:
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
