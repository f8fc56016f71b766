"""Trained weights by reference: the parameters of a role of a run, its config and stage.

A reference is the workdir of a run or a folder of converted weights (`models.weights.published`),
which counts as a run at step 0 with one role.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.core.tree import flatten_paths
from mg_jax.core.typing import PyTree
from mg_jax.models.weights import published
from mg_jax.train.checkpoint import Checkpointer, nest
from mg_jax.train.workdir import resolve


@dataclasses.dataclass(frozen=True)
class Role:
  """Parameters of one role, the config and step of their run, a digest of the checkpoint."""

  params: PyTree
  config: dict[str, Any]
  step: int
  digest: str


def load_role(
  workdir: str | os.PathLike[str],
  role: str,
  *,
  step: int | None = None,
  stage: str = "",
  place: Callable[[dict[str, Any]], PyTree] | None = None,
  dtype: Any = None,
) -> Role:
  """The parameters of a role, averaged if the run kept an average, and what they come from.

  Args:
    workdir: of the run, or a folder of converted weights.
    role: "model", "autoencoder", ...
    step: defaults to the newest.
    stage: that the run has to be of; any by default.
    place: the run's config -> shapes with shardings, straight to which the parameters are read; by
      default they go to the first device.
    dtype: as for `load_params`.

  Raises:
    UserError: if the run, step or role does not exist, or the checkpoint is damaged.
  """
  if published.is_converted(workdir):
    found = _converted(workdir, role, step, dtype)
    _check_stage(workdir, found.config, stage)
    return found
  reader = Checkpointer(workdir, read_only=True)
  try:
    step = reader.pick(step)
    meta = reader.meta(step)
    _check_stage(workdir, meta["config"], stage)
    averaged = any(path.startswith(f"ema/{role}/") for path in reader.leaves(step))
  finally:
    reader.close()
  # Pinned to one step: a running job may save another one in between.
  target = place(meta["config"]) if place else None
  params = load_params(workdir, role, ema=averaged, step=step, target=target, dtype=dtype)
  return Role(params, meta["config"], step, meta["sha256"])


def _check_stage(workdir: str | os.PathLike[str], config: dict[str, Any], stage: str) -> None:
  if stage and config.get("stage", stage) != stage:
    raise UserError(f"{workdir} is a run of {config['stage']}; give one of {stage}")


# Kind of converted weights -> the stage and the role that would have trained them.
TRAINED = {
  "autoencoder": ("autoencoding", "autoencoder"), "dacvae": ("wave_autoencoding", "autoencoder"),
  "clip": ("contrastive", "model"),
}  # fmt: skip


def _converted(folder: str | os.PathLike[str], role: str, step: int | None, dtype: Any) -> Role:
  config = _converted_config(folder)
  if TRAINED[published.described(folder)["kind"]][1] != role:
    raise UserError(f"{folder} has converted weights of no {role}; give a run that trained one")
  if step:
    raise UserError(f"{folder} has converted weights, which have no step {step}; leave it out")
  _, params = published.load(folder, dtype=dtype)
  return Role(params, config, 0, published.digest(folder))


def _converted_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """What a run with these weights would say of them."""
  found = published.described(folder)
  if found["kind"] not in TRAINED:
    raise UserError(
      f"{folder} has converted weights of a {found['kind']}; give the workdir of a run"
    )
  return {"stage": TRAINED[found["kind"]][0], "model": found["model"]}


def load_params(
  workdir: str,
  role: str,
  *,
  ema: bool = True,
  step: int | None = None,
  target: PyTree | None = None,
  dtype: Any = None,
) -> PyTree:
  """The parameters of one role, for inference, as a tree of nested dicts.

  Args:
    workdir: folder of a training run; it may still be running.
    role: "model", "autoencoder", ...
    ema: the averaged weights rather than the latest ones.
    step: defaults to the newest.
    target: abstract tree with shardings to match and to place on; by default everything is taken
      as saved and goes to the first device.
    dtype: what floating point parameters are cast to, once they are verified and on their devices.

  Raises:
    UserError: when there is nothing to read, it does not fit, or it is damaged.
  """
  reader = Checkpointer(workdir, read_only=True)
  try:
    prefix = f"{'ema' if ema else 'params'}/{role}/"
    saved = reader.leaves(step)
    if target is None:
      wanted = {path: leaf for path, leaf in saved.items() if path.startswith(prefix)}
    else:
      wanted = {prefix + path: leaf for path, leaf in flatten_paths(target).items()}
    if not wanted:
      kinds = sorted({"/".join(p.split("/")[:2]) for p in saved if p.startswith(("params", "ema"))})
      raise UserError(f"no {prefix[:-1]} in {reader.folder}; there are {', '.join(kinds)}")
    leaves = reader.read(wanted, step)
  finally:
    reader.close()
  found = {}
  for path in list(leaves):
    leaf = leaves.pop(path)  # which is let go of once it is cast
    cast = dtype is not None and jnp.issubdtype(leaf.dtype, jnp.floating)
    found[path.removeprefix(prefix)] = leaf.astype(dtype) if cast else leaf
  return nest(found)


def pick_step(workdir: str | os.PathLike[str], step: int | None = None) -> int:
  """A step of a run, by default the newest. Raises UserError as `load_role`."""
  if published.is_converted(workdir):
    return 0
  reader = Checkpointer(resolve(workdir), read_only=True)
  try:
    return reader.pick(step)
  finally:
    reader.close()


def stage_of(workdir: str | os.PathLike[str], *, step: int | None = None) -> str:
  """The stage of a run, from its config. Raises UserError as `load_role`."""
  return saved_config(workdir, step=step).get("stage", "")


def saved_config(
  workdir: str | os.PathLike[str], *, step: int | None = None
) -> dict[str, Any]:
  """The config of a run. Raises UserError as `load_role`."""
  if published.is_converted(workdir):
    return _converted_config(workdir)
  reader = Checkpointer(resolve(workdir), read_only=True)
  try:
    return reader.meta(reader.pick(step))["config"]
  finally:
    reader.close()
