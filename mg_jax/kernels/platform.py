"""The hardware a program is traced for, which need not be the hardware it is traced on.

Kernels are chosen during tracing. By default the target is jax's own backend; a planner that
compiles for a pod on a laptop sets the target with `platform("tpu")`.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

PLATFORMS = ("tpu", "cuda", "cpu")

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def platform(name: str) -> Iterator[None]:
  """Traces the body for `name`, one of PLATFORMS.

  A function already traced by jit keeps its kernels: enter this before the first call.

  Raises:
    ValueError: on an unknown name.
  """
  if name not in PLATFORMS:
    raise ValueError(f"unknown platform {name!r}; known are {', '.join(PLATFORMS)}")
  token = _target.set(name)
  try:
    yield
  finally:
    _target.reset(token)


def current() -> str:
  """The platform that kernels are currently chosen for, one of PLATFORMS."""
  name = _target.get() or jax.default_backend()
  return "cuda" if name == "gpu" else name


def partitioned(axis: str | None = None) -> bool:
  """Whether the compiler will partition the operations now being traced.

  Args:
    axis: a mesh axis; None is any.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.are_all_axes_manual:
    return False
  return (mesh.size if axis is None else mesh.shape.get(axis, 1)) > 1
