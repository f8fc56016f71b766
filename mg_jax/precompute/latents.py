"""Folders of latents: resumable shards of records, and a manifest that says what made them.

An interrupted run resumes with the missing shards; a finished folder is unchanged. Shards are
distributed over processes, which must share the folder.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mg_jax.core.distributed import on_main
from mg_jax.core.errors import UserError
from mg_jax.core.progress import track
from mg_jax.data import atomic
from mg_jax.data.condition_section import fixed
from mg_jax.data.conditions import Condition
from mg_jax.data.moments import Moments
from mg_jax.data.records import MANIFEST, RecordSource, RecordWriter
from mg_jax.data.schema import Sample, Source
from mg_jax.data.sources.mixture import SourceConfig
from mg_jax.models.weights import converted

SPLITS = ("train", "validation")
SHARD = 1024  # records per shard: the most that an interruption can lose


@dataclasses.dataclass(frozen=True)
class Part:
  """What is encoded into one folder: data that are no mixture.

  Attributes:
    data: the recipe, of the class of the stage's data.
    folder: of its latents.
    conditions: of the generator, by name, with the constants of the data.
    where: the config field of the data, for messages.
    identity: everything that determines the latents but the data, by name.
    source: what else the manifest says.
  """

  data: Any
  folder: pathlib.Path
  conditions: dict[str, Condition]
  where: str
  identity: dict[str, Any]
  source: dict[str, Any]


def encode_parts(
  data: SourceConfig,
  folder: pathlib.Path,
  identity: dict[str, Any],
  source: dict[str, Any],
  conditions: Mapping[str, Condition],
  encode: Callable[[Part], dict],
  *,
  train: Mapping[str, str],
) -> dict:
  """Encodes all entries of a mixture, each in a folder of its own; returns metadata of all.

  Args:
    data: the mixture; without one there is one entry, whose folder is `folder`.
    folder: of the latents.
    identity: everything that determines the latents of all entries.
    source: what else the manifest says.
    conditions: of the generator.
    encode: encodes one entry; returns the metadata of its manifest.
    train: entry -> the folder of its training latents that statistics are of.

  Raises:
    UserError: if the folder has latents of another mixture, and as `encode` does.
  """
  if not data.mixture:
    return encode(Part(data, folder, dict(conditions), "data", identity, source))
  mixed = identity | {"mixture": sorted(data.mixture)}
  # Before anything is encoded, and alike on all processes.
  metadata = on_main(finished, folder, mixed)
  parts = {}
  for name, part in data.parts.items():
    where = f"data.mixture.{name}"
    constant = fixed(conditions, part.constants, where=f"{where}.constants")
    parts[name] = encode(Part(part.data, folder / name, constant, where, identity, source))
  if metadata:
    return metadata
  clips = {split: sum(part["clips"][split] for part in parts.values()) for split in SPLITS}
  folders = [folder / name / path for name, path in train.items()]
  return finish(folder, folders, mixed | source | {"clips": clips})


def finished(
  folder: pathlib.Path,
  identity: dict[str, Any],
  *,
  content: Callable[[], str] | None = None,
  images: Callable[[], str] | None = None,
) -> dict | None:
  """Metadata in the manifest of a finished folder; None if there is no manifest.

  Args:
    folder: of latents.
    identity: everything that determines them, by name.
    content: digest of the clips that they come from, if these still exist.
    images: as `content`, of still images in their own folder.

  Raises:
    UserError: if they were encoded with another identity or content.
  """
  path = folder / MANIFEST
  if not path.is_file():
    return None
  metadata = _metadata(path)
  # What is empty may be missing.
  changed = [k for k, value in identity.items() if metadata.get(k, type(value)()) != value]
  if not changed:
    if content and metadata.get("content") != content():
      changed.append("clips")
    if images and metadata.get("images") != images():
      changed.append("images")
  if changed:
    raise UserError(
      f"{folder} has latents encoded with another {' and '.join(changed)}; remove it or use "
      "another workdir"
    )
  return metadata


def finish(
  folder: pathlib.Path, train: Iterable[pathlib.Path], metadata: dict[str, Any]
) -> dict:
  """Writes the manifest, with statistics of the latents in the folders of `train`; returns it."""

  def write() -> None:
    moments = Moments()
    for path in (path for folders in train for path in sorted(folders.iterdir())):
      moments.merge(RecordSource(path).moments("latent"))
    std = np.maximum(moments.std, 1e-6)
    statistics = {"mean": moments.mean.tolist(), "std": std.tolist()}
    atomic.write_json(folder / MANIFEST, {"metadata": metadata | statistics})

  on_main(write)
  return _metadata(folder / MANIFEST)


def pinned_step(
  folder: str | os.PathLike[str], origin: str, *, name: str = "autoencoder"
) -> int | None:
  """Step of the run that encoded the latents of a folder; None without latents of `origin`, and
  for converted weights, which have no others."""
  if converted.is_converted(origin):
    return None
  path = pathlib.Path(folder) / MANIFEST
  metadata = _metadata(path) if path.is_file() else {}
  return metadata.get("step") if metadata.get(name) == origin else None


def _barrier(name: str) -> None:
  """Barrier across processes."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _metadata(path: pathlib.Path) -> dict:
  try:
    return dict(json.loads(path.read_text(encoding="utf-8"))["metadata"])
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(f"{path} is malformed ({e!r}); remove it to encode again") from e


def write_records(
  source: Source,
  target: pathlib.Path,
  records: Callable[[Iterator[Sample]], Iterator[dict]],
  identity: dict[str, Any],
  *,
  size: int | None = None,
  compress: bool = False,
) -> None:
  """Writes a source as records, shard by shard; existing shards are kept.

  Args:
    source: of samples; each process encodes its share.
    target: the folder.
    records: from consecutive samples to a record of each, which has a "latent".
    identity: everything that determines the records.
    size: records per shard, SHARD by default.
    compress: as in `RecordWriter`.
  """
  size = size or SHARD
  shards = -(-len(source) // size)
  writer = RecordWriter(
    target, shards=shards, metadata=identity, compress=compress, moments="latent"
  )
  done = writer.finished_shards()
  name = f"latents {'/'.join(target.parts[-3:])}"
  progress = track(total=len(source), what=name)

  def counted(part: Iterator[dict]) -> Iterator[dict]:
    for record in part:
      yield record
      progress.update()

  # All processes list existing shards before any writes.
  _barrier(f"{target} begins")
  for shard in range(jax.process_index(), shards, jax.process_count()):
    indices = range(shard * size, min((shard + 1) * size, len(source)))
    if shard not in done:
      writer.write_shard(shard, counted(records(map(source.__getitem__, indices))))
    else:
      progress.update(len(indices))
  progress.close()
  _barrier(f"{target} ends")
  if jax.process_index() == 0 and not (target / MANIFEST).is_file():
    writer.finish()
