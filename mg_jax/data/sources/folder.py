"""A folder of media files as random-access sources of samples [MG 3.2.1, 6.2].

Shared by clips, still images, sounds and soundtracks: `scan` lists the files of a kind, probes each
once, rejects unusable ones with a reason, cuts the others into pieces by a function of the medium,
and holds out some; `PieceSource` reads pieces on demand by another function. Captions come from
`data.text.captions`, files from `data.media.files`.
"""

import dataclasses
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from mg_jax.core.errors import UserError
from mg_jax.data import atomic
from mg_jax.data.buckets import Bucket
from mg_jax.data.media import files as mediafiles
from mg_jax.data.media.containers import MediaError
from mg_jax.data.media.files import Kind
from mg_jax.data.quarantine import Quarantine
from mg_jax.data.schema import Sample, Split
from mg_jax.data.text.captions import Caption, read_captions

_log = logging.getLogger(__name__)
REPORT = mediafiles.REPORT
HELD_OUT = 0.2
SHOWN = 64  # training pieces used for validation if a folder holds out none

Holdout = Literal["file", "tail", "none"]


class _Words(NamedTuple):
  """Words for a kind in messages: its files, a piece of them, what evaluations do with it."""

  files: str
  piece: str
  sense: str
  advice: str


_WORDS: dict[Kind, _Words] = {
  "video": _Words(
    "videos", "clip", "see", "add longer or readable videos, or choose a smaller bucket"
  ),
  "image": _Words(
    "images", "image", "see", "add larger or readable images, or choose a smaller bucket"
  ),
  "sound": _Words("files", "sound", "hear", "add files that hold sound"),
}


@dataclasses.dataclass(frozen=True)
class Piece:
  """A part of a file that is read as one sample.

  Attributes:
    file: its name in the folder.
    split: "train" or "validation".
    start_s: its start in s.
    seconds: its duration; 0 for an image.
    kind: whether it is read with its picture ("video", "image") or is sound alone.
    bucket: shape of its frames, if the medium has buckets.
    path: the file to open, filled in by `scan` if it is the file itself.
    caption: of the file, filled in by `scan`.
  """

  file: str
  split: Split
  start_s: float
  seconds: float
  kind: Kind
  bucket: Bucket | None = None
  path: str = ""
  caption: Caption = Caption()

  @property
  def key(self) -> str:
    return self.file if mediafiles.is_still(self.file) else f"{self.file}@{self.start_s:.3f}"


@dataclasses.dataclass(frozen=True)
class Rejected:
  """A file that is not used; `reason` is a `media.Reason`, "no_bucket", "too_small" or "silent"."""

  file: str
  reason: str
  detail: str


@dataclasses.dataclass(frozen=True)
class Index:
  """Result of a scan, in the order of the file names.

  Attributes:
    folder: the scanned folder.
    kind: of its files.
    pieces: of both splits.
    rejected: files without pieces.
    silent: number of pieces dropped as silent.
  """

  folder: str
  kind: Kind
  pieces: tuple[Piece, ...]
  rejected: tuple[Rejected, ...] = ()
  silent: int = 0

  def count(self, split: Split) -> int:
    """Number of pieces of a split."""
    return sum(piece.split == split for piece in self.pieces)

  def buckets(self, split: Split = "train") -> dict[Bucket, int]:
    """Counts the pieces of a split per bucket, largest first."""
    counts: dict[Bucket, int] = {}
    for piece in self.pieces:
      if piece.split == split and piece.bucket:
        counts[piece.bucket] = counts.get(piece.bucket, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0].name)))

  def shown(self) -> "Index":
    """The index; if nothing is held out, its first pieces count as validation too."""
    if self.count("validation"):
      return self
    words, more = _WORDS[self.kind], "" if self.kind == "image" else "data.holdout=tail or "
    _log.warning(
      "%s: no %s is held out, so evaluations %s training data; %smore files would hold some out",
      self.folder, words.piece, words.sense, more,
    )  # fmt: skip
    shown = (dataclasses.replace(piece, split="validation") for piece in self.pieces[:SHOWN])
    return dataclasses.replace(self, pieces=(*self.pieces, *shown))


def write_report(path: str | os.PathLike[str], indices: Iterable[Index]) -> None:
  """Writes the rejected files of all folders as JSON lines, atomically.

  If nothing is rejected no file is created, but one of an earlier scan is emptied.
  """
  rows = [
    {"folder": index.folder, **dataclasses.asdict(item)}
    for index in indices
    for item in index.rejected
  ]
  if rows or os.path.exists(path):
    atomic.write_jsonl(path, rows)


def scan(
  folder: str | os.PathLike[str],
  kind: Kind,
  *,
  probe: Callable[[str], Any],
  cut: Callable[[str, Any], list[Piece] | Rejected],
  below: bool = False,
  captions: Literal["required", "optional", "none"] = "required",
  workers: int = 4,
  log: bool = True,
) -> Index:
  """Probes the files of a kind in a folder and cuts them into pieces.

  If the hash of the names holds out every one of a handful of files, all are trained on.

  Args:
    folder: the folder.
    kind: which files are read.
    probe: path -> properties that `cut` needs; raises MediaError if the file is unusable.
    cut: (name, properties) -> the pieces of a file, or why it is rejected.
    below: whether subfolders are read too.
    captions: whether a usable file needs a caption, may have one, or none are read. For a sound, a
      sound caption suffices.
    workers: files that are probed in parallel.
    log: whether skipped and rejected files are logged.

  Raises:
    UserError: if the folder is missing, unreadable or without such files, a caption is missing, or
      no file is usable.
  """
  names = mediafiles.list_files(folder, kind, below=below, log=log)
  probed = mediafiles.probe_all(folder, names, probe, workers=workers)
  by_name: dict[str, Caption] = {}
  if captions != "none":
    usable = [name for name in names if not isinstance(probed[name], MediaError)]
    required = captions == "required"
    by_name = read_captions(folder, usable, required=required, sound=kind == "sound")
  pieces: list[Piece] = []
  rejected: list[Rejected] = []
  for name in names:
    info = probed[name]
    if isinstance(info, MediaError):
      cuts = Rejected(name, info.reason, info.detail)
    else:
      cuts = cut(name, info)
    if isinstance(cuts, Rejected):
      rejected.append(cuts)
      if log:
        _log.warning("%s is not used: %s (%s)", name, cuts.reason, cuts.detail)
      continue
    path = os.path.join(folder, name)
    pieces += [
      dataclasses.replace(piece, path=piece.path or path, caption=by_name.get(name, Caption()))
      for piece in cuts
    ]
  if not pieces:
    first, words = rejected[0], _WORDS[kind]
    raise UserError(
      f"{folder}: none of {len(names)} {words.files} is usable, the first being {first.file} "
      f"({first.detail}); {words.advice}."
    )
  if all(piece.split == "validation" for piece in pieces):
    pieces = [dataclasses.replace(piece, split="train") for piece in pieces]
  if log:
    words = _WORDS[kind]
    _log.info("%s: %d %ss, %d files rejected", folder, len(pieces), words.piece, len(rejected))
  return Index(os.fspath(folder), kind, tuple(pieces), tuple(rejected))


def held_out(name: str) -> bool:
  """Whether a file belongs to the held-out fifth, by a hash of its name."""
  digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
  return int.from_bytes(digest, "big") < HELD_OUT * 2**64


def split_of(name: str, holdout: Holdout) -> Split:
  """The split of a whole file."""
  return "validation" if holdout == "file" and held_out(name) else "train"


def parts(
  name: str, length: float, border: float, holdout: Holdout, *, least: float
) -> list[tuple[float, float, Split]]:
  """(from, to, split) of the parts of a file, in the unit of time of the arguments.

  Args:
    name: of the file.
    length: of the file.
    border: start of its tail.
    holdout: "file" holds out by name, "tail" the tail, "none" nothing.
    least: a shorter tail is not held out.
  """
  if holdout == "tail" and length - border >= least:
    return [(0, border, "train"), (border, length, "validation")]
  return [(0, length, split_of(name, holdout))]


class PieceSource:
  """Random access to pieces of one split; unreadable ones are replaced and counted.

  Args:
    index: from `scan`.
    read: from a piece to a sample; raises MediaError if that fails.
    split: "train" or "validation".
    bucket: if given, only pieces of this bucket.
    kind: if given, only pieces of this kind.
    limit: fraction of the pieces that may fail, see `Quarantine`.

  Raises:
    UserError: if there are no such pieces.
  """

  def __init__(
    self,
    index: Index,
    read: Callable[[Piece], Sample],
    split: Split = "train",
    *,
    bucket: Bucket | None = None,
    kind: Kind | None = None,
    limit: float = 0.05,
  ):
    self.pieces = tuple(
      piece
      for piece in index.pieces
      if piece.split == split and bucket in (None, piece.bucket) and kind in (None, piece.kind)
    )
    if not self.pieces:
      counts = {b.name: count for b, count in index.buckets(split).items()}
      where = f" in bucket {bucket.name}, only {counts}" if bucket else ""
      raise UserError(
        f"{index.folder}: the {split} split has no {_WORDS[kind or index.kind].piece}{where}; "
        "add files, or set data.holdout=tail"
      )
    self._reader = read
    self.quarantine = Quarantine(
      self._read, len(self.pieces), errors=(MediaError,), name=self._key, limit=limit,
      setting="data.bad_limit",
    )  # fmt: skip

  def __len__(self) -> int:
    return len(self.pieces)

  def __getitem__(self, index: int) -> Sample:
    if not 0 <= index < len(self.pieces):
      raise IndexError(f"piece {index} of {len(self.pieces)}")
    return self.quarantine.read(index)

  def _read(self, index: int) -> Sample:
    return self._reader(self.pieces[index])

  def _key(self, index: int) -> str:
    return self.pieces[index].key


def content(
  folder: str | os.PathLike[str], *, kind: Kind = "video", given: Sequence[str] = ()
) -> str:
  """A digest of the names, sizes and captions of a folder's files of a kind, without opening them.

  It includes the values of the conditions named by `given`, but not the files that these name.

  Entries that are not regular files, or have vanished, give no piece and do not count; for "sound"
  they do, and so do sound captions, to keep the names of existing latents of soundtracks.
  """
  names = mediafiles.list_files(folder, kind)
  stats = {name: _stat(os.path.join(folder, name)) for name in names}
  if kind != "sound":
    stats = {n: status for n, status in stats.items() if status and stat.S_ISREG(status.st_mode)}
  by_name = read_captions(folder, list(stats), required=False)
  fields = 3 if kind == "sound" else 2
  rows = [[n, status and status.st_size, *by_name[n][:fields]] for n, status in stats.items()]
  if given:
    rows += [[n, {key: by_name[n].given.get(key) for key in given}] for n in stats]
  return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _stat(path: str) -> os.stat_result | None:
  try:
    return os.stat(path)
  except OSError:
    return None
