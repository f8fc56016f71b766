"""Precomputed latents of soundtracks, with the conditions of a generator [MG 6.2].

The counterpart of `precompute.clips`, and resumable like it. `<folder>/<split>/<video|sound>/` has
records {"latent" float32 (L, C), "fps", "captions", "key"} and, for videos, "image" uint8 (T, H, W,
3) or, with a frozen vision tower, its L2-normalised "features" float16 (T, E); for text stream s
with a frozen encoder also "text/s/0", and the values of its other conditions.
`<folder>/manifest.json` has mean and standard deviation per channel over all training latents,
workdir, step and fingerprint of the codec, "rate", its latents per second, and the identity of the
encoders of text and video.
"""

import functools
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping

from mg_jax.core.errors import UserError
from mg_jax.data import condition_section
from mg_jax.data.condition_section import check_sources, given, stored
from mg_jax.data.conditions import Condition, Given, Latent
from mg_jax.data.schema import Sample
from mg_jax.data.sources import folder as folders
from mg_jax.data.sources import soundtracks
from mg_jax.data.sources.folder import Index
from mg_jax.data.sources.soundtracks import SoundtrackConfig
from mg_jax.models.codecs.chunking import ChunkedCodec
from mg_jax.models.encoders.streams import Streams
from mg_jax.models.encoders.vision import FrozenVision
from mg_jax.precompute.clips import CaptionEncoder, check_finite, report_rejected
from mg_jax.precompute.latents import (
  SPLITS,
  Part,
  encode_parts,
  finish,
  finished,
  write_records,
)

_log = logging.getLogger(__name__)
SHARD = 256  # records per shard: the most that an interruption can lose


def encode_sound(
  data: SoundtrackConfig,
  codec: ChunkedCodec,
  folder: str | os.PathLike[str],
  *,
  origin: str,
  step: int,
  text: Streams,
  vision: FrozenVision | None = None,
  conditions: Mapping[str, Condition] | None = None,
  workdir: str | None = None,
) -> dict:
  """Encodes both splits of a config's soundtracks; returns the manifest's metadata.

  Args:
    data: the config.
    codec: encodes the sound.
    folder: of the latents, new or existing.
    origin: workdir of the codec's run, recorded in the manifest.
    step: of that run, which samplers load even if the run has continued.
    text: the streams; those with a frozen encoder and `cache` are encoded too.
    vision: the frozen tower; without one the frames themselves are stored.
    conditions: of the generator; values that are given are stored.
    workdir: where `report_rejected` writes, if anywhere.

  Raises:
    UserError: if the folder has latents of another codec, encoder, recipe or set of files.
  """
  shared = {
    "fingerprint": codec.fingerprint, "text": text.identity(),
    "vision": vision.identity() if vision else "",
  }  # fmt: skip
  source = {"codec": origin, "step": step, "rate": codec.model.latent_rate}
  captions = functools.cache(lambda: CaptionEncoder(text.load(names=text.cached)))

  part = functools.partial(_encode_part, codec=codec, captions=captions, vision=vision)
  metadata = encode_parts(
    data, pathlib.Path(folder), shared, source, conditions or {}, part,
    train=dict.fromkeys(data.parts, "train"),
  )  # fmt: skip
  if workdir:
    report_rejected(_scans(data), workdir)
  return metadata


def _encode_part(
  part: Part, *, codec: ChunkedCodec, captions: Callable[[], CaptionEncoder],
  vision: FrozenVision | None,
) -> dict:
  """Encodes sounds of one entry; see `encode_sound`."""
  data, folder, conditions = part.data, part.folder, part.conditions
  for name, condition in conditions.items():
    if isinstance(condition, Latent):
      raise UserError(f"condition {name!r} is the latent of a first frame, which sound lacks")
  values = given(conditions)
  identity = part.identity | {"data": data.identity()} | condition_section.identity(conditions)
  here = data.source == "folder" and os.path.isdir(data.path)
  content = (
    functools.partial(folders.content, data.path, kind="sound", given=tuple(values))
    if here else None
  )  # fmt: skip
  metadata = finished(folder, identity, content=content)
  if metadata:
    return metadata
  check_sources(conditions, _scans(data), where=part.where)
  _log.info("%s: encoding the sound, once", folder)
  records = functools.partial(
    _records, codec=codec, captions=captions(), vision=vision, values=values
  )
  clips = dict.fromkeys(SPLITS, 0)
  for split in SPLITS:
    sources = soundtracks.open_sources(data, split, rate=codec.model.sample_rate)
    for kind, clip_source in sources.items():
      clips[split] += len(clip_source)
      write_records(
        clip_source, folder / split / kind, records, identity, size=SHARD, compress=vision is None
      )
  origins = part.source | {"clips": clips} | ({"content": content()} if content else {})
  return finish(folder, [folder / "train"], identity | origins)


def _scans(data: SoundtrackConfig) -> list[Index]:
  parts = [part.data for part in data.parts.values()]
  return [soundtracks.scan(part) for part in parts if part.source == "folder"]


def _records(
  samples: Iterator[Sample],
  *,
  codec: ChunkedCodec,
  captions: CaptionEncoder,
  vision: FrozenVision | None,
  values: Mapping[str, Given],
) -> Iterator[dict]:
  for sample in samples:
    latent = codec.encode(sample.wave)
    picture = {}
    if sample.video is not None:
      picture = {"features": vision(sample.video)} if vision else {"image": sample.video}
    caption = sample.sound_caption
    [features] = captions([(caption,)], [{}], batch=1)
    check_finite(sample.key, latent, *features.values(), *(picture.values() if vision else ()))
    yield {
      "latent": latent, "fps": sample.fps, "captions": [caption], "key": sample.key, **picture,
      **features, **stored(values, sample),
    }  # fmt: skip


def check_vision(vision: FrozenVision | None, tower: dict, features: int, size: int) -> None:
  """Checks that there is one vision tower, which fits the frames of the data and the generator.

  Args:
    vision: the frozen tower.
    tower: fields of the trained one, else empty.
    features: E of the generator's video route.
    size: side of the frames.

  Raises:
    UserError: if not.
  """
  if bool(vision) == bool(tower):
    raise UserError(
      "config vision names a frozen tower, but model.encoders.video trains one; keep one of them"
      if vision
      else "config vision is empty; give the folder of a converted CLIP (launch/convert.py)"
    )
  side, width = (
    (vision.size, vision.features) if vision else (tower["size"], tower["projection"])
  )
  if side != size:
    raise UserError(f"the vision tower takes frames of {side} pixels, but data.size is {size}")
  if width != features:
    raise UserError(
      f"the vision tower has {width} features, but model.dit.routes.video takes {features}"
    )
