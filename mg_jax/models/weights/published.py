"""Conversion of published weights: from a Hugging Face checkpoint folder to one of ours.

`convert` maps every array of a T5 encoder, a CLIP, an image autoencoder or an audio codec into our
parameter tree (`models.weights.layouts`), one array at a time, in constant memory. What it cannot
map and may change the result, an array or a config value, is rejected by name
(`models.weights.kinds`). `save` writes our own parameters into such a folder, `save_run` those of a
whole run; `converted` reads it.
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

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core import shipped
from mg_jax.core.errors import UserError
from mg_jax.core.progress import track
from mg_jax.core.tree import flatten_paths
from mg_jax.core.typing import PyTree
from mg_jax.data import atomic, tensors
from mg_jax.models.weights.converted import FORMAT, RUN, WEIGHTS, shapes_of
from mg_jax.models.weights.hub import CONFIG, Checkpoint, tokenizer_files
from mg_jax.models.weights.kinds import Config, Kind, Layout, Place
from mg_jax.models.weights.layouts import KINDS

_log = logging.getLogger(__name__)
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
  shapes = shapes_of(KINDS[layout.kind], layout.fields)
  _compare(checkpoint, layout, shapes)
  config = {"format": FORMAT, "kind": layout.kind, "dtype": dtype, "model": layout.fields}
  parts = _parts(checkpoint, layout.places, shapes, dtype)
  files = {path.name: path.read_bytes() for path in tokenizer_files(source)}
  return _write(target, config | layout.facts, shapes, parts, files)


def save(
  target: str | os.PathLike[str],
  kind: str,
  fields: Mapping[str, Any],
  params: PyTree,
  *,
  facts: Mapping[str, Any] | None = None,
  dtype: str = "float32",
) -> dict[str, Any]:
  """Writes our own parameters as a folder that `converted` reads; returns the config written.

  No tokenizer files are written: models trained here use bytes (`data.text.prompts`).

  Args:
    target: a new folder, written atomically.
    kind: as in `convert`.
    fields: of the module, plain values; their dtype is replaced by that of the folder.
    params: unboxed.
    facts: further entries of the config, plain values, such as the "run" that trained them.
    dtype: of the weights written.

  Raises:
    UserError: if the parameters are not those of the fields, a value is not finite or does not fit
      `dtype`, or `target` exists.
  """
  family, fields = _family(target, kind, dtype), _without_dtype(fields)
  shapes, leaves = shapes_of(family, fields), flatten_paths(params)
  if {path: leaf.shape for path, leaf in leaves.items()} != shapes:
    raise UserError(f"the parameters for {target} are not those of the {kind} its fields describe")

  config = {"format": FORMAT, "kind": kind, "dtype": dtype, "model": fields, **(facts or {})}
  return _write(target, config, shapes, _own_parts(target, leaves, dtype), {})


def save_run(
  target: str | os.PathLike[str],
  config: Mapping[str, Any],
  role: str,
  params: PyTree,
  *,
  step: int,
  seconds: int,
  files: Mapping[str, bytes],
  dtype: str = "float32",
) -> dict[str, Any]:
  """Writes a role of a run as a folder that `converted` reads; returns the config written.

  Args:
    target: a new folder, written atomically.
    config: of the run, plain values.
    role: "model", ...
    params: of this role, unboxed.
    step: that they are of.
    seconds: that the run had used.
    files: name -> content of files that the run needs besides.
    dtype: of the weights written.

  Raises:
    UserError: as `save`.
  """
  _check_new(target, dtype)
  leaves = flatten_paths(params)
  shapes = {path: leaf.shape for path, leaf in leaves.items()}
  about = {"format": FORMAT, "kind": RUN, "dtype": dtype, "role": role}
  about |= {"run": dict(config), "step": step, "seconds": seconds}
  return _write(target, about, shapes, _own_parts(target, leaves, dtype), files)


def _own_parts(
  target: str | os.PathLike[str], leaves: Mapping[str, Any], dtype: str
) -> Iterator[tuple[str, list[np.ndarray]]]:
  for path, leaf in leaves.items():
    yield path, [_cast(np.asarray(jax.device_get(leaf)), dtype, f"{target}: {path}")]


def _family(target: str | os.PathLike[str], kind: str, dtype: str) -> Kind:
  """The family of a kind; checks kind, dtype and that `target` is new."""
  if kind not in KINDS:
    raise UserError(f"unknown kind of model {kind!r}; known are {', '.join(KINDS)}")
  _check_new(target, dtype)
  return KINDS[kind]


def _check_new(target: str | os.PathLike[str], dtype: str) -> None:
  if dtype not in DTYPES:
    raise UserError(f"dtype {dtype!r} is unknown; known are {', '.join(DTYPES)}")
  if os.fspath(target).startswith(shipped.PREFIX):
    raise UserError(f"{target} is kept for shipped weights; name another folder")
  if pathlib.Path(target).exists():
    raise UserError(f"{target} exists already; name a new folder")


def _write(
  target: str | os.PathLike[str],
  config: dict[str, Any],
  shapes: Mapping[str, tuple],
  parts: Iterable[tuple[str, Iterable[np.ndarray]]],
  files: Mapping[str, bytes],
) -> dict[str, Any]:
  """Writes a folder with its config, its weights, and `files`: name -> content."""
  target = pathlib.Path(target)
  partial = target.with_name(f"{atomic.PREFIX}{uuid.uuid4().hex[:12]}-{target.name}")
  try:
    partial.mkdir(parents=True)
    dtype = jnp.dtype(config["dtype"])
    sizes = {path: (shape, dtype) for path, shape in shapes.items()}
    tensors.write(partial / WEIGHTS, sizes, parts)
    config = config | {"sha256": _sha256(partial / WEIGHTS)}
    atomic.write_json(partial / CONFIG, config)
    for name, content in files.items():
      (partial / name).parent.mkdir(exist_ok=True)
      (partial / name).write_bytes(content)
    os.rename(partial, target)
  except OSError as e:
    raise UserError(f"{target} cannot be written ({e.strerror}); choose another place") from e
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return config


def _sha256(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _without_dtype(fields: Mapping[str, Any]) -> dict[str, Any]:
  return {
    k: _without_dtype(v) if isinstance(v, Mapping) else v for k, v in fields.items() if k != "dtype"
  }


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
  progress = track(what="arrays", total=sum(len(p.names) for p in places.values()))

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
