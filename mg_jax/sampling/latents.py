"""Latents of one video on disk: a file of pixels to a folder of latents and back, in flat memory.

The folder holds records of one tile each, {"latent" float32 (t, H, W, C), "start", "frames"} with
its first frame and frame count, and in the manifest the size, the rate and the fingerprint of the
autoencoder: latents mean nothing to another one.
"""

import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.media import fitting
from mg_jax.data.media.video import write_frames
from mg_jax.data.records import RecordSource, RecordWriter
from mg_jax.models.codecs.tiling import TiledAutoencoder

_log = logging.getLogger(__name__)


def encode_video(
  autoencoder: TiledAutoencoder,
  path: str | os.PathLike[str],
  folder: str | os.PathLike[str],
  *,
  size: int | tuple[int, int] | None = None,
  fps: float | int | None = None,
  seconds: float | int | None = None,
) -> int:
  """Encodes a video file tile by tile and returns its number of frames.

  The folder is complete when its manifest is there. What is changed of the frames is logged.

  Args:
    autoencoder: what encodes.
    path: the video.
    folder: for the latents, made if missing.
    size, fps: as in `data.media.fitting.fit`.
    seconds: stops after this time.

  Raises:
    UserError: the file cannot be read, or the folder holds something else.
  """
  how = fitting.fit(path, multiple=autoencoder.model.factors[1:], size=size, fps=fps)
  if how.notice:
    _log.warning("%s", how.notice)
  metadata = {
    "video": os.fspath(path), "fingerprint": autoencoder.fingerprint, "fps": how.fps,
    "height": how.size[0], "width": how.size[1],
  }  # fmt: skip
  writer = RecordWriter(folder, shards=1, metadata=metadata, compress=False)
  writer.write_shard(0, _records(autoencoder, fitting.read(path, how, seconds=seconds)))
  writer.finish()
  return _frames(RecordSource(folder, limit=0.0))


def decode_latents(
  autoencoder: TiledAutoencoder,
  folder: str | os.PathLike[str],
  out: str | os.PathLike[str],
) -> int:
  """Decodes a folder of `encode_video` to an mp4, tile by tile; returns its number of frames.

  Raises:
    UserError: the folder is missing, incomplete or damaged, holds something else, or was made by
      another autoencoder.
  """
  source = RecordSource(folder, limit=0.0)
  if not {"fingerprint", "fps", "height", "width"} <= source.metadata.keys():
    raise UserError(f"{os.fspath(folder)} holds no latents of a video; give a folder of them")
  if source.metadata["fingerprint"] != autoencoder.fingerprint:
    raise UserError(
      f"{os.fspath(folder)} was encoded by another autoencoder; give that one, or encode again"
    )
  frames = _frames(source)
  tiles = (source[i]["latent"] for i in range(len(source)))
  parts = autoencoder.pixel_stream(tiles, frames=frames)
  return write_frames(out, (frame for part in parts for frame in part), fps=source.metadata["fps"])


def _frames(source: RecordSource) -> int:
  last = source[len(source) - 1]
  return last["start"] + last["frames"]


def _records(
  autoencoder: TiledAutoencoder, frames: Iterator[np.ndarray]
) -> Iterator[dict[str, Any]]:
  read = 0

  def counted() -> Iterator[np.ndarray]:
    nonlocal read
    for frame in frames:
      read += 1
      yield frame[None]

  start = 0
  for latent in autoencoder.encode_stream(counted()):
    # A tile that is not the last comes when the first frame of the next one has been read.
    count = min(autoencoder.tiling.frames, read - start)
    yield {"latent": latent, "start": start, "frames": count}
    start += count
