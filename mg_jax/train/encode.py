"""Latents of a whole data set, computed once: the generator then trains without the autoencoder.

The paper caches the latents of its high-resolution videos [MG 3.1.6]; here every stage does, images
included. Layout: `<folder>/<split>/<video|image>/<bucket>/` holds records {"latent" float32
(t, h, w, C), "fps", "captions"}, and `<folder>/manifest.json` the per-channel mean and standard
deviation over the training videos (or images), the step and the fingerprint of the autoencoder. An
interrupted run goes on with the shards that are missing; a finished folder is left as it is.
Clips larger than a tile are encoded tile by tile [MG 3.1.1], which the manifest then says.
Several processes share the shards out among themselves; they must see the same folder.
"""

import dataclasses
import functools
import json
import logging
import os
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from mg_jax.core.errors import UserError
from mg_jax.core.tree import fingerprint
from mg_jax.data import atomic
from mg_jax.data.folder import content
from mg_jax.data.pipeline import evaluation_batches
from mg_jax.data.recipe import DataConfig, open_sources
from mg_jax.data.records import MANIFEST, RecordSource, RecordWriter
from mg_jax.data.schema import Clip, Source
from mg_jax.data.transforms import VideoRow
from mg_jax.models.tae import TAE
from mg_jax.models.tiling import TiledAutoencoder, Tiling

_log = logging.getLogger(__name__)
SPLITS = ("train", "validation")
SHARD = 1024  # records of a shard: the most that an interruption can lose


def encode(
  data: DataConfig,
  model: TAE,
  params,
  folder: str | os.PathLike[str],
  *,
  origin: str,
  step: int,
  batch: int = 32,
  tiling: Tiling | None = None,
) -> dict:
  """Encodes both splits of a recipe; returns the manifest's metadata.

  Args:
    data: the recipe, whose `kinds` say whether videos, images or both are needed.
    model: the autoencoder.
    params: its parameters, unboxed.
    folder: where latents go, or already are.
    origin: workdir of the autoencoder's run, for the record.
    step: of that run, which samplers load although the run may have gone on.
    batch: clips per call.
    tiling: how clips are cut that are larger than a tile.

  Raises:
    UserError: when the folder holds latents of another autoencoder, recipe or set of clips.
  """
  folder = pathlib.Path(folder)
  tiling = tiling or Tiling()
  identity = {
    "fingerprint": fingerprint(params),
    "data": json.loads(json.dumps(_identity(data))),
    "kinds": sorted(data.kinds),
  }
  # The paper's durations reach 256 frames.
  large = data.durations == "paper" or tiling.cuts(data.frames, data.height, data.width)
  if large:
    identity["tiling"] = dataclasses.asdict(tiling)
  path = folder / MANIFEST
  if path.is_file():
    metadata = _metadata(path)
    changed = [key for key, value in identity.items() if metadata.get(key) != value]
    # The clips themselves are no longer needed, and may be gone.
    if not changed and data.source == "folder" and os.path.isdir(data.path):
      changed = ["clips"] if metadata.get("content") != content(data.path) else []
    if changed:
      raise UserError(
        f"{folder} holds latents made with another {' and '.join(changed)}; remove it or use "
        "another workdir"
      )
    return metadata
  _log.info("%s: encoding the clips, once", folder)
  run = jax.jit(lambda params, video: _mean(model, params, video))
  whole = functools.partial(run, params)
  tiles = TiledAutoencoder(model, params, tiling) if large else None
  for split in SPLITS:
    for bucket, source in open_sources(data, split).items():
      frames, height, width = map(int, bucket.split("x"))
      for kind in data.kinds:
        target = folder / split / kind / bucket
        if tiling.cuts(1 if kind == "image" else frames, height, width):
          # One at a time: a batch of clips this large would fill the host's memory.
          one = lambda video: tiles.encode(video[0])[None]  # noqa: E731
          _encode_source(source, kind, target, one, identity, 1)
        else:
          _encode_source(source, kind, target, whole, identity, batch)
  if jax.process_index() == 0:
    mean, std = _statistics(folder / "train" / next(iter(data.kinds)))
    source = {"autoencoder": origin, "step": step}
    source |= {"content": content(data.path)} if data.source == "folder" else {}
    atomic.write_json(path, {"metadata": identity | source | {"mean": mean, "std": std}})
  _meet(f"latents {folder}")
  return _metadata(path)


def pinned_step(folder: str | os.PathLike[str], origin: str) -> int | None:
  """Step of the autoencoder that made the latents of a folder; None without latents of `origin`."""
  path = pathlib.Path(folder) / MANIFEST
  metadata = _metadata(path) if path.is_file() else {}
  return metadata.get("step") if metadata.get("autoencoder") == origin else None


def _meet(name: str) -> None:
  """Waits until every process has come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _metadata(path: pathlib.Path) -> dict:
  try:
    return dict(json.loads(path.read_text(encoding="utf-8"))["metadata"])
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(f"{path} cannot be understood ({e!r}); remove it to encode again") from e


def _identity(data: DataConfig) -> dict:
  """The fields of a recipe that decide pixels and captions."""
  free = {"image_weight", "video_weight", "global_batch", "text_length", "cache"}
  return {k: v for k, v in vars(data).items() if k not in free}


def _mean(model: TAE, params, video: jax.Array) -> jax.Array:
  video = video.astype(jnp.float32) / 127.5 - 1.0
  return model.apply({"params": params}, video, method="encode")[0]


def _encode_source(source: Source, kind: str, target, run, identity: dict, batch: int) -> None:
  """One bucket of one split: shard by shard."""
  shards = -(-len(source) // SHARD)
  writer = RecordWriter(target, shards=shards, metadata=identity, compress=False)
  done = writer.finished_shards()
  name = f"latents {'/'.join(target.parts[-3:])}"
  progress = tqdm(total=len(source), desc=name, leave=False, disable=None)
  # Nobody writes before everybody has seen what there is.
  _meet(f"{target} begins")
  for shard in range(jax.process_index(), shards, jax.process_count()):
    indices = range(shard * SHARD, min((shard + 1) * SHARD, len(source)))
    if shard not in done:
      writer.write_shard(shard, _records(_Slice(source, indices), kind, run, batch, progress))
    else:
      progress.update(len(indices))
  progress.close()
  _meet(f"{target} ends")
  if jax.process_index() == 0 and not (target / MANIFEST).is_file():
    writer.finish()


def _records(source: "_Slice", kind: str, run, batch: int, progress: tqdm) -> Iterator[dict]:
  transform = VideoRow(frames=1 if kind == "image" else None)
  position = 0
  for rows in evaluation_batches(source, transform, batch=batch):
    latents = np.asarray(run(rows["video"]))
    for latent in latents[: int(rows["valid"].sum())]:
      clip = source.take(position)
      position += 1
      if not np.isfinite(latent).all():
        raise UserError(f"the autoencoder gives a latent that is not finite for clip {clip.key!r}")
      yield {"latent": latent, "fps": clip.fps, "captions": [clip.caption, *clip.variants]}
    progress.update(int(rows["valid"].sum()))


class _Slice:
  """A range of a source as a source of its own; a clip is decoded once and held until taken."""

  def __init__(self, source: Source, indices: range):
    self._source, self._indices = source, indices
    self._held: dict[int, Clip] = {}

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Clip:
    if index not in self._held:
      self._held[index] = self._source[self._indices[index]]
    return self._held[index]

  def take(self, index: int) -> Clip:
    """Clip `index`, which is then no longer held."""
    clip = self[index]
    del self._held[index]
    return clip


def _statistics(folder: pathlib.Path) -> tuple[list[float], list[float]]:
  """Per-channel mean and standard deviation over all latents of the buckets in a folder."""
  count, total, squares = 0, 0.0, 0.0
  for path in sorted(folder.iterdir()):
    source = RecordSource(path)
    for index in range(len(source)):
      latent = source[index]["latent"].astype(np.float64)
      latent = latent.reshape(-1, latent.shape[-1])
      count += len(latent)
      total = total + latent.sum(0)
      squares = squares + np.square(latent).sum(0)
  mean = total / count
  std = np.sqrt(np.maximum(squares / count - np.square(mean), 1e-12))
  return mean.tolist(), std.tolist()
