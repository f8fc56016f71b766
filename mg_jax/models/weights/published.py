"""Conversion of published weights: from a Hugging Face checkpoint folder to one of ours; loading.

`convert` maps every array of a T5 encoder, a CLIP, an image autoencoder or an audio codec into our
parameter tree (`models.weights.layouts`), one array at a time, in constant memory. What it cannot
map and may change the result, an array or a config value, is rejected by name
(`models.weights.kinds`). `save` writes our own parameters into such a folder. `load` returns module
and parameters. A folder has `weights.safetensors`, whose names are the paths of our parameters, and
`config.json` with the fields of the module and, for an image autoencoder, the published `scaling`
and `shift` of its latents.
"""

import hashlib
import logging
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.sharding import state_shardings, unbox
from mg_jax.core.tree import flatten_paths, map_paths
from mg_jax.core.typing import PyTree
from mg_jax.data import atomic, tensors
from mg_jax.models.weights.hub import CONFIG, Checkpoint, read_json, tokenizer_files
from mg_jax.models.weights.kinds import Config, Kind, Layout, Place
from mg_jax.models.weights.layouts import KINDS

_log = logging.getLogger(__name__)
FORMAT = "mg_jax weights 2"
WEIGHTS = "weights.safetensors"
DTYPES = ("float32", "bfloat16", "float16")
IMPORTED = tuple(name for name, kind in KINDS.items() if kind.read)


def convert(
  source: str | os.PathLike[str],
  target: str | os.PathLike[str],
  kind: str,
  *,
  dtype: str = "float32",
  weight_norm: bool = False,
) -> dict[str, Any]:
  """Converts a checkpoint folder; returns the config written.

  Arrays that are missing, unexpected or of another shape are logged, one per line. The files of a
  tokenizer are copied, from the folder or from its sibling.

  Args:
    source: a folder in the format of transformers, diffusers or open_clip, or of Meta's codec.
    target: a new folder, written atomically.
    kind: "t5", "clip", "autoencoder" or "dacvae"; a single tower of a CLIP is written as kind
      "clip_text" or "clip_vision".
    dtype: of the weights written.
    weight_norm: keeps directions and norms of kernels as published, to continue training a codec
      with them; by default norms are folded into kernels.

  Raises:
    UserError: if something is missing, does not fit or is unknown and may change the result, a
      value is not finite, `target` exists, or there is no weight norm to keep.
  """
  reader = _family(target, kind, dtype)
  if not reader.read:
    raise UserError(f"kind {kind} cannot be imported; give one of {', '.join(IMPORTED)}")
  if weight_norm and not hasattr(reader.module, "weight_norm"):
    raise UserError(f"models of kind {kind} have no weight norm; leave weight_norm out")
  checkpoint = Checkpoint(source, fold=not weight_norm)
  if weight_norm and not any(name.endswith("weight_g") for name in checkpoint.shapes):
    raise UserError(
      f"{checkpoint.folder} has plain kernels, no weight norm to keep; leave weight_norm out: a "
      "warm start of a model with weight norm accepts plain kernels too"
    )
  config = Config(checkpoint.config, str(checkpoint.config_path))
  try:
    layout = reader.read(config, checkpoint.shapes)
  except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
    reason = f"it has no {e}" if isinstance(e, KeyError) else repr(e)
    raise UserError(
      f"{config.where} is not a config of kind {kind} ({reason}); give a folder of that kind"
    ) from e
  shapes = _shapes(KINDS[layout.kind], layout.fields)
  _compare(checkpoint, layout, shapes)
  config = {"format": FORMAT, "kind": layout.kind, "dtype": dtype, "model": layout.fields}
  parts = _parts(checkpoint, layout.places, shapes, dtype)
  return _write(target, config | layout.facts, shapes, parts, tokenizer_files(source))


def save(
  target: str | os.PathLike[str],
  kind: str,
  fields: Mapping[str, Any],
  params: PyTree,
  *,
  dtype: str = "float32",
) -> dict[str, Any]:
  """Writes our own parameters as a folder that `load` reads; returns the config written.

  No tokenizer files are written: models trained here use bytes (`data.text.prompts`).

  Args:
    target: a new folder, written atomically.
    kind: as in `convert`.
    fields: of the module, plain values; their dtype is replaced by that of the folder.
    params: unboxed.
    dtype: of the weights written.

  Raises:
    UserError: if the parameters are not those of the fields, a value is not finite or does not fit
      `dtype`, or `target` exists.
  """
  family, fields = _family(target, kind, dtype), _without_dtype(fields)
  shapes, leaves = _shapes(family, fields), flatten_paths(params)
  if {path: leaf.shape for path, leaf in leaves.items()} != shapes:
    raise UserError(f"the parameters for {target} are not those of the {kind} its fields describe")

  def parts():
    for path in shapes:
      yield path, [_cast(np.asarray(jax.device_get(leaves[path])), dtype, f"{target}: {path}")]

  config = {"format": FORMAT, "kind": kind, "dtype": dtype, "model": fields}
  return _write(target, config, shapes, parts(), ())


def _family(target: str | os.PathLike[str], kind: str, dtype: str) -> Kind:
  """The family of a kind; checks kind, dtype and that `target` is new."""
  if kind not in KINDS:
    raise UserError(f"unknown kind of model {kind!r}; known are {', '.join(KINDS)}")
  if dtype not in DTYPES:
    raise UserError(f"dtype {dtype!r} is unknown; known are {', '.join(DTYPES)}")
  if pathlib.Path(target).exists():
    raise UserError(f"{target} exists already; name a new folder")
  return KINDS[kind]


def _write(
  target: str | os.PathLike[str],
  config: dict[str, Any],
  shapes: Mapping[str, tuple],
  parts: Iterable[tuple[str, Iterable[np.ndarray]]],
  files: Iterable[pathlib.Path],
) -> dict[str, Any]:
  """Writes a folder with its config, its weights, and copies of `files`."""
  target = pathlib.Path(target)
  partial = target.with_name(f"{atomic.PREFIX}{uuid.uuid4().hex[:12]}-{target.name}")
  try:
    partial.mkdir(parents=True)
    dtype = jnp.dtype(config["dtype"])
    sizes = {path: (shape, dtype) for path, shape in shapes.items()}
    tensors.write(partial / WEIGHTS, sizes, parts)
    config = config | {"sha256": _sha256(partial / WEIGHTS)}
    atomic.write_json(partial / CONFIG, config)
    for path in files:
      shutil.copyfile(path, partial / path.name)
    os.rename(partial, target)
  except OSError as e:
    raise UserError(f"{target} cannot be written ({e.strerror}); choose another place") from e
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return config


def open_converted(
  folder: str | os.PathLike[str],
) -> tuple[dict[str, Any], PyTree, tensors.TensorFile]:
  """The config of a converted folder, the boxed shapes of its parameters, and their file.

  Raises:
    UserError: if the folder was not converted here or is damaged.
  """
  folder = pathlib.Path(folder)
  config = described(folder)
  boxed = _abstract(KINDS[config["kind"]], config["model"], boxed=True)
  file = tensors.TensorFile(folder / WEIGHTS)
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
  config, boxed, file = open_converted(folder)
  dtype = dtype or config["dtype"]
  shardings = flatten_paths(state_shardings(boxed, mesh)) if mesh else {}

  def place(path, _):
    return jax.device_put(file.read(path).astype(jnp.dtype(dtype)), shardings.get(path))

  module = _build(KINDS[config["kind"]], config["model"], dtype)
  return module, map_paths(place, unbox(boxed))


def described(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """The config of a converted folder: kind, dtype, the fields of its "model", "sha256".

  Raises:
    UserError: if the folder was not converted here.
  """
  folder = pathlib.Path(folder)
  found = read_json(folder / CONFIG)
  if found.get("format") != FORMAT or found.get("kind") not in KINDS:
    raise UserError(f"{folder} has no converted weights; create it with launch/convert.py")
  return found


def is_converted(folder: str | os.PathLike[str]) -> bool:
  """Whether a folder has converted weights, rather than a run."""
  folder = pathlib.Path(folder)
  run = (folder / "checkpoints").is_dir()
  return (folder / WEIGHTS).is_file() or ((folder / CONFIG).is_file() and not run)


def digest(folder: str | os.PathLike[str]) -> str:
  """Digest of converted weights, without loading them."""
  return described(folder)["sha256"]


def _sha256(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def module(folder: str | os.PathLike[str]) -> nn.Module:
  """The module of a converted folder, without its weights."""
  found = described(folder)
  return _build(KINDS[found["kind"]], found["model"], found["dtype"])


def _build(family: Kind, fields: Mapping[str, Any], dtype: str) -> nn.Module:
  towers = {k: v | {"dtype": dtype} for k, v in fields.items() if isinstance(v, Mapping)}
  return configs.build(family.module, {**fields, **(towers or {"dtype": dtype})})


def _without_dtype(fields: Mapping[str, Any]) -> dict[str, Any]:
  return {
    k: _without_dtype(v) if isinstance(v, Mapping) else v for k, v in fields.items() if k != "dtype"
  }


def _shapes(family: Kind, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
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


def _compare(checkpoint: Checkpoint, layout: Layout, shapes: Mapping[str, tuple]) -> None:
  """Logs and rejects missing, unexpected and wrongly shaped arrays, and unequal copies."""
  wrong, used = [], set(layout.copies)
  for path, place in layout.places.items():
    part = shapes[path][1:] if place.stacked else shapes[path]
    for name in place.names:
      used.add(name)
      if name not in checkpoint.shapes:
        wrong.append(f"missing: {name}, for {path} {part}")
        continue
      # Without memory: a view of one zero in the shape of the array.
      have = np.broadcast_to(np.zeros((), np.int8), checkpoint.shapes[name])
      try:
        fits = place.change(have).shape == part
      except (ValueError, IndexError):
        fits = False
      if not fits:
        wrong.append(f"wrong shape: {name} {have.shape}, for {path} {part}")
  left = sorted(set(checkpoint.shapes) - used)
  ignored = [name for name in left if any(re.match(p, name) for p in layout.ignored)]
  wrong += [
    f"unexpected: {name} {checkpoint.shapes[name]}" for name in left if name not in ignored
  ]
  if ignored:
    _log.info("ignored as not needed: %d arrays, first %s", len(ignored), ignored[0])
  for line in wrong:
    _log.error("%s", line)
  if wrong:
    raise UserError(
      f"{checkpoint.folder} does not match its config: {len(wrong)} arrays are missing, unexpected "
      f"or of another shape, first {wrong[0]}; give weights and config of one supported model"
    )
  for copy, name in layout.copies.items():
    if _digest(checkpoint, copy) != _digest(checkpoint, name):
      raise UserError(
        f"{checkpoint.folder} has a {copy} that is not a copy of {name}, as in the supported "
        "models; remove the one that is not intended"
      )


def _digest(checkpoint: Checkpoint, name: str) -> bytes:
  """Digest of an array's values, so that two need not be in memory at once."""
  array = np.ascontiguousarray(checkpoint.read(name).astype(np.float32))
  return hashlib.sha256(array.reshape(-1).view(np.uint8)).digest()


def _parts(
  checkpoint: Checkpoint, places: Mapping[str, Place], shapes: Mapping[str, tuple], dtype: str
) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
  progress = tqdm(total=sum(len(p.names) for p in places.values()), leave=False, disable=None)

  def arrays(place: Place) -> Iterator[np.ndarray]:
    for name in place.names:
      theirs = checkpoint.read(name)
      if not jnp.issubdtype(theirs.dtype, jnp.floating):
        raise UserError(
          f"{checkpoint.folder}: {name} has {theirs.dtype} values, which need a scale that is not "
          "read; give weights in floating point"
        )
      yield _cast(place.change(theirs), dtype, f"{checkpoint.folder}: {name}")
      progress.update()

  for path in shapes:
    yield path, arrays(places[path])
  progress.close()


def _cast(array: np.ndarray, dtype: str, what: str) -> np.ndarray:
  with np.errstate(over="ignore"):
    cast = array.astype(jnp.dtype(dtype))
  if not np.isfinite(cast).all():
    if np.isfinite(array).all():
      raise UserError(f"{what} does not fit {dtype}; use bfloat16")
    raise UserError(f"{what} holds values that are not finite; give finite weights")
  return cast
