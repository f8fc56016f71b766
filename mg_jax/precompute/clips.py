"""Precomputed latents of a whole data set: the generator then trains without the autoencoder.

The paper caches the latents of its high-resolution videos [MG 3.1.6]; here every stage does, images
included, together with features of frozen text encoders. `<folder>/<split>/<video|image>/<bucket>/`
has records {"latent" float32 (t, h, w, C), "fps", "captions", "camera"} and, for stream s and
wording k of the captions, "text/s/k" (tokens, E) in the encoder's dtype, and what its conditions
hold (`data.conditions`). `<folder>/manifest.json` has the per-channel mean and standard deviation
over the training videos (or images), the step and the fingerprint of the autoencoder, and the
identity of the text encoders. Entries of a mixture are in `<folder>/<entry>/`, each with a manifest
of its own. Clips larger than a tile are encoded tile by tile [MG 3.1.1], which the manifest then
states.
"""

import dataclasses
import functools
import itertools
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.pixels import from_uint8
from mg_jax.core.tree import fingerprint
from mg_jax.data import condition_section
from mg_jax.data.condition_section import check_sources, given, stored
from mg_jax.data.conditions import Condition, Given, Latent, latent_name
from mg_jax.data.schema import Sample
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.sources.folder import REPORT, Index, content, write_report
from mg_jax.data.sources.mixture import held_out
from mg_jax.data.sources.recipe import indices, open_sources
from mg_jax.data.text.condition import cached_name
from mg_jax.data.text.readers import blank
from mg_jax.data.transforms import VideoRow, prompt_tags
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.codecs.tiling import TiledAutoencoder, Tiling
from mg_jax.models.encoders.streams import Streams
from mg_jax.precompute.latents import (
  SPLITS,
  Part,
  encode_parts,
  finish,
  finished,
  write_records,
)
from mg_jax.train.workdir import is_remote, resolve

_log = logging.getLogger(__name__)


def encode(
  data: DataConfig,
  model: TAE,
  params,
  folder: str | os.PathLike[str],
  *,
  origin: str,
  step: int,
  text: Streams,
  conditions: Mapping[str, Condition] | None = None,
  batch: int = 32,
  tiling: Tiling | None = None,
  workdir: str | None = None,
) -> dict:
  """Encodes both splits of a recipe; returns the manifest's metadata.

  Args:
    data: the recipe, whose `kinds` determine whether videos, images or both are encoded.
    model: the autoencoder.
    params: its parameters, unboxed.
    folder: of the latents, new or existing.
    origin: workdir of the autoencoder's run, recorded in the manifest.
    step: of that run, which samplers load even if the run has continued.
    text: the streams; those with a frozen encoder and `cache` are encoded too.
    conditions: of the generator; latents are encoded too, values that are given are stored.
    batch: clips per call.
    tiling: how clips larger than a tile are cut.
    workdir: where `report_rejected` writes, if anywhere.

  Raises:
    UserError: if the folder has latents of another autoencoder, text encoder, recipe or set of
      clips, or a condition has no source.
  """
  folder, tiling, found = pathlib.Path(folder), tiling or Tiling(), dict(conditions or {})
  shared = {"fingerprint": fingerprint(params), "text": text.identity()}
  encoder = functools.cache(
    lambda: _Encoder(
      model, params, text.load(names=text.cached), camera=data.camera_tags, tiling=tiling
    )
  )
  source = {"autoencoder": origin, "step": step}
  part = functools.partial(_encode_part, encoder=encoder, tiling=tiling, batch=batch)
  train = {name: f"train/{kind}" for name, kind in held_out(data).items()}
  metadata = encode_parts(data, folder, shared, source, found, part, train=train)
  if workdir:
    report_rejected(indices(data), workdir)
  return metadata


def _encode_part(
  part: Part, *, encoder: Callable[[], "_Encoder"], tiling: Tiling, batch: int
) -> dict:
  """Encodes clips and images of one entry; see `encode`."""
  data, folder, conditions = part.data, part.folder, part.conditions
  identity = part.identity | {
    "data": json.loads(json.dumps(_identity(data))), "kinds": sorted(data.kinds),
  }  # fmt: skip
  latents = {name: entry.of for name, entry in conditions.items() if isinstance(entry, Latent)}
  values = given(conditions)
  if latents:
    identity["latents"] = latents
  identity |= condition_section.identity(conditions)
  # The paper's durations reach 256 frames.
  large = data.durations != "single" or tiling.cuts(data.frames, data.height, data.width)
  if large:
    identity["tiling"] = dataclasses.asdict(tiling)
  digests = _digests(data, tuple(values))
  # The clips themselves are no longer needed, and may have been removed.
  here = {name: digest for name, (path, digest) in digests.items() if os.path.isdir(path)}
  metadata = finished(folder, identity, **here)
  if metadata:
    return metadata
  scans = indices(data)
  check_sources(conditions, scans, where=part.where)
  _log.info("%s: encoding the clips, once", folder)
  clips = dict.fromkeys(SPLITS, 0)
  # Images that are frames of clips are not counted again.
  counted = data.kinds if data.images else data.kinds[:1]
  for split, kind in itertools.product(SPLITS, data.kinds):
    for bucket, clip_source in open_sources(data, split, kind).items():
      clips[split] += len(clip_source) if kind in counted else 0
      frames, height, width = map(int, bucket.split("x"))
      rows = encoder().rows(1 if kind == "image" else frames, height, width, batch)
      records = functools.partial(
        _records, kind=kind, encoder=encoder(), batch=rows, latents=tuple(latents), values=values
      )
      write_records(clip_source, folder / split / kind / bucket, records, identity)
  found = {name: digest() for name, (_, digest) in digests.items()}
  origins = part.source | {"clips": clips} | found
  return finish(folder, [folder / "train" / data.kinds[0]], identity | origins)


def report_rejected(scans: Iterable[Index], workdir: str) -> None:
  """Writes the rejected files of folders, with reasons, to `rejected.jsonl` of a local workdir."""
  path = resolve(workdir)
  if jax.process_index() == 0 and not is_remote(path):
    write_report(path / REPORT, scans)


def _identity(data: DataConfig) -> dict:
  """The fields of a recipe that determine pixels and captions."""
  free = {
    "image_weight", "video_weight", "lengths", "global_batch", "image_batch", "bad_limit", "cache",
    "captions", "short_length", "mixture",
  }  # fmt: skip
  # Defaults are left out, so that latents of recipes from before these fields stay valid.
  free |= set() if data.images else {"images"}
  free |= {"aspects"} if data.aspects == "five" else set()
  return {k: v for k, v in vars(data).items() if k not in free}


def _digests(data: DataConfig, given: Sequence[str]) -> dict[str, tuple[str, Callable[[], str]]]:
  """The folders that a recipe reads, with functions for the digests of their files."""
  read, digests = functools.partial(content, given=given), {}
  if data.source == "folder" and (data.video_weight or not data.images):
    digests["content"] = data.path, functools.partial(read, data.path)
  if data.images:
    digests["images"] = data.images, functools.partial(read, data.images, kind="image")
  return digests


class CaptionEncoder:
  """Captions to features of frozen encoders, with a fixed batch size."""

  def __init__(self, text: Streams):
    self._readers = {name: text.readers[name] for name in text.encoders}
    self._features = functools.partial(jax.jit(text.encode), text.params)

  def __call__(
    self, captions: Sequence[Sequence[str]], tags: Sequence[dict], *, batch: int
  ) -> list[dict]:
    """The entries of at most `batch` records, from the wordings and tags of each."""
    entries: list[dict] = [{} for _ in captions]
    for wording in range(max(map(len, captions)) if self._readers else 0):
      rows = [
        (entry, texts[wording], tag)
        for entry, texts, tag in zip(entries, captions, tags, strict=True)
        if wording < len(texts)
      ]
      for name, reader in self._readers.items():
        tokens = [reader(caption, **tag) for _, caption, tag in rows]
        tokens += [blank(reader.config.length)] * (batch - len(rows))
        stacked = {key: np.stack([row[key] for row in tokens]) for key in ("ids", "mask")}
        features = np.asarray(self._features({name: stacked})[name]["features"])
        for (entry, _, _), values, mask in zip(rows, features, stacked["mask"], strict=False):
          entry[cached_name(name, wording)] = values[mask]
    return entries


class _Encoder:
  """Clips to latents and captions to features."""

  def __init__(
    self, model: TAE, params, text: Streams, *, camera: bool, tiling: Tiling,
  ):
    self._captions, self._camera, self._tiling = CaptionEncoder(text), camera, tiling

    def mean(params, video):
      video = from_uint8(video)
      return model.apply({"params": params}, video, method="encode")[0]

    self._latents = functools.partial(jax.jit(mean), params)
    self._model, self._params = model, params

  def rows(self, frames: int, height: int, width: int, batch: int) -> int:
    """Clips per call; large ones are encoded singly, as a batch would fill the host's memory."""
    return 1 if self._tiling.cuts(frames, height, width) else batch

  def latents(self, video: np.ndarray) -> np.ndarray:
    """uint8 (B, T, H, W, 3) -> (B, t, h, w, C)"""
    if self._tiling.cuts(*video.shape[1:4]):
      return np.stack([self._tiles.encode(clip) for clip in video])
    return np.asarray(self._latents(video))

  def more(self, video: np.ndarray, names: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """The entries of the named conditions, which are latents, of uint8 (B, T, H, W, 3)."""
    entries: list[dict] = [{} for _ in video]
    for name in names:
      # First frames are encoded alone, as in sampling: the autoencoder is not causal.
      for entry, latent in zip(entries, self.latents(video[:, :1]), strict=True):
        entry[latent_name(name)] = latent
    return entries

  @functools.cached_property
  def _tiles(self) -> TiledAutoencoder:
    return TiledAutoencoder(self._model, self._params, self._tiling)

  def features(self, clips: Sequence[Sample], frames: int, batch: int) -> list[dict]:
    """The entries of the records of at most `batch` clips of so many latent frames."""
    camera = [clip.camera if self._camera else "" for clip in clips]
    tags = [
      prompt_tags(clip.fps, frames=frames, camera=motion)
      for clip, motion in zip(clips, camera, strict=True)
    ]
    return self._captions([(clip.caption, *clip.variants) for clip in clips], tags, batch=batch)


def check_finite(key: str, *arrays: np.ndarray) -> None:
  """Raises UserError if an encoder returned NaN or Inf."""
  if not all(np.isfinite(np.asarray(x, np.float32)).all() for x in arrays):
    raise UserError(f"the encoders returned NaN or Inf for clip {key!r}; check clip and weights")


def _records(
  samples: Iterator[Sample], *, kind: str, encoder: _Encoder, batch: int, latents: Sequence[str],
  values: Mapping[str, Given],
) -> Iterator[dict]:
  transform = VideoRow(frames=1 if kind == "image" else None)
  pairs = (
    (sample, transform(index, sample, np.random.default_rng([0, index]))["video"])
    for index, sample in enumerate(samples)
  )
  while part := list(itertools.islice(pairs, batch)):
    video = [row for _, row in part]
    # The batch size is fixed: the last row is repeated as padding.
    video = np.stack(video + video[-1:] * (batch - len(part)))
    encoded = encoder.latents(video)[: len(part)]
    features = encoder.features([sample for sample, _ in part], encoded.shape[1], batch)
    more = encoder.more(video, latents)[: len(part)]
    for latent, entry, added in zip(encoded, features, more, strict=True):
      entry |= added
      clip, _ = part.pop(0)  # frees its memory
      check_finite(clip.key, latent, *entry.values())
      captions = [clip.caption, *clip.variants]
      entry |= stored(values, clip)
      yield {
        "latent": latent, "fps": clip.fps, "captions": captions, "camera": clip.camera, **entry
      }
