"""Averages of the weights of several runs or steps, leaf by leaf. [MG 3.3]

Finetuned models that differ in their data, settings or checkpoint have different strengths, which
their mean combines. A source is read one leaf at a time, so memory holds the result and one leaf of
one source. The result is a folder that samplers and warm starts read like any run: the config of
the first source, with the mean as its averaged weights. It has no optimizer state, so it can be
started from but not resumed.
"""

import contextlib
import dataclasses
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from mg_jax.core.errors import UserError
from mg_jax.data.atomic import PREFIX
from mg_jax.train import integrity
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.workdir import LATENTS, is_remote, latents_folder, resolve

TOLERANCE = 1e-6  # of the sum of the weights
PROVENANCE = "averaged_from"  # config entry that lists the sources of a mean


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint to average; `leaves` maps "role/path" to the saved path, shape and dtype."""

  reader: Checkpointer
  step: int
  leaves: dict[str, tuple[str, jax.ShapeDtypeStruct]]

  @property
  def name(self) -> str:
    return f"{self.reader.folder.parent}:{self.step}"

  def read(self, path: str) -> np.ndarray:
    saved, leaf = self.leaves[path]
    return np.asarray(self.reader.read({saved: leaf}, self.step)[saved])


def average(
  origins: Sequence[str],
  target: str | os.PathLike[str],
  *,
  weights: Sequence[float] | None = None,
) -> int:
  """Writes the mean of the parameters of runs as a new run; returns the number of leaves.

  Args:
    origins: workdirs, each optionally with ":STEP" for another step than its newest. Averaged
      weights are used for every role that has them, the latest ones otherwise.
    target: workdir to create; if local, atomically.
    weights: one per origin, non-negative, with sum 1; equal by default.

  Raises:
    UserError: on fewer than two origins, on invalid weights, on trees that differ (with every leaf
      that does), on damaged checkpoints, and if the target exists.
  """
  weights = _check_weights(weights, len(origins))
  folder = resolve(target)
  if folder.exists():
    raise UserError(f"{folder} exists already; name a new folder for the average")
  if not is_remote(folder) and not folder.parent.is_dir():
    raise UserError(f"{folder} cannot be created: {folder.parent} is not a folder; create it first")
  with contextlib.ExitStack() as stack:
    sources = [_open(origin, stack) for origin in origins]
    _compare(sources)
    first = sources[0].reader.meta(sources[0].step)
    mean = {f"ema/{path}": _mean(path, sources, weights) for path in sources[0].leaves}
    config = {**first["config"], PROVENANCE: _provenance(sources, weights)}
    # The global statistics that a generator's latents were normalised by stay with its run.
    latents = latents_folder(config, sources[0].reader.folder.parent)
    if config.get(LATENTS) or epath.Path(latents).exists():
      config[LATENTS] = os.fspath(resolve(latents))
    with (
      _whole(folder) as partial,
      contextlib.closing(Checkpointer(partial, name=first["name"])) as saver,
    ):
      saver.save(sources[0].step, mean, data=None, config=config)
  return len(mean)


def _check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
  if count < 2:
    raise UserError("an average needs at least two runs or steps; name them as RUN1,RUN2[:STEP]")
  if weights is None:
    return [1 / count] * count
  if len(weights) != count:
    raise UserError(f"there are {len(weights)} weights for {count} runs; give one for each")
  total = math.fsum(weights)
  # Weights that do not sum to 1 scale the model; normalising them here would hide a typo.
  if not all(w >= 0 for w in weights) or not abs(total - 1) <= TOLERANCE:
    raise UserError(
      f"weights {', '.join(map(str, weights))} have sum {total:g}; give non-negative numbers whose "
      "sum is 1"
    )
  return list(weights)


def _open(origin: str, stack: contextlib.ExitStack) -> Source:
  workdir, _, number = origin.rpartition(":")
  step = int(number) if workdir and number.isdigit() else None
  reader = Checkpointer(origin if step is None else workdir, read_only=True)
  stack.callback(reader.close)
  step = reader.pick(step)
  saved = reader.leaves(step)
  leaves = {}
  for kind in ("params/", "ema/"):  # an average replaces its parameters
    for path, leaf in saved.items():
      if path.startswith(kind):
        leaves[path.removeprefix(kind)] = (path, leaf)
  return Source(reader, step, leaves)


def _compare(sources: Sequence[Source]) -> None:
  first, *others = ({p: leaf for p, (_, leaf) in source.leaves.items()} for source in sources)
  for source, leaves in zip(sources[1:], others, strict=True):
    if lines := integrity.differences(leaves, first):
      shown = "\n  ".join(lines)
      raise UserError(
        f"{source.name} has another architecture than {sources[0].name}, differing in {len(lines)} "
        f"leaves; average runs of one architecture:\n  {shown}"
      )
  whole = [path for path, leaf in first.items() if not jnp.issubdtype(leaf.dtype, jnp.floating)]
  if whole:
    raise UserError(f"{sources[0].name}: {whole[0]} holds integers, which are not averaged")


def _mean(path: str, sources: Sequence[Source], weights: Sequence[float]) -> np.ndarray:
  total = 0.0
  for source, weight in zip(sources, weights, strict=True):
    total = total + weight * source.read(path).astype(np.float64)
  return total.astype(sources[0].leaves[path][1].dtype)


def _provenance(sources: Sequence[Source], weights: Sequence[float]) -> list[dict]:
  return [
    {
      "workdir": os.fspath(source.reader.folder.parent), "step": source.step, "weight": weight,
      "sha256": source.reader.meta(source.step)["sha256"],
    }
    for source, weight in zip(sources, weights, strict=True)
  ]  # fmt: skip


@contextlib.contextmanager
def _whole(folder: epath.Path) -> Iterator[epath.Path]:
  """A temporary folder, renamed at the end; in an object store, the folder itself."""
  if is_remote(folder):
    yield folder
    return
  partial = folder.parent / f"{PREFIX}{uuid.uuid4().hex[:12]}-{folder.name}"
  try:
    yield partial
    partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
