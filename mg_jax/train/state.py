"""The training state: everything a step reads and writes, and where each leaf lives on the mesh.

Leaves are plain arrays; the logical axis names that models attach to their parameters are used
once, to derive shardings, and then stripped. An optimizer leaf that mirrors a parameter lives where
the parameter lives, everything else is replicated.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from mg_jax.core.mesh import use_mesh
from mg_jax.core.sharding import batch_sharding, replicated, state_shardings, unbox
from mg_jax.core.tree import flatten_paths, map_paths, whole
from mg_jax.core.typing import Array, PyTree
from mg_jax.objectives.base import Objective, frozen_roles
from mg_jax.train.optim import Optimizer


@struct.dataclass
class TrainState:
  """Attributes:
    step: int32, batches consumed so far, skipped ones included.
    params: {role: tree}, the float32 master weights.
    opt_state: {role: tree}.
    ema: {role: tree} of averaged weights, or None.
    skipped_total: int32, steps the guard has skipped in this run.
    skipped_in_row: int32, how many of them were the most recent ones.
    history: float32 (2 * roles, window) of accepted losses and gradient norms, NaN where still
      empty, or None where spikes are not judged.
    frozen: {role: tree} of what the losses read and nothing trains. Checkpoints leave it out.
  """

  step: Array
  params: dict[str, PyTree]
  opt_state: dict[str, PyTree]
  ema: dict[str, PyTree] | None
  skipped_total: Array
  skipped_in_row: Array
  history: Array | None
  frozen: dict[str, PyTree] = struct.field(default_factory=dict)

  def averaged(self) -> dict[str, PyTree]:
    """The weights to evaluate and sample with: the averaged ones where they are kept."""
    trained = self.params if self.ema is None else self.ema
    return {**trained, **self.frozen} if self.frozen else trained


def wrap_params(
  params: dict[str, PyTree], optimizers: Mapping[str, Optimizer], *, ema: bool, window: int
) -> TrainState:
  """A state at step 0 around the (unboxed) parameters of the trained roles."""
  count = jnp.zeros((), jnp.int32)
  return TrainState(
    step=count,
    params=params,
    opt_state={role: optimizers[role].init(tree) for role, tree in params.items()},
    # Copies, because a donated buffer may stand in the state only once.
    ema=jax.tree.map(jnp.array, params) if ema else None,
    skipped_total=jnp.zeros((), jnp.int32),
    skipped_in_row=jnp.zeros((), jnp.int32),
    history=jnp.full((2 * len(params), window), jnp.nan, jnp.float32) if window else None,
  )


def abstract_state(
  objective: Objective, optimizers: Mapping[str, Optimizer], mesh: Mesh, batch: PyTree, *,
  ema: bool, window: int = 0,
) -> TrainState:
  """The state as ShapeDtypeStructs with shardings; allocates nothing, so any mesh can be planned.

  Args:
    batch: one batch, as arrays or ShapeDtypeStructs of global shape.
    ema: whether averaged weights are kept.
    window: length of the spike history, 0 for none.
  """
  with use_mesh(mesh):
    boxed = jax.eval_shape(objective.init, abstract_key(), as_abstract(batch))
  placed = {role: flatten_paths(tree) for role, tree in state_shardings(boxed, mesh).items()}
  params = unbox(boxed)
  frozen = {role: params.pop(role) for role in frozen_roles(objective)}
  state = jax.eval_shape(
    lambda params: wrap_params(params, optimizers, ema=ema, window=window), params
  ).replace(frozen=frozen)
  shapes = {role: flatten_paths(tree) for role, tree in (params | frozen).items()}

  def place(path: str, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    field, _, rest = path.partition("/")
    sharding = replicated(mesh)
    if field in ("params", "ema", "opt_state", "frozen"):
      role, _, rest = rest.partition("/")
      owner = _owner(rest, leaf, shapes[role])
      sharding = placed[role][owner] if owner is not None else sharding
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return map_paths(place, state)


def _owner(path: str, leaf: jax.ShapeDtypeStruct, params: Mapping[str, Any]) -> str | None:
  """The longest parameter path that ends `path`, if it has the leaf's shape."""
  parts = path.split("/")
  for start in range(len(parts)):
    name = "/".join(parts[start:])
    if name in params:
      return name if params[name].shape == leaf.shape else None
  return None


def create_state(
  objective: Objective,
  optimizers: Mapping[str, Optimizer],
  mesh: Mesh,
  batch: PyTree,
  key: Array,
  *,
  ema: bool,
  window: int = 0,
) -> TrainState:
  """A fresh state, each leaf created where it lives. Arguments as for `abstract_state`.

  Frozen roles have no initial values: they stay shapes, for a warm start to fill.
  """
  abstract = abstract_state(objective, optimizers, mesh, batch, ema=ema, window=window)

  def init(key: Array, batch: PyTree) -> TrainState:
    params = unbox(objective.init(key, batch))
    trained = {role: tree for role, tree in params.items() if role not in abstract.frozen}
    return wrap_params(trained, optimizers, ema=ema, window=window)

  # It runs once. On CPUs optimizing it takes LLVM far longer than running it does.
  cpu = mesh.devices.flat[0].platform == "cpu"
  options = {"xla_backend_optimization_level": 0} if cpu else None
  shardings = shardings_of(abstract.replace(frozen={}))
  with use_mesh(mesh):
    state = jax.jit(init, out_shardings=shardings, compiler_options=options)(key, batch)
  return state.replace(frozen=abstract.frozen)


def replicate(value: np.ndarray, mesh: Mesh) -> Array:
  """A host value that every process knows, as an array that every device of the mesh holds."""
  return jax.make_array_from_callback(value.shape, replicated(mesh), lambda index: value[index])


def to_host(tree: PyTree) -> PyTree:
  """Whole numpy arrays, also of leaves whose parts several processes hold; all have to call it."""
  return jax.tree.map(whole, tree)


def shardings_of(tree: PyTree) -> PyTree:
  """The sharding of every leaf of a concrete or abstract tree."""
  return jax.tree.map(lambda leaf: leaf.sharding, tree)


def as_abstract(tree: PyTree) -> PyTree:
  """Shapes and dtypes of a tree, without shardings."""
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def abstract_batch(batch: PyTree, mesh: Mesh) -> PyTree:
  """A batch of global shapes as ShapeDtypeStructs, split as the feed splits it."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)), batch
  )


def abstract_key(mesh: Mesh | None = None) -> jax.ShapeDtypeStruct:
  """The shape of a random key, for tracing without a device."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  if mesh is None:
    return key
  return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh))


def abstract_params(objective: Objective, batch: Any) -> dict[str, Any]:
  """Shapes of the parameters of every role, unboxed, for a batch or its shapes."""
  return unbox(jax.eval_shape(objective.init, abstract_key(), batch))
