"""From the data section of a config to sources and training streams, by entry, bucket and split."""

import collections
import functools
import os
import pathlib
from collections.abc import Iterable, Mapping
from fractions import Fraction

from mg_jax.core.errors import UserError
from mg_jax.data.media.files import Kind
from mg_jax.data.pipeline import Entry, Feed, weights
from mg_jax.data.records import RecordSource
from mg_jax.data.schema import Source, Split
from mg_jax.data.sources import clips, toy
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.sources.folder import Index, PieceSource
from mg_jax.data.sources.mixture import groups
from mg_jax.data.transforms import FrameRow, LatentRow, VideoRow


def open_sources(config: DataConfig, split: Split, kind: Kind = "video") -> dict[str, Source]:
  """Sources of clips by bucket name, e.g. {"16x32x32": ...}, of a recipe that is no mixture.

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


def indices(config: DataConfig, kinds: Iterable[Kind] | None = None) -> list[Index]:
  """The indices of the folders that a recipe reads, or those of these kinds, each once."""
  read = groups(config) if kinds is None else [
    (name, kind, None) for name in config.parts for kind in kinds
  ]
  unique = {}
  for name, kind, _ in read:
    if index := _scan(config.parts[name].data, kind):
      unique[index.folder, index.kind] = index
  return list(unique.values())


def _scan(config: DataConfig, kind: Kind) -> Index | None:
  """The index of the folder of a kind; None for the toy world."""
  if kind == "image" and config.images:
    return scan(config, "image")
  return None if config.source == "toy" else scan(config, "video")


@functools.lru_cache(maxsize=64)
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
  lengths = config.lengths or (None,)
  # One image entry per length keeps the ratio of the weights.
  cuts = {"image": (1,) * len(lengths), "video": lengths}
  opened: dict[tuple[str, Kind], dict[str, Source]] = {}
  for name, kind, _ in groups(config):
    data = config.parts[name].data
    # Images that are frames of clips are those of the same sources.
    frames = opened.get((name, "video")) if kind == "image" and not data.images else None
    opened[name, kind] = frames or open_sources(data, "train", kind)
  entries = []
  for name, kind, bucket, source, weight in _weighted(config, opened):
    rows = config.rows(kind) // config.global_batch
    for length, count in collections.Counter(cuts[kind]).items():
      label = _label(name, kind, bucket) + (f"/{length}" if kind == "video" and length else "")
      entries.append(Entry(label, source, VideoRow(frames=length), weight * count, rows))
  return Feed(tuple(entries), config.global_batch, seed=config.seed)


def frame_feed(config: DataConfig, row: FrameRow) -> Feed:
  """The training stream of a contrastive model: stills or middle frames with captions."""
  parts = config.parts
  opened = [open_sources(part.data, "train", "image") for part in parts.values()]
  shares = [
    (Fraction(part.weight), [len(source) for source in sources.values()])
    for part, sources in zip(parts.values(), opened, strict=True)
  ]
  entries = []
  for name, sources, found in zip(parts, opened, weights(shares), strict=True):
    for (bucket, source), weight in zip(sources.items(), found, strict=True):
      label = f"{name}/frame/{bucket}".lstrip("/")
      entries.append(Entry(label, source, row, weight))
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
  config: DataConfig, latents: str | os.PathLike[str], rows: Mapping[str, LatentRow]
) -> Feed:
  """The training stream of a generator: image and video batches of cached latents.

  Args:
    config: the recipe.
    latents: their folder; entries of a mixture have folders of their own in it.
    rows: the transform of every entry.
  """
  opened = {
    (name, kind): latent_sources(
      pathlib.Path(latents) / name, "train", kind, limit=config.bad_limit
    )
    for name, kind, _ in groups(config)
  }
  entries = [
    Entry(
      _label(name, kind, bucket), source, rows[name], weight,
      config.rows(kind) // config.global_batch,
    )
    for name, kind, bucket, source, weight in _weighted(config, opened)
  ]  # fmt: skip
  return Feed(tuple(entries), config.global_batch, seed=config.seed)


def _weighted(config: DataConfig, opened: Mapping[tuple[str, Kind], Mapping[str, Source]]):
  """(entry, kind, bucket, source, weight): a kind's share is divided by volume [MG 3.2.2]."""
  read = groups(config)
  shares = [
    (share, [len(source) for source in opened[name, kind].values()]) for name, kind, share in read
  ]
  for (name, kind, _), found in zip(read, weights(shares), strict=True):
    for (bucket, source), weight in zip(opened[name, kind].items(), found, strict=True):
      yield name, kind, bucket, source, weight


def _label(name: str, kind: Kind, bucket: str) -> str:
  return f"{name}/{kind}/{bucket}".lstrip("/")


def _name(config: DataConfig) -> str:
  return f"{config.frames}x{config.height}x{config.width}"
