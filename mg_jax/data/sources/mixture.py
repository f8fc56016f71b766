"""The data section of a config: one recipe of clips and images, or a mixture of several.

One recipe serves every stage: the autoencoder trains on clips, encoding iterates over them once,
the generator trains on the latents, and a contrastive model on middle frames. Images are frames of
the clips, or still images in their own folder. Single-bucket recipes set `frames`, `height`,
`width` and `fps`; bucketed ones set a duration table and a base resolution instead [MG 3.2.1]. A
mixture has several such recipes by name, with weights.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.data import buckets
from mg_jax.data.media.files import Kind
from mg_jax.data.sources import toy
from mg_jax.data.transforms import CaptionMix

_COUNTS = (
  "clips", "held_out", "frames", "height", "width", "windows", "global_batch", "short_length",
)
SIDE_MULTIPLE = 16  # of bucketed sides, as `buckets.frame_sizes` rounds them
# What an entry of a mixture cannot set: fields of the batches of a run.
_OF_RUN = (
  "mixture", "lengths", "global_batch", "image_batch", "camera_tags", "captions", "short_length",
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The data of a run.

  Attributes:
    source: "toy" renders the toy world, "folder" reads video files with captions.
    path: the folder of clips (source "folder"); images in it are skipped. May be empty if only
      `images` are trained on.
    images: a folder of still images with captions (PNG, JPEG, WebP, see `data.media.stills`), used
      by image batches and contrastive models instead of frames of the clips, for any `source`. May
      be the same folder as `path`.
    cache: where the toy world is stored once built (source "toy").
    world: "simple", "pairs", "signs", "full" or "stills" toy world, or "sounds" or "orchestra" with
      sound, see `world.scene.sampling.WorldConfig`.
    clips: toy clips to train on.
    held_out: toy clips held out.
    variants: further wordings of each toy caption.
    durations: "single" is one bucket of `frames` at `fps`; the others are the paper's tables for
      pre-training ("paper"), finetuning ("sft") and ablations ("ablation").
    aspects: with such a table, "five" aspect ratios around `height` x `height` pixels, or "one",
      `height` x `width`.
    frames, height, width, fps: of the single bucket; sides in pixels.
    windows: maximum number of clips per file of a folder.
    holdout: how a folder is split: "file" by name, "tail" the last fifth of each file (images by
      name), "none".
    caption_required: whether a clip without a caption is an error.
    lengths: frame counts of the video batches of an autoencoder, equally frequent, cropped at a
      random start of a clip; () for whole clips.
    image_weight, video_weight: blocks of image and video batches per window of the stream; the
      paper's joint stages use 1 and 10, image stages 1 and 0 [MG 3.2.2].
    global_batch: rows of a batch over all processes.
    image_batch: rows of an image batch in joint training with videos, a multiple of `global_batch`;
      0 for the same number.
    bad_limit: fraction of a source, 0 to 1, that may be unreadable in training; unreadable records
      are replaced by others.
    camera_tags: whether prompts start with the camera motion, if known [MG 3.2.1].
    captions: which wordings are used for frames, see `transforms.FrameRow`.
    short_length: maximum number of tokens of a short caption.
    seed: of the world and of every order.
    mixture: entries by name, each with the fields that differ from these, its "weight" (1), and
      "constants": condition -> what all its records have of it, None for the null. Entries are read
      in whole batches, as often as their weights say.
  """

  source: Literal["toy", "folder"] = "toy"
  path: str = ""
  images: str = ""
  cache: str = "data"
  world: toy.World = "simple"
  clips: int = 4000
  held_out: int = 256
  variants: int = 0
  durations: Literal["single", "paper", "sft", "ablation"] = "single"
  aspects: Literal["five", "one"] = "five"
  frames: int = 16
  height: int = 32
  width: int = 32
  fps: float = 8.0
  windows: int = 1
  holdout: Literal["file", "tail", "none"] = "file"
  caption_required: bool = True
  lengths: tuple[int, ...] = ()
  image_weight: int = 0
  video_weight: int = 1
  global_batch: int = 16
  image_batch: int = 0
  bad_limit: float = 0.05
  camera_tags: bool = False
  captions: CaptionMix = "all"
  short_length: int = 77
  seed: int = 0
  mixture: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict, hash=False)

  def __post_init__(self):
    if self.image_weight < 0 or self.video_weight < 0 or not self.image_weight + self.video_weight:
      raise UserError(
        f"image_weight {self.image_weight} and video_weight {self.video_weight} leave nothing to "
        "train on; make one of them positive"
      )
    for name in _COUNTS:
      if getattr(self, name) < 1:
        raise UserError(f"data.{name} is {getattr(self, name)}; it must be at least 1")
    if not 0 < self.fps < math.inf:
      raise UserError(f"data.fps is {self.fps}; it must be positive")
    if not 0 <= self.bad_limit <= 1:
      raise UserError(f"data.bad_limit is {self.bad_limit}; give a fraction from 0 to 1")
    if self.image_batch < 0 or self.image_batch % self.global_batch:
      raise UserError(
        f"data.image_batch is {self.image_batch}; give a multiple of data.global_batch "
        f"({self.global_batch}), or 0 for batches of that size"
      )
    if self.image_batch and not self.video_weight:
      raise UserError(
        "data.image_batch needs videos (data.video_weight); for images alone set data.global_batch"
      )
    if self.variants < 0 or not 0 <= self.seed < 2**32:
      raise UserError(
        f"data.variants is {self.variants} and data.seed {self.seed}; neither may be negative, nor "
        "the seed 2**32 or more"
      )
    shortest = (
      self.frames if self.durations == "single"
      else min(row.frames for row in buckets.TABLES[self.durations])
    )  # fmt: skip
    if len(set(self.lengths)) < len(self.lengths) or any(
      not 1 <= length <= shortest for length in self.lengths
    ):
      raise UserError(
        f"data.lengths is {self.lengths}; give distinct frame counts from 1 to {shortest}"
      )
    for name in ("height", "width") if self.aspects == "one" else ("height",):
      if self.durations != "single" and getattr(self, name) % SIDE_MULTIPLE:
        raise UserError(
          f"data.{name} is {getattr(self, name)}; with durations {self.durations!r} it must be a "
          f"multiple of {SIDE_MULTIPLE}"
        )
    # Raises on entries that cannot be.
    _ = self.parts

  @property
  def parts(self) -> dict[str, "Part"]:
    """The entries of the mixture by name; without one, the recipe itself under an empty name.

    Raises:
      UserError: on an entry that cannot be.
    """
    if not self.mixture:
      return {"": Part(self)}
    return {name: _part(self, name, dict(entry)) for name, entry in sorted(self.mixture.items())}

  @property
  def kinds(self) -> dict[Kind, Fraction]:
    """Shares of "video" and "image" in the batches, those that are not 0.

    Raises:
      UserError: if `images` is set but images have no weight.
    """
    shares: dict[Kind, Fraction] = {"video": Fraction(0), "image": Fraction(0)}
    for _, kind, share in groups(self):
      shares[kind] += share
    return {kind: share for kind, share in shares.items() if share}

  def rows(self, kind: Kind) -> int:
    """Rows of a batch over all processes."""
    return self.image_batch if kind == "image" and self.image_batch else self.global_batch

  def buckets(self, kind: Kind = "video") -> tuple[buckets.Bucket, ...]:
    """Buckets of clips or images, in order of preference."""
    if self.durations == "single":
      seconds = self.frames / self.fps
      clip = buckets.Duration(seconds, math.inf, self.frames, clip_s=seconds)
      rows = (clip,) if kind == "video" else buckets.IMAGE_DURATIONS
    else:
      rows = buckets.TABLES[self.durations] if kind == "video" else buckets.IMAGE_DURATIONS
    if self.durations == "single" or self.aspects == "one":
      return tuple(buckets.Bucket(row, self.height, self.width) for row in rows)
    return buckets.make_buckets(rows, self.height)


@dataclasses.dataclass(frozen=True)
class Part:
  """An entry of a mixture.

  Attributes:
    data: its recipe, which is no mixture.
    weight: how often its batches come, relative to those of the others.
    constants: see `DataConfig.mixture`.
  """

  data: DataConfig
  weight: int = 1
  constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _part(config: DataConfig, name: str, fields: dict[str, Any]) -> Part:
  where = f"data.mixture.{name}"
  if not re.fullmatch(r"[a-z0-9_]+", name) or name in ("train", "validation"):
    raise UserError(
      f"{where}: an entry is named by lower-case letters, digits and _, and neither train nor "
      "validation"
    )
  weight, constants = fields.pop("weight", 1), fields.pop("constants", {})
  if not isinstance(weight, int) or weight < 1:
    raise UserError(f"{where}.weight is {weight!r}; give a whole number from 1")
  if not isinstance(constants, Mapping):
    raise UserError(f"{where}.constants is {constants!r}; give values by condition")
  for field in _OF_RUN:
    if field in fields:
      raise UserError(f"{where} sets {field}, which all entries share; set data.{field}")
  base = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
  del base["mixture"]
  return Part(configs.build(DataConfig, base | fields, where=where), weight, constants)


def groups(config: DataConfig) -> list[tuple[str, Kind, Fraction]]:
  """(entry, kind, share of the batches) of everything that a recipe reads.

  Raises:
    UserError: if an entry has a folder of images that have no weight.
  """
  parts, found = config.parts, []
  whole = sum(part.weight for part in parts.values())
  for name, part in parts.items():
    data = part.data
    if data.images and not data.image_weight:
      where = f"data.mixture.{name}" if name else "data"
      raise UserError(
        f"{where}.images is set but {where}.image_weight is 0; give it a weight"
      )
    pairs: dict[Kind, int] = {"video": data.video_weight, "image": data.image_weight}
    for kind, weight in pairs.items():
      if weight:
        found.append((name, kind, Fraction(part.weight * weight, whole * sum(pairs.values()))))
  return found


def held_out(config: DataConfig) -> dict[str, Kind]:
  """The kind of held-out clips that evaluations use of every entry: videos where it has them."""
  kinds: dict[str, Kind] = {}
  for name, kind, _ in groups(config):
    kinds.setdefault(name, kind)
  return kinds
