"""From the data section of a config to sources of clips, by bucket and split.

One recipe serves every stage: the autoencoder trains on clips, encoding iterates over them once,
the generator trains on the latents, and a contrastive model on middle frames. Images are frames of
the clips, or still images in their own folder. Single-bucket recipes set `frames`, `height`,
`width` and `fps`; bucketed ones set a duration table and a base resolution instead [MG 3.2.1].
"""

import collections
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Literal

from mg_jax.core.errors import UserError
from mg_jax.data import buckets
from mg_jax.data.media.files import Kind
from mg_jax.data.pipeline import Entry, Feed, volume_weights
from mg_jax.data.records import RecordSource
from mg_jax.data.schema import Source, Split
from mg_jax.data.sources import clips, toy
from mg_jax.data.sources.folder import Index, PieceSource
from mg_jax.data.transforms import CaptionMix, FrameRow, LatentRow, VideoRow

_COUNTS = (
  "clips", "held_out", "frames", "height", "width", "windows", "global_batch", "short_length",
)
SIDE_MULTIPLE = 16  # of bucketed sides, as `buckets.frame_sizes` rounds them


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

  @property
  def kinds(self) -> dict[Kind, int]:
    """Positive weights of "image" and "video".

    Raises:
      UserError: if `images` is set but images have no weight.
    """
    if self.images and not self.image_weight:
      raise UserError("data.images is set but data.image_weight is 0; give it a weight")
    pairs: dict[Kind, int] = {"video": self.video_weight, "image": self.image_weight}
    return {kind: weight for kind, weight in pairs.items() if weight}

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


def open_sources(config: DataConfig, split: Split, kind: Kind = "video") -> dict[str, Source]:
  """Sources of clips by bucket name, e.g. {"16x32x32": ...}.

  Args:
    config: the recipe.
    split: "train" or "validation".
    kind: "video" opens the clips, "image" the still images as clips of one frame, if the recipe has
      a folder of them, else the clips.

  Raises:
    UserError: if the data are missing or unusable.
  """
  index = _scan(config, kind)
  if index is None:
    from mg_jax.data.sources import toy_records  # imports TFDS, needed by nothing else here

    recipe = toy_recipe(config)
    toy_records.build(recipe, config.cache)
    return {_name(config): toy_records.ToyRecords(recipe, config.cache, split)}
  return {
    bucket.name: PieceSource(index, clips.read, split, bucket=bucket, limit=config.bad_limit)
    for bucket in index.buckets(split)
  }


def indices(config: DataConfig, kinds: Iterable[Kind]) -> list[Index]:
  """The indices of the folders of these kinds, each once."""
  unique = {id(index): index for kind in kinds if (index := _scan(config, kind))}
  return list(unique.values())


def _scan(config: DataConfig, kind: Kind) -> Index | None:
  """The index of the folder of a kind; None for the toy world."""
  if kind == "image" and config.images:
    return scan(config, "image")
  return None if config.source == "toy" else scan(config, "video")


@functools.lru_cache(maxsize=8)
def scan(config: DataConfig, kind: Kind) -> Index:
  """Scans the folder of clips or of still images of a config.

  If nothing is held out (few files, or by choice), the first ones count as validation too.
  """
  path = config.images if kind == "image" else config.path
  if not path:
    raise UserError("data.path is empty; give the folder of your clips")
  return clips.scan(
    path, config.buckets(kind), kind=kind, windows=config.windows, holdout=config.holdout,
    caption_required=config.caption_required,
  ).shown()  # fmt: skip


def toy_recipe(config: DataConfig) -> toy.ToyRecipe:
  """The toy data set of a config."""
  return toy.ToyRecipe(
    frames=config.frames,
    height=config.height,
    width=config.width,
    fps=config.fps,
    train=config.clips,
    validation=config.held_out,
    variants=config.variants,
    seed=config.seed,
    world=toy.world(config.world),
  )


def clip_feed(config: DataConfig) -> Feed:
  """The training stream of an autoencoder: image and video batches of raw clips.

  With several lengths, each batch has a single one, so that each is compiled once.
  """
  kinds = config.kinds
  if config.images:
    opened = {kind: open_sources(config, "train", kind) for kind in kinds}
  else:
    opened = dict.fromkeys(kinds, open_sources(config, "train"))
  lengths = config.lengths or (None,)
  # One image entry per length keeps the ratio of the weights.
  cuts = {"image": (1,) * len(lengths), "video": lengths}
  entries = []
  for kind, share in kinds.items():
    rows = config.rows(kind) // config.global_batch
    for (name, source), weight in _weighted(opened[kind], share):
      for length, count in collections.Counter(cuts[kind]).items():
        label = f"{kind}/{name}" + (f"/{length}" if kind == "video" and length else "")
        entries.append(Entry(label, source, VideoRow(frames=length), weight * count, rows))
  return Feed(tuple(entries), config.global_batch, seed=config.seed)


def frame_feed(config: DataConfig, row: FrameRow) -> Feed:
  """The training stream of a contrastive model: stills or middle frames with captions."""
  entries = [
    Entry(f"frame/{name}", source, row, weight)
    for (name, source), weight in _weighted(open_sources(config, "train", "image"), 1)
  ]
  return Feed(tuple(entries), config.global_batch, seed=config.seed)


def latent_sources(
  latents: str | os.PathLike[str], split: Split, kind: str, *, limit: float = 0.05
) -> dict[str, Source]:
  """Cached latents of a split by bucket name, as written by `precompute.clips`.

  Args:
    latents: their folder.
    split: "train" or "validation".
    kind: "video" or "image".
    limit: fraction of the records that may be bad, see `Quarantine`.
  """
  root = pathlib.Path(latents) / split / kind
  names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
  if not names:
    raise UserError(f"{root} has no latents; encode the data first")
  return {
    name: RecordSource(root / name, limit=limit, setting="data.bad_limit") for name in names
  }


def latent_feed(
  config: DataConfig, latents: str | os.PathLike[str], row: LatentRow
) -> Feed:
  """The training stream of a generator: image and video batches of cached latents."""
  opened = {
    kind: latent_sources(latents, "train", kind, limit=config.bad_limit) for kind in config.kinds
  }
  entries = [
    Entry(f"{kind}/{name}", source, row, weight, config.rows(kind) // config.global_batch)
    for kind, share in config.kinds.items()
    for (name, source), weight in _weighted(opened[kind], share)
  ]
  return Feed(tuple(entries), config.global_batch, seed=config.seed)


def _weighted(sources: dict[str, Source], share: int):
  """Sources with integer weights proportional to their volume, times `share`."""
  weights = volume_weights([len(source) for source in sources.values()])
  return zip(sources.items(), [share * weight for weight in weights], strict=True)


def _name(config: DataConfig) -> str:
  return f"{config.frames}x{config.height}x{config.width}"
