"""Sound of the files of a folder as a random-access source of pieces [MG 6.2].

Files are sound or video of any kind, rate and number of channels, in the folder and those below it,
known by their endings; others are listed as passed over.
`scan` decodes each once, to 16 bits of one channel in a cache, and lists what it had to reject and
why; it cuts what is left into segments of equal length, and holds out some. Samples beyond [-1, 1]
are clipped, and a constant offset stays. A segment counts as silent where no sample of it comes
within `silence_db` of full scale: those are left out of both splits, and a file of nothing else is
rejected. A sound shorter than a segment is one, followed by zeros.

A piece is one segment and, where there is more, the next one: a training row is cut from a random
place of it, an evaluation row is its beginning.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from typing import Any, Literal

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data import atomic
from mg_jax.data.media import audio
from mg_jax.data.media.containers import MediaError
from mg_jax.data.quarantine import Quarantine
from mg_jax.data.sources import folder
from mg_jax.data.sources.folder import HELD_OUT, Rejected, Split

# What FFmpeg reads: sound, then video.
SUFFIXES = tuple(dict.fromkeys((
  ".wav", ".w64", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".m4a", ".m4b", ".aac",
  ".ac3", ".aif", ".aiff", ".aifc", ".caf", ".wma", ".mka", ".weba", ".amr", ".au", ".wv", ".ape",
  ".tta", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv", ".ogv", ".3gp",
  *folder.SUFFIXES,
)))  # fmt: skip
_NOTES = (".txt", ".json", ".jsonl")  # captions and the like, which nobody takes for sound
CACHE = "sounds"  # folder of decoded files inside a cache
_NAMED = 8  # files passed over that are named
_LEVELS = 10  # peaks kept of a second of sound, by which silence is told
_LEAST_TAIL_S = 0.5  # shorter ones are not held out
_DECODERS = 2
_SCALE = 2**15


@dataclasses.dataclass(frozen=True)
class Sound:
  """A piece of sound: int16 (T,) of one channel, and a stable name for logs."""

  wave: np.ndarray
  key: str


@dataclasses.dataclass(frozen=True)
class Segment:
  """Samples [start, stop) of a decoded file, of which the first segment's worth belongs to it."""

  file: str
  decoded: str
  start: int
  stop: int
  split: Split


@dataclasses.dataclass(frozen=True)
class SoundIndex:
  """What a scan found, in the order of the file names.

  Attributes:
    folder: that was scanned.
    rate: of the decoded sound in Hz.
    segments: of both splits.
    silent: how many were left out.
    rejected: files that give none; `reason` is a `media.Reason` or "silent".
    passed: files passed over for their endings.
  """

  folder: str
  rate: int
  segments: tuple[Segment, ...]
  silent: int
  rejected: tuple[Rejected, ...]
  passed: tuple[str, ...] = ()

  def count(self, split: Split) -> int:
    """Segments of a split."""
    return sum(segment.split == split for segment in self.segments)

  def write_report(self, path: str | os.PathLike[str]) -> None:
    """Writes the rejected files as JSON lines, atomically."""
    atomic.write_jsonl(path, [dataclasses.asdict(item) for item in self.rejected])


def scan(
  path: str | os.PathLike[str],
  *,
  cache: str | os.PathLike[str],
  samples: int,
  rate: int = audio.RATE,
  silence_db: float = -60.0,
  holdout: Literal["file", "tail", "none"] = "file",
) -> SoundIndex:
  """Decodes what the cache lacks, and cuts the sounds of a folder into segments.

  Args:
    path: the folder.
    cache: where decoded sound is kept, as much as 2 bytes a sample; files that changed are decoded
      again.
    samples: of a segment.
    rate: of the decoded sound.
    silence_db: level of the loudest sample below which a segment is silent.
    holdout: as in `folder.scan`; "tail" is the last fifth of each sound, but for those
      too short to hold out half a second.

  Raises:
    UserError: the folder is missing or unreadable, or no file of it is usable.
  """
  if samples < 1:
    raise ValueError(f"segments need a length, got {samples}")
  (names, passed), root = list_files(path), pathlib.Path(cache) / CACHE
  with concurrent.futures.ThreadPoolExecutor(_DECODERS) as pool:
    found = list(pool.map(lambda name: _decoded(pathlib.Path(path, name), root, rate), names))
  segments: list[Segment] = []
  rejected: list[Rejected] = []
  silent = 0
  for name, item in zip(names, found, strict=True):
    if isinstance(item, MediaError):
      rejected.append(Rejected(name, item.reason, item.detail))
      continue
    cuts = _cuts(name, item, samples, holdout=holdout, rate=rate)
    loud = [cut for cut in cuts if _peak(item, cut, samples, rate) >= 10 ** (silence_db / 20)]
    silent += len(cuts) - len(loud)
    segments += loud
    if not loud:
      rejected.append(Rejected(name, "silent", f"no sample comes within {silence_db:g} dB"))
  if not segments:
    first = rejected[0]
    raise UserError(
      f"{path}: none of {len(names)} files is usable, the first being {first.file} "
      f"({first.detail}); add files that hold sound"
    )
  if all(segment.split == "validation" for segment in segments):
    # The hash held out every one of a handful of files: there would be nothing to train on.
    segments = [dataclasses.replace(segment, split="train") for segment in segments]
  return SoundIndex(os.fspath(path), rate, tuple(segments), silent, tuple(rejected), passed)


class SoundSource:
  """Random access to the pieces of one split; one that cannot be read is replaced and counted.

  Args:
    index: from `scan`.
    split: "train" or "validation".
    limit: share of the pieces that may fail, see `Quarantine`.
  """

  def __init__(self, index: SoundIndex, split: Split = "train", *, limit: float = 0.05):
    self.segments = tuple(s for s in index.segments if s.split == split)
    if not self.segments:
      raise UserError(
        f"{index.folder}: the {split} split holds no sound; add files, or set data.holdout=tail"
      )
    self._rate = index.rate
    self.quarantine = Quarantine(
      self._read, len(self.segments), errors=(OSError, ValueError), name=self._key, limit=limit
    )

  def __len__(self) -> int:
    return len(self.segments)

  def __getitem__(self, index: int) -> Sound:
    if not 0 <= index < len(self.segments):
      raise IndexError(f"segment {index} of {len(self.segments)}")
    return self.quarantine.read(index)

  def _key(self, index: int) -> str:
    segment = self.segments[index]
    return f"{segment.file}@{segment.start / self._rate:.3f}"

  def _read(self, index: int) -> Sound:
    segment = self.segments[index]
    count = segment.stop - segment.start
    wave = np.fromfile(segment.decoded, "<i2", count=count, offset=2 * segment.start)
    if len(wave) != count:
      raise ValueError(f"{segment.decoded} ends early; start again, and it is decoded anew")
    return Sound(wave, self._key(index))


def list_files(
  path: str | os.PathLike[str], *, below: bool = True
) -> tuple[list[str], tuple[str, ...]]:
  """Names of the files of a folder that may hold sound, and of those passed over, both in order.

  Hidden files are left out, and files of text beside the media are not counted as passed over.

  Args:
    path: the folder.
    below: whether the folders below it are read too.

  Raises:
    UserError: the folder is missing or holds no such file.
  """
  if not os.path.isdir(path):
    raise UserError(f"{os.fspath(path)}: there is no such folder; give a folder of sounds")
  found, names, passed = [], [], []
  for parent, folders, files in os.walk(path):
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    # Without those below, a folder that is named like a file is listed, to be rejected by name.
    files = files if below else files + folders
    found += [os.path.relpath(os.path.join(parent, name), path) for name in files]
    if not below:
      break
  for name in sorted(found):
    if os.path.basename(name).startswith("."):
      continue
    if name.lower().endswith(SUFFIXES):
      names.append(name)
    elif not name.lower().endswith(_NOTES) and os.path.isfile(os.path.join(path, name)):
      passed.append(name)
  if not names:
    raise UserError(
      f"{os.fspath(path)} holds no sound; put files ending in {', '.join(SUFFIXES)} there"
    )
  return names, tuple(passed)


def log_passed(log: logging.Logger, path: str, passed: tuple[str, ...]) -> None:
  """Logs how many files were passed over, and the first of them by name."""
  if passed:
    more = ", ..." if len(passed) > _NAMED else ""
    log.warning(
      "%s: passed over for unknown endings (%d): %s%s", path, len(passed),
      ", ".join(passed[:_NAMED]), more,
    )  # fmt: skip


def _decoded(path: pathlib.Path, root: pathlib.Path, rate: int) -> dict[str, Any] | MediaError:
  """{"path", "samples", "levels"} of a file's sound in the cache, where it is put if need be."""
  try:
    stat = path.stat()
  except OSError as error:
    return MediaError("missing", path, f"it cannot be opened ({error.strerror})")
  digest = hashlib.sha256(
    json.dumps([os.path.realpath(path), stat.st_size, stat.st_mtime_ns, rate]).encode()
  ).hexdigest()[:32]
  target, record = root / f"{digest}.s16", root / f"{digest}.json"
  if record.exists() and target.exists():
    found = json.loads(record.read_text(encoding="utf-8"))
    if target.stat().st_size == 2 * found["samples"]:
      return {"path": str(target), **found}
  try:
    levels = _decode(path, target, rate)
    found = {"samples": target.stat().st_size // 2, "levels": levels}
    atomic.write_json(record, found)
  except MediaError as error:
    return error
  except OSError as error:
    raise UserError(f"{root} cannot be written ({error}); choose another data.cache") from error
  return {"path": str(target), **found}


def _decode(path: pathlib.Path, target: pathlib.Path, rate: int) -> list[int]:
  """Writes the sound of a file; returns the largest |sample| of every tenth of a second."""
  size, levels, held = max(1, rate // _LEVELS), [], np.zeros(0, np.int16)
  with atomic.replacing(target) as partial, open(partial, "wb") as file:
    for block in audio.read_blocks(path, rate=rate):
      wave = np.round(block * np.float64(_SCALE)).clip(-_SCALE, _SCALE - 1).astype("<i2")
      file.write(wave.tobytes())
      held = np.concatenate([held, wave])
      whole = len(held) // size * size
      levels += np.abs(held[:whole].astype(np.int32)).reshape(-1, size).max(axis=1).tolist()
      held = held[whole:]
  return levels + ([int(np.abs(held.astype(np.int32)).max())] if len(held) else [])


def _cuts(
  name: str, decoded: dict[str, Any], samples: int, *, holdout: str, rate: int
) -> list[Segment]:
  """Segments of a file; a piece never reaches from one split into the other."""
  length = decoded["samples"]
  # Where the tail begins may not depend on the segments, which differ between the splits.
  border = round(length * (1 - HELD_OUT))
  if holdout == "tail" and length - border >= _LEAST_TAIL_S * rate:
    parts = [(0, border, "train"), (border, length, "validation")]
  else:
    held = holdout == "file" and folder.held_out(name)
    parts = [(0, length, "validation" if held else "train")]
  cuts = []
  for low, high, split in parts:
    for start in range(low, max(high - samples, low) + 1, samples):
      stop = min(start + 2 * samples, high)
      cuts.append(Segment(name, decoded["path"], start, stop, split))
  return cuts


def _peak(decoded: dict[str, Any], cut: Segment, samples: int, rate: int) -> float:
  """The largest |sample| of a segment, to a tenth of a second at its ends, from 0 to 1."""
  size = max(1, rate // _LEVELS)
  end = min(cut.start + samples, cut.stop)
  return max(decoded["levels"][cut.start // size : -(-end // size)]) / _SCALE
