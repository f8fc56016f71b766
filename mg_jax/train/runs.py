"""Trained weights by reference: the parameters of a role of a run, its config and stage.

A reference is the workdir of a run, a folder of converted weights (`models.weights.converted`) or
a name of the cast (`core.shipped`); weights that no run trained count as one at step 0.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from mg_jax.core.errors import UserError
from mg_jax.core.tree import flatten_paths, nest
from mg_jax.core.typing import PyTree
from mg_jax.data.records import MANIFEST
from mg_jax.models.weights import converted
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.workdir import latents_folder, resolve


@dataclasses.dataclass(frozen=True)
class Role:
  """Parameters of one role, and the run that they are from.

  Attributes:
    params: unboxed.
    config: of the run.
    step: that they are of.
    digest: of the checkpoint.
    seconds: that the run had used.
  """

  params: PyTree
  config: dict[str, Any]
  step: int
  digest: str
  seconds: float = 0.0


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
    workdir: of the run, or any other reference.
    role: "model", "autoencoder", ...
    step: defaults to the newest.
    stage: that the run has to be of; any by default.
    place: the run's config -> shapes with shardings, straight to which the parameters are read; by
      default they go to the first device.
    dtype: as for `load_params`.

  Raises:
    UserError: if the run, step or role does not exist, or the checkpoint is damaged.
  """
  if converted.is_converted(workdir):
    return _converted(workdir, role, step, stage, place, dtype)
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
  return Role(params, meta["config"], step, meta["sha256"], meta["elapsed"])


def _check_stage(workdir: str | os.PathLike[str], config: dict[str, Any], stage: str) -> None:
  if stage and config.get("stage", stage) != stage:
    raise UserError(f"{workdir} is a run of {config['stage']}; give one of {stage}")


# Kind of converted weights -> the stage and the role that would have trained them.
TRAINED = {
  "autoencoder": ("autoencoding", "autoencoder"), "dacvae": ("wave_autoencoding", "autoencoder"),
  "clip": ("contrastive", "model"),
}  # fmt: skip


def _converted(folder, role, step, stage, place, dtype) -> Role:
  """As `load_role`, of a folder of converted weights."""
  found = _described(folder)
  _check_stage(folder, found["run"], stage)
  if found["role"] != role:
    raise UserError(f"{folder} has converted weights of no {role}; give a run that trained one")
  if step and step != found["step"]:
    raise UserError(f"{folder} has converted weights, which have no step {step}; leave it out")
  target = place(found["run"]) if place else None
  params = converted.load_params(folder, dtype=dtype, target=target)
  return Role(params, found["run"], found["step"], found["sha256"], found["seconds"])


def _described(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """What a folder of converted weights says of itself, with "run", the config, and "role", "step"
  and "seconds" of the run that trained it, or could have."""
  found = converted.described(folder)
  if found["kind"] == converted.RUN:
    return found
  if found["kind"] not in TRAINED:
    raise UserError(
      f"{folder} has converted weights of a {found['kind']}; give the workdir of a run"
    )
  stage, role = TRAINED[found["kind"]]
  unknown = {"run": {"stage": stage, "model": found["model"]}, "step": 0, "seconds": 0}
  return {**unknown, **found, "role": role}


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
      roles = sorted({path.split("/")[1] for path in saved if path.startswith(("params/", "ema/"))})
      raise UserError(
        f"the run in {workdir} has no {prefix[:-1]}: it trained {', '.join(roles) or 'nothing'}; "
        f"give one that trained a {role}"
      )
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
  if converted.is_converted(workdir):
    found = _described(workdir)["step"]
    if step and step != found:
      raise UserError(f"{workdir} has converted weights, which have no step {step}; leave it out")
    return found
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
  if converted.is_converted(workdir):
    return _described(workdir)["run"]
  reader = Checkpointer(resolve(workdir), read_only=True)
  try:
    return reader.meta(reader.pick(step))["config"]
  finally:
    reader.close()


def latent_statistics(
  config: Mapping[str, Any], workdir: str | os.PathLike[str]
) -> dict[str, Any]:
  """What the manifest of the latents says that a run in `workdir` learned from.

  Raises:
    UserError: without a usable "mean" and "std".
  """
  path = epath.Path(latents_folder(config, resolve(workdir))) / MANIFEST
  try:
    metadata = json.loads(path.read_text())["metadata"]
    mean, std = (np.asarray(metadata[name], np.float64) for name in ("mean", "std"))
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise UserError(f"{path} holds no latent statistics ({e!r}); encode the data again") from e
  if mean.ndim != 1 or mean.shape != std.shape or not (np.isfinite(mean) & (std > 0)).all():
    raise UserError(f"{path} has a mean or std that cannot be used; encode the data again")
  return metadata
