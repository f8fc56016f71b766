"""The protocol between the training step and what is being trained.

An objective names the roles it trains (one parameter tree each), creates their parameters, and
gives every role a loss. The step knows nothing else: accumulation, clipping, averaging, the guard
against non-finite losses and the optimizers are written once, there.

It may also name `frozen` roles, such as a teacher: its losses read them, and nothing trains,
averages or saves them. A warm start fills them whenever a run starts or goes on.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from mg_jax.core.typing import Array, PyTree

Batch = Mapping[str, Any]
Metrics = dict[str, Array]
Carry = dict[str, Any]


@runtime_checkable
class Objective(Protocol):
  """What a training step asks of the thing it trains.

  Attributes:
    roles: names of the parameter trees in the order in which a step visits them.
    frozen: names of those that are only read; an objective without this attribute has none.
  """

  roles: tuple[str, ...]

  def init(self, key: Array, batch: Batch) -> dict[str, PyTree]:
    """Parameters of every role, frozen ones too, still in their logical-axis boxes.

    It must trace under `jax.eval_shape`, so it may read only shapes and dtypes of `batch`. Of
    frozen roles only shapes, types and axes are used.
    """
    ...

  def loss(
    self,
    role: str,
    params: Mapping[str, PyTree],
    batch: Batch,
    key: Array,
    step: Array,
    carry: Carry,
  ) -> tuple[Array, tuple[Metrics, Carry]]:
    """Scalar loss of one role; the step differentiates it with respect to `params[role]` only.

    Args:
      role: one of `roles`.
      params: unboxed parameters of all roles, frozen ones too.
      batch: one (micro)batch of one bucket.
      key: random key of this microbatch; purposes split it by name with `core.rng.stream`. It must
        differ between steps and between microbatches.
      step: int32 scalar, for warm-ups and schedules of loss terms.
      carry: what the losses of earlier roles in the same step handed on, {} for the first. A later
        role must apply `stop_gradient` to what it takes from it. Roles that rest in a step hand on
        what they do in others.

    Returns:
      The float32 loss, and (scalar metrics without the role's name, the carry for the next role).
    """
    ...

  def evaluate(self, params: Mapping[str, PyTree], batch: Batch, key: Array) -> Metrics:
    """Scalar metrics of one held-out batch, each a mean over its rows.

    An entry "valid", bool (B,), marks the rows that count in a batch that was filled up.

    The caller passes the same `key` at every evaluation, so two checkpoints see the same noise.
    """
    ...


def frozen_roles(objective: Objective) -> tuple[str, ...]:
  """Names of the roles that an objective only reads."""
  return getattr(objective, "frozen", ())
