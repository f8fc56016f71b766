"""From the data section of a config to sounds: source, split, and the training stream of chunks.

The counterpart of `recipe` for sound. A batch is {"wave": int16 (B, T), "index": int32 (B,)} with
full scale 2^15, converted to [-1, 1] on the device.
"""

import dataclasses
import functools
import logging
import math
from typing import ClassVar, Literal

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.media.audio import RATE
from mg_jax.data.media.files import Kind
from mg_jax.data.pipeline import Entry, Feed
from mg_jax.data.schema import Batch, Sample, Source, Split
from mg_jax.data.sources import sounds, toy_sounds
from mg_jax.data.sources.folder import Index, PieceSource
from mg_jax.data.sources.mixture import SourceConfig

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SoundConfig(SourceConfig):
  """The sounds of a run.

  A folder has sounds and videos, see `data.sources.sounds`.

  Attributes:
    cache: folder of decoded or rendered sound.
    world: "sounds" or "orchestra" (source "toy"), see `world.scene.sampling.WorldConfig`.
    rate: sample rate of the codec in Hz.
    seconds: length of a training chunk.
    held_out_seconds: length of an evaluation chunk.
    silence_db: peak level below which a segment is dropped as silent.
  """

  cache: str = "data"
  world: Literal["sounds", "orchestra"] = "sounds"
  clips: int = 2000
  held_out: int = 128
  rate: int = RATE
  seconds: float = 0.4
  held_out_seconds: float = 2.0
  silence_db: float = -60.0

  OF_RUN: ClassVar[tuple[str, ...]] = (
    *SourceConfig.OF_RUN, "rate", "seconds", "held_out_seconds", "cache"
  )

  def __post_init__(self):
    super().__post_init__()
    for name in ("rate", "seconds", "held_out_seconds"):
      if not 0 < getattr(self, name) < math.inf:
        raise UserError(f"data.{name} is {getattr(self, name)}; it must be positive")
    if min(self.samples("train"), self.samples("validation")) < 1:
      raise UserError(
        f"data.seconds of {self.seconds} is less than a sample at {self.rate} Hz; raise it"
      )
    if not -math.inf < self.silence_db <= 0:
      raise UserError(f"data.silence_db is {self.silence_db}; give a level of at most 0 dB")

  @property
  def weights(self) -> dict[Kind, int]:
    """Of "sound", the only kind."""
    return {"sound": 1}

  def samples(self, split: Split) -> int:
    """Length of a chunk in samples."""
    return round((self.seconds if split == "train" else self.held_out_seconds) * self.rate)


@dataclasses.dataclass(frozen=True)
class WaveRow:
  """Sample -> {"wave" (samples,) int16, "index" ()}; shorter sounds are zero-padded.

  Attributes:
    samples: length of a chunk.
    shift: whether it starts at a random position of the piece, rather than at its beginning.
  """

  samples: int
  shift: bool = True

  def __call__(self, index: int, record: Sample, rng: np.random.Generator) -> Batch:
    spare = max(0, len(record.wave) - self.samples)
    start = int(rng.integers(spare + 1)) if self.shift else 0
    chunk = record.wave[start : start + self.samples]
    wave = np.pad(chunk, (0, self.samples - len(chunk))).astype(np.int16)
    return {"wave": wave, "index": np.int32(index)}


def open_source(config: SoundConfig, split: Split) -> Source:
  """The sounds of a split, in pieces of at least one chunk if they are that long.

  Raises:
    UserError: if the data are missing or unusable.
  """
  read = functools.partial(sounds.read, rate=config.rate)
  return PieceSource(scan(config, split), read, split, limit=config.bad_limit)


@functools.lru_cache(maxsize=64)
def scan(config: SoundConfig, split: Split) -> Index:
  """Scans the sounds of a config for pieces of the chunk length of a split."""
  if config.source == "toy":
    return toy_sounds.scan(
      config.world, cache=config.cache, samples=config.samples(split), rate=config.rate,
      train=config.clips, validation=config.held_out, seed=config.seed,
    )  # fmt: skip
  if not config.path:
    raise UserError("data.path is empty; give the folder of your sounds")
  index = sounds.scan(
    config.path, cache=config.cache, samples=config.samples(split), rate=config.rate,
    silence_db=config.silence_db, holdout=config.holdout, log=split == "train",
  )  # fmt: skip
  _log.info(
    "%s: %d segments of %.2f s for %s, %d dropped as silent", config.path,
    index.count(split), config.samples(split) / config.rate, split, index.silent,
  )  # fmt: skip
  return index if split == "train" else index.shown()


def wave_feed(config: SoundConfig) -> Feed:
  """The training stream of a codec: chunks at random positions, sounds weighted by length."""
  row = WaveRow(config.samples("train"))
  entries = [
    Entry(f"{name}/sound".lstrip("/"), open_source(part.data, "train"), row, part.weight)
    for name, part in config.parts.items()
  ]
  return Feed(tuple(entries), config.global_batch, seed=config.seed)
