"""Published weights: from a Hugging Face checkpoint folder to a folder of ours, and into memory.

`convert` puts every array of a T5 encoder or a CLIP in its place in our tree (`models.layouts`),
one array at a time, so that memory does not grow with the model. `load` gives module and parameters
back. A converted folder holds `weights.safetensors`, whose names are the paths of our parameters,
and `config.json` with the fields of the module.
"""

import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
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
from mg_jax.models.layouts import KINDS, Kind, Place

_log = logging.getLogger(__name__)
FORMAT = "mg_jax weights 2"
WEIGHTS, CONFIG = "weights.safetensors", "config.json"
DTYPES = ("float32", "bfloat16", "float16")
# Beside the weights, where a checkpoint has them.
TOKENIZERS = (
  "tokenizer.json", "tokenizer_config.json", "spiece.model", "vocab.json", "merges.txt",
  "special_tokens_map.json",
)  # fmt: skip


def fetch(name: str) -> pathlib.Path:
  """A folder as it is; otherwise, for OWNER/NAME, a download by `huggingface_hub`.

  Raises:
    UserError: when it is neither, or cannot be fetched.
  """
  path = pathlib.Path(name)
  if path.is_dir():
    return path
  if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
    raise UserError(f"{name}: there is no such folder; give one, or a repository as OWNER/NAME")
  try:
    import huggingface_hub
  except ImportError as e:
    raise UserError(
      f"{name} is no folder here, and fetching it needs: pip install mg_jax[import]"
    ) from e
  try:
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
    return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
  except Exception as e:  # of the network, the name or the rights, in many classes
    reason = next(iter(str(e).splitlines()), type(e).__name__)[:160]
    raise UserError(f"{name} is no folder here and could not be fetched: {reason}") from e


class Checkpoint:
  """The config and the arrays of a Hugging Face folder, in one file or in shards with an index.

  Raises:
    UserError: when the folder, its config, its weights or a shard is missing or damaged.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    self.folder = pathlib.Path(folder)
    if not self.folder.is_dir():
      raise UserError(f"{folder}: there is no such folder; give the folder of a checkpoint")
    self.config = _read_json(self.folder / CONFIG)
    self._readers: dict[str, Callable[[], np.ndarray]] = {}
    self.shapes: dict[str, tuple[int, ...]] = {}
    for shard in self._shards():
      self._open(shard)

  def read(self, name: str) -> np.ndarray:
    """One array, in memory of its own."""
    return self._readers[name]()

  def _shards(self) -> list[pathlib.Path]:
    for whole in ("model.safetensors", "pytorch_model.bin"):
      index = self.folder / f"{whole}.index.json"
      if index.is_file():
        table = _read_json(index).get("weight_map")
        if not isinstance(table, dict) or not table:
          raise UserError(f"{index} names no shards; fetch it again")
        # Shards lie in the folder: a name with a path in it is not followed.
        shards = [self.folder / pathlib.PurePath(str(n)).name for n in sorted(set(table.values()))]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
          raise UserError(f"{self.folder} lacks {', '.join(missing)}, which its index names")
        return shards
      if (self.folder / whole).is_file():
        return [self.folder / whole]
    raise UserError(f"{self.folder} holds neither model.safetensors nor pytorch_model.bin")

  def _open(self, shard: pathlib.Path) -> None:
    found = open_arrays(shard)
    twice = sorted(set(found) & set(self._readers))
    if twice:
      raise UserError(f"{shard} repeats {twice[0]}, which another shard holds too")
    for name, (shape, read) in found.items():
      self.shapes[name], self._readers[name] = tuple(shape), read


def open_arrays(
  path: str | os.PathLike[str],
) -> dict[str, tuple[tuple[int, ...], Callable[[], np.ndarray]]]:
  """The arrays of a safetensors or torch file by name: their shapes, and what reads them.

  A torch file is read as weights only: nothing in it is run.

  Raises:
    UserError: when the file is missing, damaged or something else.
  """
  path = pathlib.Path(path)
  if path.suffix == ".safetensors":
    file = tensors.TensorFile(path)
    return {name: (e.shape, lambda n=name: file.read(n)) for name, e in file.entries.items()}
  try:
    import torch
  except ImportError as e:
    raise UserError(f"{path.name} needs torch to be read: pip install mg_jax[import]") from e
  try:
    table = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
  except Exception as e:  # whatever a file that is none makes torch raise
    reason = next(iter(str(e).splitlines()), type(e).__name__)[:160]
    raise UserError(f"{path} is refused, it is not a file of tensors alone ({reason})") from e
  if not isinstance(table, Mapping) or not all(isinstance(t, torch.Tensor) for t in table.values()):
    raise UserError(f"{path} is refused, it is not a table of tensors")

  def read(tensor):
    # numpy has no bfloat16 of its own, and float32 holds all of its values.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

  return {name: (tuple(t.shape), lambda t=t: read(t)) for name, t in table.items()}


def convert(
  source: str | os.PathLike[str],
  target: str | os.PathLike[str],
  kind: str,
  *,
  dtype: str = "float32",
) -> dict[str, Any]:
  """Converts a checkpoint folder; returns the config written.

  Arrays that are missing, unexpected or of another shape are logged, each on a line.

  Args:
    source: a folder as transformers saves it.
    target: a new folder, which appears whole or not at all.
    kind: "t5" or "clip".
    dtype: of the weights written.

  Raises:
    UserError: when something is missing or does not fit, a value is not finite, or `target` exists.
  """
  if kind not in KINDS:
    raise UserError(f"no kind of model is named {kind!r}; known are {', '.join(KINDS)}")
  if dtype not in DTYPES:
    raise UserError(f"dtype {dtype!r} is unknown; known are {', '.join(DTYPES)}")
  target = pathlib.Path(target)
  if target.exists():
    raise UserError(f"{target} exists already; name a new folder")
  family, checkpoint = KINDS[kind], Checkpoint(source)
  try:
    fields = family.fields(checkpoint.config)
  except (KeyError, TypeError, AttributeError) as e:
    raise UserError(f"{checkpoint.folder / CONFIG} is no config of a {kind} ({e!r})") from e
  places = family.places(fields)
  shapes = {path: leaf.shape for path, leaf in flatten_paths(_abstract(family, fields)).items()}
  _compare(checkpoint, family, places, shapes)

  partial = target.with_name(f"{atomic.PREFIX}{uuid.uuid4().hex[:12]}-{target.name}")
  try:
    partial.mkdir(parents=True)
    tensors.write(
      partial / WEIGHTS,
      {path: (shape, jnp.dtype(dtype)) for path, shape in shapes.items()},
      _parts(checkpoint, places, shapes, dtype),
    )
    described = {
      "format": FORMAT, "kind": kind, "dtype": dtype, "model": fields,
      "sha256": _sha256(partial / WEIGHTS),
    }
    atomic.write_json(partial / CONFIG, described)
    for name in TOKENIZERS:
      if (checkpoint.folder / name).is_file():
        shutil.copyfile(checkpoint.folder / name, partial / name)
    os.rename(partial, target)
  except OSError as e:
    raise UserError(f"{target} cannot be written ({e.strerror}); choose another place") from e
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return described


def load(
  folder: str | os.PathLike[str], *, dtype: str | None = None, mesh: Mesh | None = None
) -> tuple[nn.Module, PyTree]:
  """Module and parameters of a converted folder; activations have the type of the weights.

  Args:
    folder: made by `convert`.
    dtype: of weights and activations, by default that of the folder.
    mesh: spreads the parameters over its devices as their logical axes say.

  Raises:
    UserError: when the folder is none of ours or damaged.
  """
  folder = pathlib.Path(folder)
  described = _described(folder)
  family, fields = KINDS[described["kind"]], described["model"]
  dtype = dtype or described["dtype"]
  boxed = _abstract(family, fields, boxed=True)
  file = tensors.TensorFile(folder / WEIGHTS)
  shapes = {path: leaf.shape for path, leaf in flatten_paths(unbox(boxed)).items()}
  if {path: entry.shape for path, entry in file.entries.items()} != shapes:
    raise UserError(f"{folder / WEIGHTS} does not fit the config beside it; convert again")
  shardings = flatten_paths(state_shardings(boxed, mesh)) if mesh else {}

  def place(path, _):
    return jax.device_put(file.read(path).astype(jnp.dtype(dtype)), shardings.get(path))

  return _build(family, fields, dtype), map_paths(place, unbox(boxed))


def digest(folder: str | os.PathLike[str]) -> str:
  """Tells converted weights apart without loading them."""
  return _described(pathlib.Path(folder))["sha256"]


def _sha256(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def module(folder: str | os.PathLike[str]) -> nn.Module:
  """The module of a converted folder, without its weights."""
  described = _described(pathlib.Path(folder))
  return _build(KINDS[described["kind"]], described["model"], described["dtype"])


def _described(folder: pathlib.Path) -> dict[str, Any]:
  described = _read_json(folder / CONFIG)
  if described.get("format") != FORMAT or described.get("kind") not in KINDS:
    raise UserError(f"{folder} holds no converted weights; make it with launch/convert.py")
  return described


def _build(family: Kind, fields: Mapping[str, Any], dtype: str) -> nn.Module:
  towers = {k: v | {"dtype": dtype} for k, v in fields.items() if isinstance(v, Mapping)}
  return configs.build(family.module, {**fields, **(towers or {"dtype": dtype})})


def _abstract(family: Kind, fields: Mapping[str, Any], *, boxed: bool = False) -> PyTree:
  """Shapes of the parameters."""
  model = _build(family, fields, "float32")
  inputs = [jax.ShapeDtypeStruct((1, 2), jnp.int32), jax.ShapeDtypeStruct((1, 2), jnp.bool_)]
  if "vision" in fields:
    side = fields["vision"]["size"]
    inputs.insert(0, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
  try:
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
  except (ArithmeticError, TypeError, ValueError) as e:
    raise UserError(f"the config makes no network ({type(e).__name__}: {e})") from e
  return params if boxed else unbox(params)


def _compare(
  checkpoint: Checkpoint, family: Kind, places: Mapping[str, Place], shapes: Mapping[str, tuple]
) -> None:
  """Logs what is missing, of another shape or unexpected; the first two are an error."""
  wrong, used = [], set()
  for path, place in places.items():
    part = shapes[path][1:] if place.stacked else shapes[path]
    for name in place.names:
      used.add(name)
      if name not in checkpoint.shapes:
        wrong.append(f"missing: {name}, for {path} {part}")
        continue
      # On no memory at all: a view of one zero in the shape of the array.
      have = np.broadcast_to(np.zeros((), np.int8), checkpoint.shapes[name])
      try:
        fits = place.change(have).shape == part
      except (ValueError, IndexError):
        fits = False
      if not fits:
        wrong.append(f"wrong shape: {name} {have.shape}, for {path} {part}")
  for name in sorted(set(checkpoint.shapes) - used):
    if not name.startswith(family.ignored):
      _log.warning("unexpected: %s %s", name, checkpoint.shapes[name])
  for line in wrong:
    _log.error("%s", line)
  if wrong:
    raise UserError(
      f"{checkpoint.folder} does not hold what its config promises: {len(wrong)} arrays are "
      f"missing or of another shape, first {wrong[0]}"
    )


def _parts(
  checkpoint: Checkpoint, places: Mapping[str, Place], shapes: Mapping[str, tuple], dtype: str
) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
  progress = tqdm(total=sum(len(p.names) for p in places.values()), leave=False, disable=None)

  def arrays(place: Place) -> Iterator[np.ndarray]:
    for name in place.names:
      theirs = checkpoint.read(name)
      with np.errstate(over="ignore"):
        ours = place.change(theirs).astype(jnp.dtype(dtype))
      if not np.isfinite(ours).all():
        if np.isfinite(theirs).all():
          raise UserError(f"{checkpoint.folder}: {name} does not fit {dtype}; use bfloat16")
        raise UserError(f"{checkpoint.folder}: {name} holds values that are not finite")
      progress.update()
      yield ours

  for path in shapes:
    yield path, arrays(places[path])
  progress.close()


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError as e:
    raise UserError(f"{path.parent} has no {path.name}; give the folder of a checkpoint") from e
  except (OSError, ValueError, RecursionError) as e:
    raise UserError(f"{path} cannot be understood ({e}); fetch it again") from e
  if not isinstance(value, dict):
    raise UserError(f"{path} cannot be understood; fetch it again")
  return value
