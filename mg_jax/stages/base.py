"""What a stage is: everything that one kind of training consists of, in one object.

Training, plans and precomputation ask the object; a run is loaded by `inference`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core import rng
from mg_jax.core.errors import UserError
from mg_jax.core.tree import flatten_paths
from mg_jax.core.typing import DTYPES
from mg_jax.data.condition_section import fixed
from mg_jax.data.conditions import Condition
from mg_jax.data.pipeline import Feed, evaluation_batches
from mg_jax.data.schema import Source
from mg_jax.data.sources.mixture import SourceConfig
from mg_jax.data.transforms import LatentRow, Transform
from mg_jax.objectives.base import Batch, Objective
from mg_jax.train.evals import Evaluator
from mg_jax.train.loop import Hook
from mg_jax.train.state import abstract_params

Clip = tuple[int, int, int]
Batches = Callable[[], Iterator[Batch]]


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """What is measured and shown while training.

  Attributes:
    every: steps between evaluations on held-out clips; the last step always evaluates.
    start: whether to evaluate before the first step too: what a warm start gives by itself.
    batch: rows of an evaluation batch.
    limit: most clips of a bucket evaluated.
    previews: clips shown in each preview (mp4 and PNG); 0 for none.
  """

  every: int = 1000
  start: bool = False
  batch: int = 16
  limit: int = 256
  previews: int = 8

  def __post_init__(self):
    if min(self.every, self.batch, self.limit) < 1 or self.previews < 0:
      raise UserError("eval.every, eval.batch and eval.limit are at least 1, eval.previews 0")


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything the loop needs; `preprocess` is done to a batch on its devices before each step."""

  objective: Objective
  feed: Feed
  hooks: tuple[Hook, ...]
  preprocess: Callable[[Any], Any] | None = None


@runtime_checkable
class Stage(Protocol):
  """One kind of training.

  Attributes:
    data: schema of the config's section "data".
    encodes: whether it trains on latents that `encode` computes.
  """

  data: type
  encodes: bool

  def objective(self, config: Mapping[str, Any], data: Any) -> Objective:
    """What a step differentiates; reads no file of weights."""
    ...

  def abstract_batch(self, config: Mapping[str, Any], data: Any) -> tuple[dict[str, Any], Clip]:
    """Shapes of the largest batch, and (frames, height, width) of a sample.

    Of sound, latents are frames of one pixel each; to its codec, samples are.
    """
    ...

  def experiment(
    self, config: Mapping[str, Any], data: Any, evals: EvalConfig, workdir: str, mesh: Mesh
  ) -> Experiment:
    """A run, its data opened, and latents computed where there are none yet."""
    ...

  def encode(
    self, config: Mapping[str, Any], data: Any, evals: EvalConfig, workdir: str
  ) -> tuple[str, dict[str, Any]]:
    """Computes what it learns from; returns its folder, and the manifest's metadata."""
    ...


def section(config: Mapping[str, Any], name: str) -> Any:
  """A part of the config. Raises UserError where there is none."""
  if name not in config:
    raise UserError(f"the config has no {name!r}; there are {', '.join(sorted(config))}")
  return config[name]


def build_section(cls, config: Mapping[str, Any], name: str, *, prefix: str = "", **extra: Any):
  """The dataclass that a section holds the fields of, see `core.config.build`."""
  return configs.build(cls, section(config, name), where=prefix + name, **extra)


def latent_rows(
  data: SourceConfig, found: Mapping[str, Condition], metadata: Mapping[str, Any], **fields: Any
) -> dict[str, LatentRow]:
  """The transform of every entry of a mixture, with its constants.

  Args:
    data: of the config.
    found: the conditions, by name.
    metadata: of the manifest of the latents, which normalises them.
    **fields: further ones of `LatentRow`.
  """
  mean, std = tuple(metadata["mean"]), tuple(metadata["std"])
  return {
    name: LatentRow(
      fixed(found, part.constants, where=f"data.mixture.{name}.constants"), mean, std, **fields
    )
    for name, part in data.parts.items()
  }


def held_out_batches(shown: Sequence[tuple[Transform, Source]], evals: EvalConfig) -> Batches:
  """What starts a pass over held-out records, each source with the transform of its rows."""

  def batches():
    for row, source in shown:
      yield from evaluation_batches(source, row, batch=evals.batch, limit=evals.limit)

  return batches


def evaluation(
  objective: Objective, batches: Batches, evals: EvalConfig, mesh: Mesh, preprocess=None
) -> Hook:
  """The held-out loss, always with the same noise."""
  key = rng.stream(jax.random.key(0), "evaluation")
  evaluator = Evaluator(objective, batches, mesh, key=key, preprocess=preprocess)
  return Hook("evaluation", evals.every, evaluator, start=evals.start)


def check_model(objective: Objective, batch: Any) -> dict[str, Any]:
  """Shapes of the parameters of an objective.

  Raises:
    UserError: on invalid hyperparameters, which raise many kinds of errors in the modules.
  """
  try:
    params = abstract_params(objective, batch)
  except (ArithmeticError, AssertionError, IndexError, TypeError, ValueError) as e:
    first = next(iter(str(e).splitlines()), "")
    raise UserError(f"config model is not a valid network ({type(e).__name__}: {first})") from e
  for path, leaf in flatten_paths(params).items():
    if not math.prod(leaf.shape):
      raise UserError(f"config model is not a valid network ({path} has shape {leaf.shape})")
  return params


def check_dtypes(fields: Any) -> None:
  """Raises UserError on a dtype that models do not have, anywhere in a section."""
  for name, value in fields.items():
    if isinstance(value, Mapping):
      check_dtypes(value)
    elif name == "dtype" and value not in DTYPES:
      raise UserError(f"the config has dtype {value!r}; known are {', '.join(DTYPES)}")


def nothing_to_encode(config: Mapping[str, Any]) -> UserError:
  """The refusal of a stage that trains on media itself."""
  return UserError(f"stage {config['stage']!r} trains on clips; a generator's data is encoded")
