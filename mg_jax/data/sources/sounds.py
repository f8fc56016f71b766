"""Sound of the files of a folder as a random-access source of pieces [MG 6.2].

Files are sound or video of any kind, rate and number of channels, in the folder and those below it,
known by their endings; others are listed as passed over.
`scan` decodes each once, to 16 bits of one channel in a cache; it cuts what is left into segments
of equal length, and holds out some. Samples beyond [-1, 1] are clipped, and a constant offset
stays. A segment counts as silent where no sample of it comes within `silence_db` of full scale:
those are left out of both splits, and a file of nothing else is rejected. A sound shorter than a
segment is one, followed by zeros.

A piece is one segment and, where there is more, the next one: a training row is cut from a random
place of it, an evaluation row is its beginning.
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
_LEVELS = 10  # peaks kept of a second of sound, by which silence is told
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
  """Decodes what the cache lacks, and cuts the sounds of a folder into segments.

  Args:
    path: the folder.
    cache: where decoded sound is kept, as much as 2 bytes a sample; files that changed are decoded
      again.
    samples: of a segment.
    rate: of the decoded sound.
    silence_db: level of the loudest sample below which a segment is silent.
    holdout: as in `clips.scan`; "tail" is the last fifth of each sound, but for those too short to
      hold out half a second.
    log: as for `folder.scan`.

  Raises:
    UserError: the folder is missing or unreadable, no file of it is usable, or the cache cannot be
      written.
  """
  if samples < 1:
    raise ValueError(f"segments need a length, got {samples}")
  silent = 0

  def cut(name: str, decoded: dict[str, Any]) -> list[Piece] | Rejected:
    nonlocal silent
    length = decoded["samples"]
    # Where the tail begins may not depend on the segments, which differ between the splits.
    border = round(length * (1 - HELD_OUT))
    found = []
    for low, high, split in folder.parts(
      name, length, border, holdout, least=_LEAST_TAIL_S * rate
    ):
      # A piece never reaches from one split into the other.
      for start, stop in segments(low, high, samples):
        if _peak(decoded, start, min(start + samples, stop), rate) >= 10 ** (silence_db / 20):
          found.append(piece(name, decoded["path"], start, stop, split, rate=rate))
        else:
          silent += 1
    return found or Rejected(name, "silent", f"no sample comes within {silence_db:g} dB")

  root = pathlib.Path(cache) / CACHE
  index = folder.scan(
    path, "sound", probe=lambda file: _decoded(pathlib.Path(file), root, rate), cut=cut, below=True,
    captions="none", workers=_DECODERS, log=log,
  )  # fmt: skip
  return dataclasses.replace(index, silent=silent)


def segments(low: int, high: int, samples: int) -> list[tuple[int, int]]:
  """(start, stop) of pieces that begin every `samples` of a sound and are up to twice as long."""
  return [
    (start, min(start + 2 * samples, high))
    for start in range(low, max(high - samples, low) + 1, samples)
  ]


def piece(name: str, path: str, start: int, stop: int, split: Split, *, rate: int) -> Piece:
  """Samples [start, stop) of decoded sound in the file at `path`."""
  return Piece(name, split, start / rate, (stop - start) / rate, "sound", path=path)


def read(piece: Piece, *, rate: int) -> Sample:
  """The sound of a piece, int16 (samples,), at the rate it was decoded to."""
  start, count = round(piece.start_s * rate), round(piece.seconds * rate)
  try:
    wave = np.fromfile(piece.path, "<i2", count=count, offset=2 * start)
  except OSError as error:
    raise MediaError("missing", piece.path, f"it cannot be read ({error.strerror})") from error
  if len(wave) != count:
    raise MediaError("truncated", piece.path, "it ends early; start again to decode it anew")
  return Sample(None, 0, 0.0, "", piece.key, wave=wave)


def _decoded(path: pathlib.Path, root: pathlib.Path, rate: int) -> dict[str, Any]:
  """{"path", "samples", "levels"} of a file's sound in the cache, where it is put if need be."""
  try:
    stat = path.stat()
  except OSError as error:
    raise MediaError("missing", path, f"it cannot be opened ({error.strerror})") from error
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


def _peak(decoded: dict[str, Any], start: int, end: int, rate: int) -> float:
  """The largest |sample| of a stretch, to a tenth of a second at its ends, from 0 to 1."""
  size = max(1, rate // _LEVELS)
  return max(decoded["levels"][start // size : -(-end // size)]) / _SCALE
