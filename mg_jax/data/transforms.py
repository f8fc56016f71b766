"""From a record to one row of a batch: clips to videos or images, cached latents to model input.

A transform is called as `transform(index, record, rng)`, where `rng` depends only on the feed's
seed and on the position in the stream, and returns a dictionary of arrays without the batch
dimension (see `schema`). Rows of one transform over one source have one shape.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.conditions import Condition, View
from mg_jax.data.schema import Batch, Record, Sample
from mg_jax.data.text.readers import Reader

CaptionMix = Literal["all", "short", "long", "mixed"]


class Transform(Protocol):
  """Turns record `index` of a source into one row; all randomness comes from `rng`."""

  def __call__(self, index: int, record: object, rng: np.random.Generator) -> Batch: ...


@dataclasses.dataclass(frozen=True)
class VideoRow:
  """Sample -> {"video" (T, H, W, 3) uint8, "frames" (), "index" ()}.

  Attributes:
    frames: None keeps the whole clip; a number takes that many consecutive frames from a random
      start, so 1 makes an image of a random frame.
  """

  frames: int | None = None

  def __call__(self, index: int, record: Sample, rng: np.random.Generator) -> Batch:
    clip, count = record.video, record.frames
    if self.frames is not None:
      if self.frames > len(clip):
        raise ValueError(f"clip {record.key!r} has {len(clip)} frames, fewer than {self.frames}")
      start = int(rng.integers(max(count - self.frames, 0) + 1))
      clip = clip[start : start + self.frames]
      count = min(count - start, self.frames)
    return {"video": clip, "frames": np.int32(count), "index": np.int32(index)}


@dataclasses.dataclass(frozen=True)
class LatentRow:
  """Cached latent -> {"latent" (t, h, w, C), "index" (), an entry of every condition}.

  The record holds "latent" of any float type, (t, h, w, C) or, of sound, (t, C); "fps"; "captions"
  (list of wordings) or "caption", of which one is drawn at random; and what its conditions read. A
  row of a given number of latents also has "length" (), how many of them are real, and zeros behind
  them; other rows have "fps" (), and their prompts name it where there is more than one latent
  frame, not for images [MG 3.1.4].

  Attributes:
    conditions: by name.
    mean: per channel, subtracted; empty for latents stored normalised.
    std: per channel, > 0, divided by; empty as `mean`.
    camera: whether the prompt starts with what the camera does, where the record says so.
    latents: of a row, from a random place where the record has more; 0 takes records whole.
    shift: whether that place is random, rather than the beginning.
  """

  conditions: Mapping[str, Condition]
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()
  camera: bool = False
  latents: int = 0
  shift: bool = True

  def __post_init__(self) -> None:
    if len(self.mean) != len(self.std) or any(not s > 0 for s in self.std):
      raise ValueError(f"mean and std must pair up and std be positive: {self.mean}, {self.std}")

  def __call__(self, index: int, record: Record, rng: np.random.Generator) -> Batch:
    latent = np.asarray(record["latent"], np.float32)
    latent = latent[:, None, None] if latent.ndim == 2 else latent
    start = 0
    if self.latents:
      spare = max(0, len(latent) - self.latents)
      start = int(rng.integers(spare + 1)) if self.shift else 0
      latent = latent[start : start + self.latents]
    length = len(latent)
    if self.std:
      latent = (latent - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
    row = {"index": np.int32(index)}
    tags = {}
    if self.latents:
      latent = np.pad(latent, ((0, self.latents - length), *[(0, 0)] * 3))
      row["length"] = np.int32(length)
    else:
      fps = float(record["fps"])
      tags = prompt_tags(fps, frames=length, camera=self.camera and record.get("camera", ""))
      row["fps"] = np.float32(fps)
    captions = record.get("captions") or [record.get("caption", "")]
    drawn = int(rng.integers(len(captions)))
    view = View(
      grid=latent.shape[:3], wording=drawn, caption=captions[drawn], tags=tags, start=start,
      length=length, mean=self.mean, std=self.std,
    )  # fmt: skip
    return {"latent": latent} | row | {
      name: condition.row(name, record, view) for name, condition in self.conditions.items()
    }


def prompt_tags(fps: float, *, frames: int, camera: str | bool = "") -> dict[str, Any]:
  """Tags in front of the prompt of a clip of so many (latent) frames [MG 3.1.4]."""
  return {"fps": fps if frames > 1 else None, "camera": camera or ""}


@dataclasses.dataclass(frozen=True)
class FrameRow:
  """Sample -> {"image" (H, W, 3) uint8, "text": {"ids", "mask"} (S,), "index" ()}.

  The image is the middle one of the real frames. One wording of the caption is drawn at random.

  Attributes:
    reader: of captions.
    captions: wordings to draw from: "all", those that are "short" or "long", or "mixed": as often
      short as long where a clip has both.
    short_length: most tokens of a short caption, the end token included.
  """

  reader: Reader
  captions: CaptionMix = "all"
  short_length: int = 77

  def __call__(self, index: int, record: Sample, rng: np.random.Generator) -> Batch:
    return {
      "image": record.video[record.frames // 2],
      "text": self.reader(self._draw(record, rng)),
      "index": np.int32(index),
    }

  def _draw(self, record: Sample, rng: np.random.Generator) -> str:
    wordings = (record.caption, *record.variants)
    if self.captions != "all":
      groups = {"short": [], "long": []}
      for wording in wordings:
        long = self.reader.exceeds(wording, self.short_length)
        groups["long" if long else "short"].append(wording)
      if self.captions == "mixed":
        wordings = groups[("short", "long")[int(rng.integers(2))]] or wordings
      elif not (wordings := groups[self.captions]):
        raise UserError(
          f"clip {record.key!r} has no {self.captions} caption (short ones have at most "
          f"{self.short_length} tokens); set data.captions=all or give it one"
        )
    return wordings[int(rng.integers(len(wordings)))]
