"""Sound of the toy world for training a codec: the waveforms of scenes, rendered once to a file.

The counterpart of `sounds`. The scenes of a split are those of `toy`, so the same ones are held
out; lengths vary, and silent scenes are dropped.
"""

import hashlib
import json
import os
import pathlib

from mg_jax.core.progress import track
from mg_jax.data import atomic
from mg_jax.data.schema import Split
from mg_jax.data.sources.folder import Index, Piece
from mg_jax.data.sources.sounds import CACHE, piece, segments
from mg_jax.data.sources.toy import VALIDATION_START, World, waveform, world


def scan(
  name: World,
  *,
  cache: str | os.PathLike[str],
  samples: int,
  rate: int,
  train: int,
  validation: int,
  seed: int,
) -> Index:
  """Renders what is not cached; a segment starts every `samples` of a scene, as in `sounds.scan`.

  Args:
    name: of the world.
    cache: folder of rendered waveforms.
    samples: length of a segment.
    rate: in Hz, 16000 or more.
    train: scenes of the training split.
    validation: held-out scenes.
    seed: of the world.

  Raises:
    UserError: if the sample rate is too low for the highest sounds.
  """
  pieces: list[Piece] = []
  silent = 0
  splits: tuple[tuple[Split, int, int], ...] = (
    ("train", 0, train), ("validation", VALIDATION_START, validation)
  )  # fmt: skip
  for split, first, count in splits:
    path, lengths = _rendered(name, cache, rate=rate, first=first, count=count, seed=seed)
    begin = 0
    for index, length in enumerate(lengths):
      end = begin + abs(length)
      if length <= 0:
        silent += 1
      else:
        pieces += [
          piece(f"toy/{seed}/{first + index}", path, start, stop, split, rate=rate)
          for start, stop in segments(begin, end, samples)
        ]
      begin = end
  return Index(f"the toy world {name!r}", "sound", tuple(pieces), silent=silent)


def _rendered(
  name: World, cache: str | os.PathLike[str], *, rate: int, first: int, count: int, seed: int
) -> tuple[str, list[int]]:
  """A file of consecutive int16 waveforms, and their lengths, negated if silent."""
  config = world(name)
  identity = [repr(config), rate, first, count, seed]
  digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
  root = pathlib.Path(cache) / CACHE
  root.mkdir(parents=True, exist_ok=True)
  target, record = root / f"toy-{digest}.s16", root / f"toy-{digest}.json"
  if record.exists() and target.exists():
    lengths = json.loads(record.read_text(encoding="utf-8"))
    if target.stat().st_size == 2 * sum(map(abs, lengths)):
      return str(target), lengths
  lengths = []
  with atomic.replacing(target) as partial, open(partial, "wb") as file:
    for index in track(range(first, first + count), "sounds"):
      wave = waveform(config, seed, index, rate=rate)
      file.write(wave.tobytes())
      lengths.append(len(wave) if wave.any() else -len(wave))
  atomic.write_json(record, lengths)
  return str(target), lengths
