"""Conditions as data: what a batch row carries of each, and its null.

A generator reads conditions by name, and a table of routes says how they enter it, see
`models.conditioning`. An entry of the config's "conditions" says what such a condition is:

| kind | entry of a row | null |
|---|---|---|
| text | {"ids" int32 (S,) or "features" (S, E), "mask" bool (S,)} | no token |
| frames | features (t, E) or {"image" uint8 (T, H, W, 3), "at" (t,), "mask" bool (t,)} | zeros |
| image | {"image" uint8 (N, H, W, 3), "mask" bool (N,)} | no image |
| latent | float32 (t, h, w, C + 1), a latent and where it is known | zeros |
| class_id | int32 () | the number of classes |
| mask | bool (t, h, w) | nothing |

(t, h, w) is the grid of the latent that is generated. Text comes from the section "text", frames
from that of a soundtrack's data, latents from the clips. Values of the others are in
`captions.jsonl` under the name of the condition, and a request gives them by name too: the number
of a class, image files, a mask as `.npy`. A record without a value gives the null or, where there
is one, the entry's `constant`.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.media import stills
from mg_jax.data.media.containers import MediaError
from mg_jax.data.schema import Batch, Record

Grid = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class View:
  """What a row takes of its record, drawn once for all of its conditions.

  Attributes:
    grid: (t, h, w) of the row's latent.
    wording, caption: which of the captions, and its text.
    tags: prefix of a prompt, as arguments of a `Reader`.
    start: the first latent, in those of the record.
    length: latents that are real.
    mean, std: per channel; empty for latents stored normalised.
  """

  grid: Grid
  wording: int = 0
  caption: str = ""
  tags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  start: int = 0
  length: int = 0
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()


@runtime_checkable
class Condition(Protocol):
  """One condition. Picklable."""

  def row(self, name: str, record: Record, view: View) -> Any:
    """The entry of a batch row, of the condition called `name`."""
    ...

  def null(self, grid: Grid) -> Any:
    """The entry that says nothing, in the shapes that the model gets."""
    ...


@runtime_checkable
class Given(Condition, Protocol):
  """A condition whose values are given, in a caption file or a request."""

  def read(self, name: str, value: Any, root: str = "") -> Any:
    """What a record holds of a given value.

    Args:
      name: of the condition.
      value: from JSON or a command line.
      root: the folder that file names are relative to, and may not leave; "" for any path.

    Raises:
      UserError: if it is no such value, or its file cannot be used.
    """
    ...


def check_known(values: Mapping[str, Any], found: Mapping[str, Condition]) -> None:
  """Raises UserError if a request gives a value of no condition."""
  for name in values:
    if name not in found:
      known = ", ".join(found) or "none"
      raise UserError(f"this model has no condition {name!r}; it has {known}")


@dataclasses.dataclass(frozen=True)
class Constant:
  """A condition with the same value in all records, whatever they hold.

  Attributes:
    condition: the condition.
    value: as a record holds it; None for the null.
  """

  condition: Condition
  value: Any = None

  def row(self, name: str, record: Record, view: View) -> Any:
    if self.value is None:
      return self.null(view.grid)
    return self.condition.row(name, {given_name(name): self.value}, view)

  def null(self, grid: Grid) -> Any:
    return self.condition.null(grid)


@dataclasses.dataclass(frozen=True)
class Default(Constant):
  """A condition whose value is given, with a constant for the records that have none."""

  condition: Given

  def row(self, name: str, record: Record, view: View) -> Any:
    key = given_name(name)
    if record.get(key) is None and self.value is not None:
      record = {**record, key: self.value}
    return self.condition.row(name, record, view)

  def read(self, name: str, value: Any, root: str = "") -> Any:
    return self.condition.read(name, value, root)


def given_name(condition: str) -> str:
  """Where a record keeps the value of a condition."""
  return f"given/{condition}"


@dataclasses.dataclass(frozen=True)
class Frames:
  """The video frame that is nearest in time to the start of each latent.

  A record holds "image" (T, H, W, 3) uint8 or, of a frozen tower, "features" (T, E), or neither.

  Attributes:
    rate: latents a second.
    fps: frames a second.
    size: side of the frames.
    features: E of a frozen tower; 0 where the generator encodes the frames.
  """

  rate: float
  fps: float
  size: int
  features: int = 0

  def frames(self, latents: int) -> int:
    """Images of a row: as many as its latents can be nearest to."""
    return math.ceil((latents - 1) * self.fps / self.rate - 1e-9) + 1

  def row(self, name: str, record: Record, view: View) -> Any:
    shown = record.get("features" if self.features else "image")
    entry, count = self.null(view.grid), 0 if shown is None else len(shown)
    if not count:
      return entry
    latents = view.grid[0]
    at = nearest_frames(count, self.fps, latents, self.rate, start=view.start)
    real = np.arange(latents) < view.length
    if self.features:
      return np.where(real[:, None], shown[at], 0).astype(shown.dtype)
    first = int(at[0])
    seen = shown[first : first + len(entry["image"])]
    entry["image"][: len(seen)] = seen
    return entry | {"at": np.where(real, at - first, 0).astype(np.int32), "mask": real}

  def null(self, grid: Grid) -> Any:
    latents = grid[0]
    if self.features:
      return np.zeros((latents, self.features), np.float16)
    return {
      "image": np.zeros((self.frames(latents), self.size, self.size, 3), np.uint8),
      "at": np.zeros(latents, np.int32),
      "mask": np.zeros(latents, bool),
    }


def nearest_frames(
  count: int, fps: float, latents: int, rate: float, *, start: int = 0
) -> np.ndarray:
  """The frame that is nearest in time to the start of each latent, int32 (latents,).

  Args:
    count: frames of the video, frame k at k / fps s; the last one stands for all that follows.
    fps: their rate.
    latents: how many, latent l from l / rate s on.
    rate: latents a second.
    start: the number of the first latent.
  """
  places = np.floor((start + np.arange(latents)) * (fps / rate) + 0.5)
  return np.clip(places, 0, max(count - 1, 0)).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Image:
  """Pictures of one size, such as a reference face.

  Attributes:
    size: side in pixels.
    count: N, most pictures of a record.
  """

  size: int
  count: int = 1

  def row(self, name: str, record: Record, view: View) -> Batch:
    entry, found = self.null(view.grid), record.get(given_name(name))
    if found is None:
      return entry
    pictures = np.asarray(found, np.uint8).reshape(-1, *np.shape(found)[-3:])[: self.count]
    if pictures.shape[1:] != (self.size, self.size, 3):
      raise UserError(
        f"condition {name!r} has a picture of {pictures.shape[1:]}; config "
        f"conditions.{name}.size is {self.size}"
      )
    entry["image"][: len(pictures)] = pictures
    return {"image": entry["image"], "mask": np.arange(self.count) < len(pictures)}

  def read(self, name: str, value: Any, root: str = "") -> np.ndarray:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
      raise UserError(f"condition {name!r} is {value!r}; give an image file, or a list of them")
    if len(names) > self.count:
      raise UserError(
        f"condition {name!r} has {len(names)} images; config conditions.{name}.count is "
        f"{self.count}"
      )
    try:
      found = [stills.read(_path(name, n, root), size=(self.size, self.size)) for n in names]
    except MediaError as error:
      raise UserError(f"condition {name!r}: {error}") from error
    return np.stack(found)

  def null(self, grid: Grid) -> Batch:
    return {
      "image": np.zeros((self.count, self.size, self.size, 3), np.uint8),
      "mask": np.zeros(self.count, bool),
    }


@dataclasses.dataclass(frozen=True)
class Latent:
  """A second latent of the clip beside x_t, its last channel saying where it is known.

  Attributes:
    channels: C.
    of: what is encoded: "first_frame", the first frame as a still image, which then stands at the
      first latent frame.
  """

  channels: int
  of: Literal["first_frame"] = "first_frame"

  def row(self, name: str, record: Record, view: View) -> np.ndarray:
    latent = record.get(latent_name(name))
    if latent is None:
      return self.null(view.grid)
    latent = np.asarray(latent, np.float32)
    if view.std:
      latent = (latent - np.float32(view.mean)) / np.float32(view.std)
    return self.place(latent, view.grid)

  def place(self, latent_THWC: np.ndarray, grid: Grid) -> np.ndarray:
    """The entry of a normalised latent, which may have fewer frames than the grid.

    Raises:
      UserError: it is of another size.
    """
    entry, frames = self.null(grid), len(latent_THWC)
    if latent_THWC.shape[1:] != (*grid[1:], self.channels) or frames > grid[0]:
      raise UserError(f"a latent of {latent_THWC.shape} does not fit the grid {grid}")
    entry[:frames, ..., :-1], entry[:frames, ..., -1] = latent_THWC, 1
    return entry

  def null(self, grid: Grid) -> np.ndarray:
    return np.zeros((*grid, self.channels + 1), np.float32)


def latent_name(condition: str) -> str:
  """Where a record keeps the latent of a condition."""
  return f"latent/{condition}"


@dataclasses.dataclass(frozen=True)
class ClassId:
  """One of several classes, by number.

  Attributes:
    classes: how many.
  """

  classes: int

  def row(self, name: str, record: Record, view: View) -> np.ndarray:
    found = record.get(given_name(name))
    if found is None:
      return self.null(view.grid)
    return np.int32(self._checked(name, int(found)))

  def read(self, name: str, value: Any, root: str = "") -> int:
    del root
    try:
      number = int(value)
    except (TypeError, ValueError, OverflowError):
      number = -1
    if isinstance(value, bool | float) or number < 0:
      raise UserError(f"condition {name!r} is {value!r}; give the number of a class")
    return self._checked(name, number)

  def _checked(self, name: str, number: int) -> int:
    if not 0 <= number < self.classes:
      raise UserError(
        f"condition {name!r} has class {number}; classes are 0..{self.classes - 1}"
      )
    return number

  def null(self, grid: Grid) -> np.ndarray:
    return np.int32(self.classes)


@dataclasses.dataclass(frozen=True)
class Mask:
  """A mask over the latent, for data of one size whose records are taken whole."""

  def row(self, name: str, record: Record, view: View) -> np.ndarray:
    found = record.get(given_name(name))
    if found is None:
      return self.null(view.grid)
    if np.shape(found) != tuple(view.grid):
      raise UserError(
        f"condition {name!r} has a mask of {np.shape(found)}, but the latent is of {view.grid}"
      )
    return np.asarray(found, bool)

  def read(self, name: str, value: Any, root: str = "") -> np.ndarray:
    if not isinstance(value, str):
      raise UserError(f"condition {name!r} is {value!r}; give an .npy file")
    path = _path(name, value, root)
    try:
      mask = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
      raise UserError(
        f"condition {name!r}: {path} cannot be read as an .npy file ({error})"
      ) from error
    if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.ndim != 3:
      raise UserError(f"condition {name!r}: {path} has no bool array (t, h, w)")
    return mask

  def null(self, grid: Grid) -> np.ndarray:
    return np.zeros(grid, bool)


def _path(name: str, file: str, root: str) -> str:
  if not root:
    return file
  if os.path.isabs(file) or ".." in pathlib.PurePath(file).parts:
    raise UserError(f"condition {name!r} names {file!r}; give a file of the folder {root}")
  return os.path.join(root, file)
