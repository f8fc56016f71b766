"""Checkpoints as the hub keeps them: folders with a config and weights, in one file or in shards.

Safetensors are read as they are, files of torch as weights only: nothing in either is run. Kernels
that are kept as a norm and a direction, `weight_g` and `weight_v`, are read as the `weight` that
they make, or on demand as they are. Newer files name the two `parametrizations.weight.original0`
and 1, which is read as the same.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data import tensors

CONFIG = "config.json"
# Of transformers, diffusers and the codecs of audio; those that cannot hold code first.
CHECKPOINTS = (
  "model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin",
  "diffusion_pytorch_model.bin", "weights.pth",
)  # fmt: skip
# Two spellings of torch's weight norm: the newer, and the older that is used here.
_NORM = (r"parametrizations\.weight\.original0$", "weight_g")
_DIRECTION = (r"parametrizations\.weight\.original1$", "weight_v")


def fetch(name: str) -> pathlib.Path:
  """A folder as it is; otherwise, for OWNER/NAME, a download by `huggingface_hub`.

  OWNER/NAME/FOLDER is one folder of a repository, such as the `vae` of a generator.

  Raises:
    UserError: when it is neither, or cannot be fetched.
  """
  path = pathlib.Path(name)
  if path.is_dir():
    return path
  match = re.fullmatch(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)", name)
  if not match:
    raise UserError(f"{name}: there is no such folder; give one, or a repository as OWNER/NAME")
  try:
    import huggingface_hub
  except ImportError as e:
    raise UserError(
      f"{name} is no folder here, and fetching it needs: pip install mg_jax[import]"
    ) from e
  try:
    repository, inside = match[1], match[2].lstrip("/")
    kinds = ("*.json", "*.safetensors", "*.model", "*.txt", "weights.pth")
    patterns = [f"{inside}/{kind}" if inside else kind for kind in kinds]
    folder = huggingface_hub.snapshot_download(repository, allow_patterns=patterns)
    return pathlib.Path(folder) / inside
  except Exception as e:  # of the network, the name or the rights, in many classes
    reason = next(iter(str(e).splitlines()), type(e).__name__)[:160]
    raise UserError(f"{name} is no folder here and could not be fetched: {reason}") from e


class Checkpoint:
  """The config and the arrays of a Hugging Face folder, in one file or in shards with an index.

  A file of torch that holds a table `state_dict` beside `metadata` may take the place of both: its
  `kwargs` are the config of a folder without config.json.

  Args:
    folder: of the checkpoint.
    fold: puts one `weight` in the place of each `weight_g` and `weight_v`.

  Raises:
    UserError: when the folder, its config, its weights or a shard is missing or damaged.
  """

  def __init__(self, folder: str | os.PathLike[str], *, fold: bool = True):
    self.folder = pathlib.Path(folder)
    if not self.folder.is_dir():
      raise UserError(f"{folder}: there is no such folder; give the folder of a checkpoint")
    self._readers: dict[str, Callable[[], np.ndarray]] = {}
    self.shapes: dict[str, tuple[int, ...]] = {}
    held: dict[str, Any] = {}
    for shard in self._shards():
      held |= self._open(shard)
    if fold:
      self._fold_norms()
    alone = held and not (self.folder / CONFIG).is_file()
    self.config = held if alone else read_json(self.folder / CONFIG)

  def read(self, name: str) -> np.ndarray:
    """One array, in memory of its own."""
    return self._readers[name]()

  def _shards(self) -> list[pathlib.Path]:
    for whole in CHECKPOINTS:
      index = self.folder / f"{whole}.index.json"
      if index.is_file():
        table = read_json(index).get("weight_map")
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
    raise UserError(f"{self.folder} holds none of {', '.join(CHECKPOINTS)}")

  def _open(self, shard: pathlib.Path) -> dict[str, Any]:
    """Adds the arrays of a file; returns the config it holds itself, mostly none."""
    found, config = open_arrays(shard)
    found = {re.sub(*_NORM, name): entry for name, entry in found.items()}
    found = {re.sub(*_DIRECTION, name): entry for name, entry in found.items()}
    twice = sorted(set(found) & set(self._readers))
    if twice:
      raise UserError(f"{shard} repeats {twice[0]}, which another shard holds too")
    for name, (shape, read) in found.items():
      self.shapes[name], self._readers[name] = tuple(shape), read
    return config

  def _fold_norms(self) -> None:
    """Puts one `weight` in the place of each norm and direction."""
    for norm in [name for name in self.shapes if name.endswith("weight_g")]:
      direction = norm.removesuffix("g") + "v"
      if direction in self.shapes:
        del self.shapes[norm]
        weight, pair = norm.removesuffix("_g"), (self._readers.pop(norm), self._readers[direction])
        self.shapes[weight] = self.shapes.pop(direction)
        self._readers[weight] = lambda pair=pair: _fold(*(read() for read in pair))
        del self._readers[direction]


def _fold(norm: np.ndarray, direction: np.ndarray) -> np.ndarray:
  """The kernel of these norms along the first axis, as torch's weight_norm has them."""
  norm, direction = norm.astype(np.float32), direction.astype(np.float32)
  axes = tuple(range(1, direction.ndim))
  length = np.sqrt(np.sum(np.square(direction), axis=axes, keepdims=True))
  # A direction of zeros has none; what comes out is refused as not finite.
  with np.errstate(invalid="ignore", divide="ignore"):
    return norm * (direction / length)


def open_arrays(
  path: str | os.PathLike[str],
) -> tuple[dict[str, tuple[tuple[int, ...], Callable[[], np.ndarray]]], dict[str, Any]]:
  """The arrays of a file by name, their shapes and what reads them; and the config in it, if any.

  A torch file is read as weights only: nothing in it is run.

  Raises:
    UserError: when the file is missing, damaged or something else.
  """
  path = pathlib.Path(path)
  if path.suffix == ".safetensors":
    file = tensors.TensorFile(path)
    return {name: (e.shape, lambda n=name: file.read(n)) for name, e in file.entries.items()}, {}
  try:
    import torch
  except ImportError as e:
    raise UserError(f"{path.name} needs torch to be read: pip install mg_jax[import]") from e
  try:
    table = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
  except Exception as e:  # whatever a file that is none makes torch raise
    reason = next(iter(str(e).splitlines()), type(e).__name__)[:160]
    raise UserError(f"{path} is refused, it is not a file of tensors alone ({reason})") from e
  config = {}
  if isinstance(table, Mapping) and isinstance(table.get("state_dict"), Mapping):
    metadata, table = table.get("metadata"), table["state_dict"]
    config = metadata.get("kwargs", {}) if isinstance(metadata, Mapping) else {}
  if not isinstance(table, Mapping) or not all(isinstance(t, torch.Tensor) for t in table.values()):
    raise UserError(f"{path} is refused, it is not a table of tensors")

  def read(tensor):
    # numpy has no bfloat16 of its own, and float32 holds all of its values.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

  found = {name: (tuple(t.shape), lambda t=t: read(t)) for name, t in table.items()}
  return found, dict(config)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A file that holds one JSON object; raises UserError for any other."""
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError as e:
    raise UserError(f"{path.parent} has no {path.name}; give the folder of a checkpoint") from e
  except (OSError, ValueError, RecursionError) as e:
    raise UserError(f"{path} cannot be understood ({e}); fetch it again") from e
  if not isinstance(value, dict):
    raise UserError(f"{path} cannot be understood; fetch it again")
  return value
