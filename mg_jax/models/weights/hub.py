"""Checkpoints in the hub's layout: folders with a config and weights, in one file or in shards.

The folder of a whole generator has a subfolder per component: `text_encoder_2` a text encoder,
`tokenizer_2` its tokenizer, `vae` the autoencoder.

Torch files are read as weights only: no code in any file is executed. Kernels stored with weight
norm, as `weight_g` and `weight_v`, are folded into `weight`, or on request read as they are. Newer
files name the two `parametrizations.weight.original0` and 1, which is equivalent.
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
# Weights of transformers, diffusers, open_clip and audio codecs, with their configs; files that
# cannot contain code come first.
CHECKPOINTS = {
  "model.safetensors": CONFIG,
  "diffusion_pytorch_model.safetensors": CONFIG,
  "open_clip_model.safetensors": "open_clip_config.json",
  "pytorch_model.bin": CONFIG,
  "diffusion_pytorch_model.bin": CONFIG,
  "open_clip_pytorch_model.bin": "open_clip_config.json",
  "weights.pth": CONFIG,
}
# Files of a tokenizer, in the order in which they are read.
TOKENIZERS = (
  "tokenizer.json", "tokenizer_config.json", "spiece.model", "vocab.json", "merges.txt",
  "special_tokens_map.json", "bpe_simple_vocab_16e6.txt.gz",
)  # fmt: skip
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
# Newer names of torch's weight norm, and the older ones used here.
_NORM = (r"parametrizations\.weight\.original0$", "weight_g")
_DIRECTION = (r"parametrizations\.weight\.original1$", "weight_v")


def fetch(name: str) -> pathlib.Path:
  """Path of a local folder; otherwise, for OWNER/NAME, a download by `huggingface_hub`.

  OWNER/NAME/FOLDER is one folder of a repository, such as the `vae` of a generator. Only needed
  files are downloaded: the weights in one format, the config, the tokenizer.

  Raises:
    UserError: if it is neither, or cannot be fetched.
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
      f"{name} is not a local folder, and fetching it needs: pip install -e .[import]"
    ) from e
  try:
    repository, inside = match[1], match[2].lstrip("/")
    wanted = _wanted(huggingface_hub.list_repo_files(repository), inside, name)
    folder = huggingface_hub.snapshot_download(repository, allow_patterns=wanted)
    return pathlib.Path(folder) / inside
  except UserError:
    raise
  except Exception as e:  # many classes: network, name, permissions
    reason = next(iter(str(e).splitlines()), type(e).__name__)[:160]
    raise UserError(f"{name} is not a local folder and could not be fetched: {reason}") from e


def _wanted(files: Collection[str], inside: str, name: str) -> list[str]:
  """The files of a repository that a conversion of its folder `inside` reads."""
  start = f"{inside}/" if inside else ""
  here = {file.removeprefix(start) for file in files if file.startswith(start)}
  weights = _choose(here, name)
  stem, suffix = os.path.splitext(weights)
  shard = re.compile(rf"{re.escape(stem)}(-\d+-of-\d+)?{re.escape(suffix)}(\.index\.json)?")
  small = {*TOKENIZERS, CHECKPOINTS[weights]}
  wanted = [start + file for file in sorted(here) if file in small or shard.fullmatch(file)]
  tokenizer = _tokenizer_of(inside)
  return wanted + [f"{tokenizer}/{file}" for file in TOKENIZERS if f"{tokenizer}/{file}" in files]


def _choose(files: Collection[str], where: str) -> str:
  """The name in `CHECKPOINTS` of the weights among the files of a folder and its subfolders.

  Raises:
    UserError: if there are none.
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
    hint = f"it has {others[0]}, which must have one of these names"
  raise UserError(f"{where} has none of {', '.join(CHECKPOINTS)}; {hint}")


def _tokenizer_of(folder: str) -> str:
  """The tokenizer's folder that belongs to the folder of a text encoder in a generator."""
  parent, name = os.path.split(folder)
  return os.path.join(parent, re.sub("^text_encoder", "tokenizer", name))


def tokenizer_files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
  """The tokenizer files of a checkpoint: in its folder, or in a generator's tokenizer folder."""
  folder = os.path.abspath(folder)
  for place in (folder, _tokenizer_of(folder)):
    files = [path for name in TOKENIZERS if (path := pathlib.Path(place, name)).is_file()]
    if files:
      return files
  return []


class Checkpoint:
  """The config and the arrays of a Hugging Face folder, in one file or in shards with an index.

  A torch file with `state_dict` and `metadata` may replace both: the `kwargs` of its metadata are
  the config of a folder without config.json.

  Args:
    folder: of the checkpoint.
    fold: folds each `weight_g` and `weight_v` into one `weight`.

  Raises:
    UserError: if the folder, its config, its weights or a shard is missing or damaged.
  """

  def __init__(self, folder: str | os.PathLike[str], *, fold: bool = True):
    self.folder = pathlib.Path(folder)
    if not self.folder.is_dir():
      raise UserError(f"{folder}: there is no such folder; give the folder of a checkpoint")
    self._readers: dict[str, Callable[[], np.ndarray]] = {}
    self.shapes: dict[str, tuple[int, ...]] = {}
    metadata: dict[str, Any] = {}
    files = {path.relative_to(self.folder).as_posix() for path in self.folder.glob("*")}
    files |= {f"{path.parent.name}/{CONFIG}" for path in self.folder.glob(f"*/{CONFIG}")}
    weights = _choose(files, str(folder))
    for shard in self._shards(weights):
      metadata |= self._open(shard)
    if fold:
      self._fold_norms()
    self.config_path = self.folder / CHECKPOINTS[weights]
    alone = metadata and not self.config_path.is_file()
    self.config = metadata if alone else read_json(self.config_path)

  def read(self, name: str) -> np.ndarray:
    """Reads one array into new memory."""
    return self._readers[name]()

  def _shards(self, whole: str) -> list[pathlib.Path]:
    index = self.folder / f"{whole}.index.json"
    if not index.is_file():
      return [self.folder / whole]
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
      raise UserError(f"{index} names no shards; fetch it again")
    # Shards are in the folder: paths in names are not followed.
    shards = [
      self.folder / name for name in sorted({pathlib.PurePath(str(n)).name for n in table.values()})
    ]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
      raise UserError(
        f"{self.folder} lacks {', '.join(missing)}, which its index names; fetch the missing files"
      )
    return shards

  def _open(self, shard: pathlib.Path) -> dict[str, Any]:
    """Adds the arrays of a file; returns the config in it, usually empty."""
    arrays, config = open_arrays(shard)
    # The prefix of torch's data parallelism.
    if arrays and all(name.startswith("module.") for name in arrays):
      arrays = {name.removeprefix("module."): entry for name, entry in arrays.items()}
    arrays = {re.sub(*_NORM, name): entry for name, entry in arrays.items()}
    arrays = {re.sub(*_DIRECTION, name): entry for name, entry in arrays.items()}
    twice = sorted(set(arrays) & set(self._readers))
    if twice:
      raise UserError(f"{shard} repeats {twice[0]}, which another shard has too; fetch it again")
    for name, (shape, read) in arrays.items():
      self.shapes[name], self._readers[name] = tuple(shape), read
    return config

  def _fold_norms(self) -> None:
    """Replaces each norm and direction by one `weight`."""
    for norm in [name for name in self.shapes if name.endswith("weight_g")]:
      direction = norm.removesuffix("g") + "v"
      if direction in self.shapes:
        del self.shapes[norm]
        weight, pair = norm.removesuffix("_g"), (self._readers.pop(norm), self._readers[direction])
        self.shapes[weight] = self.shapes.pop(direction)
        self._readers[weight] = lambda pair=pair: _fold(*(read() for read in pair))
        del self._readers[direction]


def _fold(norm: np.ndarray, direction: np.ndarray) -> np.ndarray:
  """The kernel of torch's weight_norm, with norms along the first axis."""
  norm, direction = norm.astype(np.float32), direction.astype(np.float32)
  axes = tuple(range(1, direction.ndim))
  length = np.sqrt(np.sum(np.square(direction), axis=axes, keepdims=True))
  # A zero direction gives NaN, which is rejected later.
  with np.errstate(invalid="ignore", divide="ignore"):
    return norm * (direction / length)


def open_arrays(
  path: str | os.PathLike[str],
) -> tuple[dict[str, tuple[tuple[int, ...], Callable[[], np.ndarray]]], dict[str, Any]]:
  """The arrays of a file, name -> (shape, reader); and the config in it, if any.

  A torch file is read as weights only: no code in it is executed.

  Raises:
    UserError: if the file is missing, damaged or of another kind.
  """
  path = pathlib.Path(path)
  if path.suffix == ".safetensors":
    file = tensors.TensorFile(path)
    return {name: (e.shape, lambda n=name: file.read(n)) for name, e in file.entries.items()}, {}
  try:
    import torch
  except ImportError as e:
    raise UserError(f"{path.name} needs torch to be read: pip install -e .[import]") from e
  try:
    table = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
  except Exception as e:  # torch raises many classes on an invalid file
    reason = next(iter(str(e).splitlines()), type(e).__name__)[:160]
    raise UserError(
      f"{path} is rejected, as it is truncated or contains more than tensors ({reason}); fetch it "
      "again, or give safetensors"
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
      f"{path} is rejected, as it is not a table of plain tensors; give safetensors, or the state "
      "dict alone"
    )

  def read(tensor):
    # Dtypes that numpy lacks; float32 represents all of their values.
    own = (torch.float16, torch.float32, torch.float64)
    wide = tensor.is_floating_point() and tensor.dtype not in own
    return (tensor.float() if wide else tensor).detach().numpy()

  arrays = {name: (tuple(t.shape), lambda t=t: read(t)) for name, t in table.items()}
  return arrays, dict(config)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file with one JSON object; raises UserError on any other."""
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError as e:
    raise UserError(f"{path.parent} has no {path.name}; put that of the weights there") from e
  except (OSError, ValueError, RecursionError) as e:
    raise UserError(f"{path} is not valid JSON ({e}); fetch it again") from e
  if not isinstance(value, dict):
    raise UserError(f"{path} is not a JSON object; fetch it again")
  return value
