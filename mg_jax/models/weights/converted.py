"""Folders of converted weights, as read: what they hold, their modules, their parameters.

`published` writes them. Each has `weights.safetensors`, whose names are the paths of our
parameters, and `config.json` with the fields of the module and, for an image autoencoder, the
published `scaling` and `shift` of its latents, or, for a run, its config. Every function takes a
name of the cast (`core.shipped`) for a folder.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core import shipped
from mg_jax.core.errors import UserError
from mg_jax.core.sharding import state_shardings, unbox
from mg_jax.core.tree import flatten_paths, map_paths, nest
from mg_jax.core.typing import PyTree
from mg_jax.data import tensors
from mg_jax.models.weights.hub import CONFIG, read_json
from mg_jax.models.weights.kinds import Kind
from mg_jax.models.weights.layouts import KINDS

FORMAT = "mg_jax weights 2"
WEIGHTS = "weights.safetensors"
RUN = "run"  # kind of what a run trained that is no model of KINDS, see `published.save_run`


def open_weights(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], tensors.TensorFile]:
  """The config of a converted folder and the file of its parameters, which belong together.

  Raises:
    UserError: if the folder was not converted here or is damaged.
  """
  config, _, file = _open(folder)
  return config, file


def _open(
  folder: str | os.PathLike[str],
) -> tuple[dict[str, Any], PyTree, tensors.TensorFile]:
  """As `open_weights`, with the boxed shapes of the parameters between, None for a run."""
  folder, config = _folder(folder), described(folder)
  if shipped.is_shipped(folder):
    shipped.verify(folder / WEIGHTS, config["sha256"])
  file = tensors.TensorFile(folder / WEIGHTS)
  if config["kind"] == RUN:
    return config, None, file
  boxed = _abstract(KINDS[config["kind"]], config["model"], boxed=True)
  shapes = {path: leaf.shape for path, leaf in flatten_paths(unbox(boxed)).items()}
  if {path: entry.shape for path, entry in file.entries.items()} != shapes:
    raise UserError(f"{folder / WEIGHTS} does not match its config; convert again")
  return config, boxed, file


def load(
  folder: str | os.PathLike[str], *, dtype: str | None = None, mesh: Mesh | None = None
) -> tuple[nn.Module, PyTree]:
  """Module and parameters of a converted folder; activations have the dtype of the weights.

  Args:
    folder: written by `convert` or `save`.
    dtype: of weights and activations, by default that of the folder.
    mesh: shards the parameters over its devices by their logical axes.

  Raises:
    UserError: if the folder was not converted here or is damaged.
  """
  config, boxed, file = _open(folder)
  family, dtype = _with_module(folder, config), dtype or config["dtype"]
  shardings = flatten_paths(state_shardings(boxed, mesh)) if mesh else {}

  def place(path, _):
    return jax.device_put(file.read(path).astype(jnp.dtype(dtype)), shardings.get(path))

  return _build(family, config["model"], dtype), map_paths(place, unbox(boxed))


def load_params(
  folder: str | os.PathLike[str], *, dtype: Any = None, target: PyTree | None = None
) -> PyTree:
  """The parameters of a converted folder, nested dicts of arrays.

  Args:
    folder: written by `convert`, `save` or `save_run`.
    dtype: of the parameters, by default as saved.
    target: tree of their shapes with shardings, straight to which they are read; by default they go
      to the first device.

  Raises:
    UserError: if the folder was not converted here, is damaged or is not of the shapes of `target`.
  """
  _, file = open_weights(folder)
  wanted = file.entries if target is None else flatten_paths(target)
  shapes = [{path: tuple(leaf.shape) for path, leaf in t.items()} for t in (wanted, file.entries)]
  if shapes[0] != shapes[1]:
    raise UserError(f"the weights in {folder} are not those that its config asks for")
  found = {}
  for path, leaf in wanted.items():
    array = file.read(path)
    found[path] = jax.device_put(
      array if dtype is None else array.astype(jnp.dtype(dtype)), getattr(leaf, "sharding", None)
    )
  return nest(found)


def described(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """The config of a converted folder: kind, dtype, the fields of its "model", "sha256".

  One that a run trained has "run", its config, and "step"; one of kind RUN also has "role", and no
  "model".

  Raises:
    UserError: if the folder was not converted here.
  """
  folder = _folder(folder)
  found = read_json(folder / CONFIG)
  if found.get("format") != FORMAT or found.get("kind") not in (*KINDS, RUN):
    raise UserError(f"{folder} has no converted weights; create it with launch/convert.py")
  return found


def is_converted(folder: str | os.PathLike[str]) -> bool:
  """Whether a folder has converted weights, rather than a run."""
  folder = _folder(folder)
  run = (folder / "checkpoints").is_dir()
  return (folder / WEIGHTS).is_file() or ((folder / CONFIG).is_file() and not run)


def digest(folder: str | os.PathLike[str]) -> str:
  """Digest of converted weights, without loading them."""
  return described(folder)["sha256"]


def module(folder: str | os.PathLike[str]) -> nn.Module:
  """The module of a converted folder, without its weights."""
  found = described(folder)
  return _build(_with_module(folder, found), found["model"], found["dtype"])


def _folder(reference: str | os.PathLike[str]) -> pathlib.Path:
  return pathlib.Path(shipped.locate(reference))


def _with_module(folder: str | os.PathLike[str], config: Mapping[str, Any]) -> Kind:
  if config["kind"] == RUN:
    raise UserError(f"{folder} has what a whole run trained, which is no encoder; name another")
  return KINDS[config["kind"]]


def _build(family: Kind, fields: Mapping[str, Any], dtype: str) -> nn.Module:
  towers = {k: v | {"dtype": dtype} for k, v in fields.items() if isinstance(v, Mapping)}
  return configs.build(family.module, {**fields, **(towers or {"dtype": dtype})})


def shapes_of(family: Kind, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """Path -> shape of the parameters of a module with these fields."""
  return {path: leaf.shape for path, leaf in flatten_paths(_abstract(family, fields)).items()}


def _abstract(family: Kind, fields: Mapping[str, Any], *, boxed: bool = False) -> PyTree:
  """Shapes of the parameters."""
  model = _build(family, fields, "float32")
  try:
    params = jax.eval_shape(model.init, jax.random.key(0), *family.inputs(fields))["params"]
  except (ArithmeticError, TypeError, ValueError) as e:
    reason = next(iter(str(e).splitlines()), "")[:160]
    raise UserError(
      f"the config is invalid ({type(e).__name__}: {reason}); give one with consistent sizes"
    ) from e
  return params if boxed else unbox(params)
