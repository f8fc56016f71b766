"""The data section of a config of clips and images.

One recipe serves every stage: the autoencoder trains on clips, encoding iterates over them once,
the generator trains on the latents, and a contrastive model on middle frames. Images are frames of
the clips, or still images in their own folder. Single-bucket recipes set `frames`, `height`,
`width` and `fps`; bucketed ones set a duration table and a base resolution instead [MG 3.2.1].
"""

import dataclasses
import math
from fractions import Fraction
from typing import ClassVar, Literal

from mg_jax.core.errors import UserError
from mg_jax.data import buckets
from mg_jax.data.media.files import Kind
from mg_jax.data.sources import toy
from mg_jax.data.sources.mixture import SourceConfig, groups
from mg_jax.data.transforms import CaptionMix

_COUNTS = ("frames", "height", "width", "windows", "short_length")
SIDE_MULTIPLE = 16  # of bucketed sides, as `buckets.frame_sizes` rounds them


@dataclasses.dataclass(frozen=True)
class DataConfig(SourceConfig):
  """The data of a run.

  Of a folder, images in it are skipped as clips; `path` may be empty if only `images` are trained
  on. A tail of an image is none: "tail" holds images out by name.

  Attributes:
    images: a folder of still images with captions (PNG, JPEG, WebP, see `data.media.stills`), used
      by image batches and contrastive models instead of frames of the clips, for any `source`. May
      be the same folder as `path`.
    cache: where the toy world is stored once built (source "toy").
    world: "simple", "pairs", "signs", "full", "stills" or "looks" toy world, or "sounds" or
      "orchestra" with sound, see `world.scene.sampling.WorldConfig`.
    variants: further wordings of each toy caption.
    durations: "single" is one bucket of `frames` at `fps`; the others are the paper's tables for
      pre-training ("paper"), finetuning ("sft") and ablations ("ablation").
    aspects: with such a table, "five" aspect ratios around `height` x `height` pixels, or "one",
      `height` x `width`.
    frames, height, width, fps: of the single bucket; sides in pixels.
    windows: maximum number of clips per file of a folder.
    caption_required: whether a clip without a caption is an error.
    lengths: frame counts of the video batches of an autoencoder, equally frequent, cropped at a
      random start of a clip; () for whole clips.
    image_weight, video_weight: blocks of image and video batches per window of the stream; the
      paper's joint stages use 1 and 10, image stages 1 and 0 [MG 3.2.2].
    image_batch: rows of an image batch in joint training with videos, a multiple of `global_batch`;
      0 for the same number.
    camera_tags: whether prompts start with the camera motion, if known [MG 3.2.1].
    captions: which wordings are used for frames, see `transforms.FrameRow`.
    short_length: maximum number of tokens of a short caption.
  """

  source: Literal["toy", "folder"] = "toy"
  images: str = ""
  cache: str = "data"
  world: toy.World = "simple"
  variants: int = 0
  durations: Literal["single", "paper", "sft", "ablation"] = "single"
  aspects: Literal["five", "one"] = "five"
  frames: int = 16
  height: int = 32
  width: int = 32
  fps: float = 8.0
  windows: int = 1
  caption_required: bool = True
  lengths: tuple[int, ...] = ()
  image_weight: int = 0
  video_weight: int = 1
  image_batch: int = 0
  camera_tags: bool = False
  captions: CaptionMix = "all"
  short_length: int = 77

  OF_RUN: ClassVar[tuple[str, ...]] = (
    *SourceConfig.OF_RUN, "lengths", "image_batch", "camera_tags", "captions", "short_length",
  )

  def __post_init__(self):
    super().__post_init__()
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
    if self.image_batch < 0 or self.image_batch % self.global_batch:
      raise UserError(
        f"data.image_batch is {self.image_batch}; give a multiple of data.global_batch "
        f"({self.global_batch}), or 0 for batches of that size"
      )
    if self.image_batch and not self.video_weight:
      raise UserError(
        "data.image_batch needs videos (data.video_weight); for images alone set data.global_batch"
      )
    if self.variants < 0:
      raise UserError(f"data.variants is {self.variants}; it must not be negative")
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

  @property
  def weights(self) -> dict[Kind, int]:
    """Of "video" and "image".

    Raises:
      UserError: if `images` is set but images have no weight.
    """
    if self.images and not self.image_weight:
      raise UserError("data.images is set but data.image_weight is 0; give it a weight")
    return {"video": self.video_weight, "image": self.image_weight}

  @property
  def kinds(self) -> dict[Kind, Fraction]:
    """Shares of "video" and "image" in the batches, those that are not 0."""
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
