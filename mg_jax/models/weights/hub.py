"""Checkpoints as the hub keeps them: folders with a config and weights, in one file or in shards.

In the folder of a whole generator, the parts have folders of their own: `text_encoder_2` a text
encoder, `tokenizer_2` its tokenizer, `vae` the autoencoder.

Safetensors are read as they are, files of torch as weights only: nothing in either is run. Kernels
that are kept as a norm and a direction, `weight_g` and `weight_v`, are read as the `weight` that
they make, or on demand as they are. Newer files name the two `parametrizations.weight.original0`
and 1, which is read as the same.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data import tensors

CONFIG = "config.json"
# Of transformers, diffusers, open_clip and the codecs of audio, with their configs; files that
# cannot hold code come first.
CHECKPOINTS = {
  "model.safetensors": CONFIG,
  "diffusion_pytorch_model.safetensors": CONFIG,
  "open_clip_model.safetensors": "open_clip_config.json",
  "pytorch_model.bin": CONFIG,
  "diffusion_pytorch_model.bin": CONFIG,
  "open_clip_pytorch_model.bin": "open_clip_config.json",
  "weights.pth": CONFIG,
}
# Of a tokenizer, in the order they are read in.
TOKENIZERS = (
  "tokenizer.json", "tokenizer_config.json", "spiece.model", "vocab.json", "merges.txt",
  "special_tokens_map.json", "bpe_simple_vocab_16e6.txt.gz",
)  # fmt: skip
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
# Two spellings of torch's weight norm: the newer, and the older that is used here.
_NORM = (r"parametrizations\.weight\.original0$", "weight_g")
_DIRECTION = (r"parametrizations\.weight\.original1$", "weight_v")


def fetch(name: str) -> pathlib.Path:
  """A folder as it is; otherwise, for OWNER/NAME, a download by `huggingface_hub`.

  OWNER/NAME/FOLDER is one folder of a repository, such as the `vae` of a generator. Only what is
  read is downloaded: the weights in one format, the config, the tokenizer.

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
    wanted = _wanted(huggingface_hub.list_repo_files(repository), inside, name)
    folder = huggingface_hub.snapshot_download(repository, allow_patterns=wanted)
    return pathlib.Path(folder) / inside
  except UserError:
    raise
  except Exception as e:  # of the network, the name or the rights, in many classes
    reason = next(iter(str(e).splitlines()), type(e).__name__)[:160]
    raise UserError(f"{name} is no folder here and could not be fetched: {reason}") from e


def _wanted(files: Collection[str], inside: str, name: str) -> list[str]:
  """Of the files of a repository, those that a conversion of its folder `inside` reads."""
  start = f"{inside}/" if inside else ""
  here = {file.removeprefix(start) for file in files if file.startswith(start)}
  weights = _choose(here, name)
  stem, suffix = os.path.splitext(weights)
  shard = re.compile(rf"{re.escape(stem)}(-\d+-of-\d+)?{re.escape(suffix)}(\.index\.json)?")
  small = {*TOKENIZERS, CHECKPOINTS[weights]}
  wanted = [start + file for file in sorted(here) if file in small or shard.fullmatch(file)]
  beside = _tokenizer_beside(inside)
  return wanted + [f"{beside}/{file}" for file in TOKENIZERS if f"{beside}/{file}" in files]


def _choose(files: Collection[str], where: str) -> str:
  """The name in `CHECKPOINTS` of the weights among the files of a folder, which may have folders.

  Raises:
    UserError: when there are none.
  """
  for name in CHECKPOINTS:
    if name in files or f"{name}.index.json" in files:
      return name
  parts = sorted(file.removesuffix(f"/{CONFIG}") for file in files if file.endswith(f"/{CONFIG}"))
  others = sorted(file for file in files if file.endswith(_WEIGHTS) and "/" not in file)
  hint = "give the folder of a checkpoint"
  if parts:
    hint = f"give one of its folders: {', '.join(f'{where}/{part}' for part in parts)}"
  elif others:
    hint = f"it has {others[0]}, which is read under one of these names only"
  raise UserError(f"{where} holds none of {', '.join(CHECKPOINTS)}; {hint}")


def _tokenizer_beside(folder: str) -> str:
  """Beside the folder of a part of a generator, that of its tokenizer."""
  parent, name = os.path.split(folder)
  return os.path.join(parent, re.sub("^text_encoder", "tokenizer", name))


def tokenizer_files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
  """The files of the tokenizer of a checkpoint: in its folder, or as a generator lays them out."""
  folder = os.path.abspath(folder)
  for place in (folder, _tokenizer_beside(folder)):
    found = [path for name in TOKENIZERS if (path := pathlib.Path(place, name)).is_file()]
    if found:
      return found
  return []


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
    files = {path.relative_to(self.folder).as_posix() for path in self.folder.glob("*")}
    files |= {f"{path.parent.name}/{CONFIG}" for path in self.folder.glob(f"*/{CONFIG}")}
    weights = _choose(files, str(folder))
    for shard in self._shards(weights):
      held |= self._open(shard)
    if fold:
      self._fold_norms()
    self.config_path = self.folder / CHECKPOINTS[weights]
    alone = held and not self.config_path.is_file()
    self.config = held if alone else read_json(self.config_path)

  def read(self, name: str) -> np.ndarray:
    """One array, in memory of its own."""
    return self._readers[name]()

  def _shards(self, whole: str) -> list[pathlib.Path]:
    index = self.folder / f"{whole}.index.json"
    if not index.is_file():
      return [self.folder / whole]
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
      raise UserError(f"{index} names no shards; fetch it again")
    # Shards lie in the folder: a name with a path in it is not followed.
    shards = [
      self.folder / name for name in sorted({pathlib.PurePath(str(n)).name for n in table.values()})
    ]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
      raise UserError(
        f"{self.folder} lacks {', '.join(missing)}, which its index names; fetch what is missing"
      )
    return shards

  def _open(self, shard: pathlib.Path) -> dict[str, Any]:
    """Adds the arrays of a file; returns the config it holds itself, mostly none."""
    found, config = open_arrays(shard)
    # As training over several devices leaves them.
    if found and all(name.startswith("module.") for name in found):
      found = {name.removeprefix("module."): entry for name, entry in found.items()}
    found = {re.sub(*_NORM, name): entry for name, entry in found.items()}
    found = {re.sub(*_DIRECTION, name): entry for name, entry in found.items()}
    twice = sorted(set(found) & set(self._readers))
    if twice:
      raise UserError(f"{shard} repeats {twice[0]}, which another shard holds too; fetch it again")
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
    raise UserError(
      f"{path} is refused, as it is cut off or holds more than tensors ({reason}); fetch it again, "
      "or give safetensors"
    ) from e
  config = {}
  if isinstance(table, Mapping) and isinstance(table.get("state_dict"), Mapping):
    metadata, table = table.get("metadata"), table["state_dict"]
    config = metadata.get("kwargs", {}) if isinstance(metadata, Mapping) else {}
  def plain(tensor: Any) -> bool:
    dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
    return dense and not tensor.is_quantized

  if not isinstance(table, Mapping) or not all(map(plain, table.values())):
    raise UserError(
      f"{path} is refused, as it is not a table of plain tensors; give safetensors, or the state "
      "dict alone"
    )

  def read(tensor):
    # Types that numpy does not have itself; float32 holds all of their values.
    own = (torch.float16, torch.float32, torch.float64)
    wide = tensor.is_floating_point() and tensor.dtype not in own
    return (tensor.float() if wide else tensor).detach().numpy()

  found = {name: (tuple(t.shape), lambda t=t: read(t)) for name, t in table.items()}
  return found, dict(config)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A file that holds one JSON object; raises UserError for any other."""
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError as e:
    raise UserError(f"{path.parent} has no {path.name}; put that of the weights there") from e
  except (OSError, ValueError, RecursionError) as e:
    raise UserError(f"{path} cannot be understood ({e}); fetch it again") from e
  if not isinstance(value, dict):
    raise UserError(f"{path} cannot be understood; fetch it again")
  return value
