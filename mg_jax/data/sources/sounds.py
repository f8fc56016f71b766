"""Sound of the files of a folder as a random-access source of pieces [MG 6.2].

Files are sound or video of any format, sample rate and number of channels, in the folder and its
subfolders, selected by extension; skipped files are logged. `scan` decodes each once, to 16-bit
mono in a cache, cuts it into segments of equal length, and holds out some. Samples beyond [-1, 1]
are clipped, and a DC offset is kept. A segment is silent if its peak is below `silence_db` of full
scale: silent segments are in neither split, and a file of only silent ones is rejected. A sound
shorter than a segment is zero-padded to one.

A piece is one segment and, if there is more, the next one: a training row is cropped at a random
position of it, an evaluation row at its beginning.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data import atomic
from mg_jax.data.media import audio
from mg_jax.data.media.containers import MediaError
from mg_jax.data.schema import Sample, Split
from mg_jax.data.sources import folder
from mg_jax.data.sources.folder import HELD_OUT, Holdout, Index, Piece, Rejected

CACHE = "sounds"  # folder of decoded files inside a cache
_LEVELS = 10  # peaks kept per second of sound, for detecting silence
_LEAST_TAIL_S = 0.5  # shorter ones are not held out
_DECODERS = 2
_SCALE = 2**15


def scan(
  path: str | os.PathLike[str],
  *,
  cache: str | os.PathLike[str],
  samples: int,
  rate: int = audio.RATE,
  silence_db: float = -60.0,
  holdout: Holdout = "file",
  log: bool = True,
) -> Index:
  """Decodes files that are not in the cache, and cuts the sounds of a folder into segments.

  Args:
    path: the folder.
    cache: folder of decoded sound, 2 bytes per sample; changed files are decoded again.
    samples: length of a segment.
    rate: sample rate of the decoded sound in Hz.
    silence_db: peak level below which a segment is silent.
    holdout: as in `clips.scan`; "tail" is the last fifth of each sound, except for sounds too short
      to hold out half a second.
    log: as in `folder.scan`.

  Raises:
    UserError: if the folder is missing or unreadable, no file of it is usable, or the cache cannot
      be written.
  """
  if samples < 1:
    raise ValueError(f"segments need a length, got {samples}")
  silent = 0

  def cut(name: str, decoded: dict[str, Any]) -> list[Piece] | Rejected:
    nonlocal silent
    length = decoded["samples"]
    # The start of the tail may not depend on the segments, which differ between the splits.
    border = round(length * (1 - HELD_OUT))
    pieces = []
    for low, high, split in folder.parts(
      name, length, border, holdout, least=_LEAST_TAIL_S * rate
    ):
      # A piece never reaches from one split into the other.
      for start, stop in segments(low, high, samples):
        if _peak(decoded, start, min(start + samples, stop), rate) >= 10 ** (silence_db / 20):
          pieces.append(piece(name, decoded["path"], start, stop, split, rate=rate))
        else:
          silent += 1
    return pieces or Rejected(name, "silent", f"no sample exceeds {silence_db:g} dB")

  root = pathlib.Path(cache) / CACHE
  index = folder.scan(
    path, "sound", probe=lambda file: _decoded(pathlib.Path(file), root, rate), cut=cut, below=True,
    captions="none", workers=_DECODERS, log=log,
  )  # fmt: skip
  return dataclasses.replace(index, silent=silent)


def segments(low: int, high: int, samples: int) -> list[tuple[int, int]]:
  """(start, stop) of pieces that start every `samples` and are up to twice as long."""
  return [
    (start, min(start + 2 * samples, high))
    for start in range(low, max(high - samples, low) + 1, samples)
  ]


def piece(name: str, path: str, start: int, stop: int, split: Split, *, rate: int) -> Piece:
  """Samples [start, stop) of decoded sound in the file at `path`."""
  return Piece(name, split, start / rate, (stop - start) / rate, "sound", path=path)


def read(piece: Piece, *, rate: int) -> Sample:
  """The sound of a piece, int16 (samples,), at the sample rate of the cache."""
  start, count = round(piece.start_s * rate), round(piece.seconds * rate)
  try:
    wave = np.fromfile(piece.path, "<i2", count=count, offset=2 * start)
  except OSError as error:
    raise MediaError("missing", piece.path, f"it cannot be read ({error.strerror})") from error
  if len(wave) != count:
    raise MediaError("truncated", piece.path, "it ends early; restart to decode it again")
  return Sample(None, 0, 0.0, "", piece.key, wave=wave)


def _decoded(path: pathlib.Path, root: pathlib.Path, rate: int) -> dict[str, Any]:
  """{"path", "samples", "levels"} of a file's sound in the cache, decoded if missing."""
  try:
    stat = path.stat()
  except OSError as error:
    raise MediaError("missing", path, f"it cannot be opened ({error.strerror})") from error
  digest = hashlib.sha256(
    json.dumps([os.path.realpath(path), stat.st_size, stat.st_mtime_ns, rate]).encode()
  ).hexdigest()[:32]
  target, record = root / f"{digest}.s16", root / f"{digest}.json"
  if record.exists() and target.exists():
    fields = json.loads(record.read_text(encoding="utf-8"))
    if target.stat().st_size == 2 * fields["samples"]:
      return {"path": str(target), **fields}
  try:
    levels = _decode(path, target, rate)
    fields = {"samples": target.stat().st_size // 2, "levels": levels}
    atomic.write_json(record, fields)
  except OSError as error:
    raise UserError(f"{root} cannot be written ({error}); choose another data.cache") from error
  return {"path": str(target), **fields}


def _decode(path: pathlib.Path, target: pathlib.Path, rate: int) -> list[int]:
  """Writes the sound of a file; returns the peak of every tenth of a second."""
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


def _peak(decoded: dict[str, Any], start: int, end: int, rate: int) -> float:
  """The peak of [start, end), from 0 to 1; the ends are rounded outwards to a tenth of a second."""
  size = max(1, rate // _LEVELS)
  return max(decoded["levels"][start // size : -(-end // size)]) / _SCALE
