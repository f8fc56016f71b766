"""Videos with sound, and sound alone, for a generator of soundtracks [MG 6.2].

From the data section of a config to samples, which `precompute.sounds` encodes into records once:
the latents of the sound, the frames or the features of a vision tower, the captions. `LatentRow`
turns a record into a row. Samples are pieces of at most the longest chunk; a row is a chunk of a
piece, at a random position if the piece is longer; if it is shorter, "length" is the number of real
latents. Each latent has the video frame nearest in time to its start.

A batch is {"latent": float32 (B, L, 1, 1, C) normalised per channel, zeros after "length": int32
(B,), "index": int32 (B,), text streams as in `data.schema`, and "video"}: features (B, L, E) of a
frozen tower, else {"image": uint8 (B, T, H, W, 3), "at": int32 (B, L), "mask": bool (B, L)}. Both
are zero without a picture.
"""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.media import audio, video
from mg_jax.data.media.containers import MediaError
from mg_jax.data.media.files import Kind
from mg_jax.data.pipeline import Entry, Feed, least_whole
from mg_jax.data.records import RecordSource
from mg_jax.data.schema import Sample, Source, Split
from mg_jax.data.sources import folder, toy
from mg_jax.data.sources.folder import HELD_OUT, Index, Piece, PieceSource
from mg_jax.data.sources.mixture import SourceConfig
from mg_jax.data.transforms import LatentRow

KINDS: tuple[Kind, ...] = ("video", "sound")
_LEAST_S = 1.0  # shorter remainders of a file are dropped
# Fields that change neither pixels nor sound nor captions.
_FREE = ("chunks", "video_weight", "sound_weight", "global_batch", "bad_limit", "mixture")


@dataclasses.dataclass(frozen=True)
class SoundtrackConfig(SourceConfig):
  """The soundtracks of a run.

  A folder has videos and sounds with captions, see `data.sources.folder`; a file's "sound_caption"
  is used if there is one, else its caption. `data.text.sound_prompts` has the paper's fields and
  their order. Toy scenes are as long as the longest chunk.

  Attributes:
    world: "sounds" or "orchestra" (source "toy"), see `world.scene.sampling.WorldConfig`.
    chunks: (seconds, weight) of training chunks; the paper has batches of 10 s and 30 s at 5 to 1.
    fps: frame rate at which the vision tower encodes the video.
    size: side of the square frames in pixels.
    video_weight, sound_weight: batches of videos and of sound alone; the paper finetunes at 10 to 1
      and does not state it for pre-training. A kind without files is ignored.
    caption_required: whether a file without a caption is an error.
  """

  world: Literal["sounds", "orchestra"] = "sounds"
  chunks: tuple[tuple[float | int, int], ...] = ((10.0, 5), (30.0, 1))
  fps: float | int = 25.0
  size: int = 224
  video_weight: int = 10
  sound_weight: int = 1
  caption_required: bool = True

  OF_RUN: ClassVar[tuple[str, ...]] = (*SourceConfig.OF_RUN, "chunks", "fps", "size")

  def __post_init__(self):
    super().__post_init__()
    for name in ("fps", "size"):
      if not 0 < getattr(self, name) < math.inf:
        raise UserError(f"data.{name} is {getattr(self, name)}; it must be positive")
    lengths = [seconds for seconds, _ in self.chunks]
    if not lengths or len(set(lengths)) < len(lengths) or not all(
      0 < seconds < math.inf and weight >= 1 for seconds, weight in self.chunks
    ):
      raise UserError(
        f"data.chunks is {self.chunks}; give pairs of distinct seconds and whole weights from 1"
      )
    if min(self.video_weight, self.sound_weight) < 0 or not self.video_weight + self.sound_weight:
      raise UserError(
        f"data.video_weight is {self.video_weight} and sound_weight {self.sound_weight}; neither "
        "may be negative, and one must be positive"
      )

  @property
  def weights(self) -> dict[Kind, int]:
    """Of "video" and "sound"."""
    return {"video": self.video_weight, "sound": self.sound_weight}

  @property
  def seconds(self) -> float:
    """Length of the longest chunk, and of the longest sample."""
    return float(max(seconds for seconds, _ in self.chunks))

  def identity(self) -> dict[str, Any]:
    """The fields that determine the samples, JSON-serialisable."""
    kept = {name: value for name, value in vars(self).items() if name not in _FREE}
    return kept | {"seconds": self.seconds}


def open_sources(config: SoundtrackConfig, split: Split, *, rate: int) -> dict[Kind, Source]:
  """Sources of samples of a split, by existing kind.

  Raises:
    UserError: if the data are missing or unusable.
  """
  if config.source == "toy":
    if rate != audio.RATE or not config.video_weight:
      raise UserError(
        f"the toy world has videos with sound at {audio.RATE} Hz; the codec has {rate} Hz, and "
        f"data.video_weight is {config.video_weight}"
      )
    return {"video": toy.ToySource(toy_recipe(config), split)}
  index, read = scan(config), functools.partial(_read, config=config, rate=rate)
  sources: dict[Kind, Source] = {}
  for kind, weight in config.weights.items():
    if weight and any(p.kind == kind and p.split == split for p in index.pieces):
      sources[kind] = PieceSource(index, read, split, kind=kind, limit=config.bad_limit)
  if not sources:
    raise UserError(
      f"{config.path}: no file of the {split} split has a weight; raise data.video_weight or "
      "data.sound_weight, or add files"
    )
  return sources


def toy_recipe(config: SoundtrackConfig) -> toy.ToyRecipe:
  """The toy data set of a config: scenes as long as the longest chunk."""
  world = toy.world(config.world)
  return toy.ToyRecipe(
    frames=max(1, int(config.seconds * config.fps + 1e-6)), height=config.size, width=config.size,
    fps=float(config.fps), train=config.clips, validation=config.held_out, seed=config.seed,
    world=dataclasses.replace(world, duration_s=(config.seconds, config.seconds)),
  )  # fmt: skip


@functools.lru_cache(maxsize=64)
def scan(config: SoundtrackConfig) -> Index:
  """Probes the files of a folder (not of its subfolders) and cuts them into pieces, in order.

  If nothing is held out, the first pieces count as validation too.

  Raises:
    UserError: if the folder is missing or without media, a caption is missing, or no file is
      usable.
  """
  if not config.path:
    raise UserError("data.path is empty; give the folder of your videos and sounds")
  captions = "required" if config.caption_required else "optional"
  cut = functools.partial(_cut, config=config)
  return folder.scan(
    config.path, "sound", probe=_probe, cut=cut, captions=captions
  ).shown()


def record_sources(latents: str | os.PathLike[str], split: Split) -> dict[Kind, RecordSource]:
  """Records of a split by kind, as written by `precompute.sounds`."""
  root = pathlib.Path(latents) / split
  sources: dict[Kind, RecordSource] = {
    kind: RecordSource(root / kind) for kind in KINDS if (root / kind).is_dir()
  }
  if not sources:
    raise UserError(f"{root} has no latents; encode the data first")
  return sources


def soundtrack_feed(
  config: SoundtrackConfig,
  latents: str | os.PathLike[str],
  rows: Mapping[str, LatentRow],
  *,
  rate: float,
) -> Feed:
  """The training stream: each batch has one kind and one chunk length.

  Args:
    config: of the data.
    latents: their folder; entries of a mixture have folders of their own in it.
    rows: the transform of every entry, for the longest chunk.
    rate: latents per second.
  """
  opened, shares = [], []
  whole = sum(weight for _, weight in config.chunks)
  for name, part in config.parts.items():
    sources = record_sources(pathlib.Path(latents) / name, "train")
    # A kind without files is ignored: the others share its batches.
    weights = {kind: weight for kind, weight in part.data.weights.items() if kind in sources}
    for kind, share in weights.items():
      for seconds, weight in config.chunks if share else ():
        label = f"{name}/{kind}/{seconds:g}s".lstrip("/")
        chunk = dataclasses.replace(rows[name], latents=max(1, round(seconds * rate)))
        opened.append((label, sources[kind], chunk))
        shares.append(Fraction(part.weight * share * weight, sum(weights.values()) * whole))
  entries = [
    Entry(*fields, weight) for fields, weight in zip(opened, least_whole(shares), strict=True)
  ]
  return Feed(tuple(entries), config.global_batch, seed=config.seed)


def _probe(path: str) -> tuple[Kind, float]:
  """Kind and length in s of a file; one without a picture other than cover art is sound."""
  try:
    info = video.probe(path)
  except MediaError as error:
    if error.reason != "no_video":
      raise
    return "sound", audio.probe(path).duration_s
  if not info.has_audio:
    raise MediaError("no_audio", path, "the file has no audio stream")
  return "video", info.duration_s


def _cut(name: str, info: tuple[Kind, float], config: SoundtrackConfig) -> list[Piece]:
  """The pieces of a file, each in a single split."""
  kind, seconds = info
  border = seconds * (1 - HELD_OUT)
  pieces = []
  for low, high, split in folder.parts(name, seconds, border, config.holdout, least=_LEAST_S):
    for number in range(max(1, math.ceil((high - low) / config.seconds - 1e-6))):
      start = low + number * config.seconds
      length = min(config.seconds, high - start)
      if not number or length >= _LEAST_S:
        pieces.append(Piece(name, split, start, length, kind))
  return pieces


def _read(piece: Piece, *, config: SoundtrackConfig, rate: int) -> Sample:
  """A piece with its frames, if there are any, and its sound, float32 at `rate` Hz."""
  frames, count = None, 0
  if piece.kind == "video":
    count = max(1, int(piece.seconds * config.fps + 1e-6))
    frames = video.read_clip(
      piece.path, start_s=piece.start_s, fps=config.fps, frames=count,
      size=(config.size, config.size),
    )  # fmt: skip
  wave = audio.read_audio(
    piece.path, rate=rate, start_s=piece.start_s, seconds=piece.seconds
  ).astype(np.float32)
  # Sound may end before the picture.
  wave = np.pad(wave, (0, max(0, round(piece.seconds * rate) - len(wave))))
  text, camera, sound, values = piece.caption
  return Sample(
    frames, count, float(config.fps), text, piece.key, camera=camera, wave=wave,
    sound_caption=sound or text, given=values, root=os.path.dirname(piece.path),
  )  # fmt: skip
