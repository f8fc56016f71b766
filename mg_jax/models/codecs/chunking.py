"""Chunked encoding and decoding of sound of any length in constant memory [MG 6.2].

The codec has a finite receptive field: a latent depends on its own samples and on those of
`encoder_context` latents on each side (6 of them, 0.24 s, at the published size), a sample on
`decoder_context` latents on each side of its own (8, 0.32 s). So a stream is cut into chunks that
overlap by as much on both sides, and the middle of each is kept: results equal those of coding the
whole at once, also at the ends, where the first chunk starts and the last one ends. Chunks have one
length, so that one program is compiled; a stream shorter than a chunk is coded whole.

wave float32 (T,) in [-1, 1]  <->  latent float32 (L, C)
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.tree import fingerprint
from mg_jax.core.typing import PyTree
from mg_jax.models.codecs.dacvae import DACVAE

# Latents per chunk: 8 s at the published size, of which the contexts take less than a tenth.
CHUNK = 200


def chunks(
  parts: Iterable[np.ndarray], *, size: int, context: int
) -> Iterator[tuple[np.ndarray, slice]]:
  """Cuts a stream of arrays along their first axis into (chunk, slice of its rows to keep).

  Chunks have `size` rows, or all rows if there are fewer; the kept rows are contiguous over the
  stream and have `context` rows on both sides, or those up to an end of the stream. At most two
  chunks and one part are in memory.
  """
  held, start, done = None, 0, 0
  for part in parts:
    held = part if held is None else np.concatenate([held, part])
    # More rows than fit a chunk: it is not the last one, which starts at least a row later.
    while start + len(held) > max(done - context, 0) + size:
      begin = max(done - context, 0)
      held, start = held[begin - start :], begin
      end = begin + size - context
      yield held[:size], slice(done - begin, end - begin)
      done = end
  if held is not None and len(held):
    left = start + len(held) - done
    held = held[-size:]
    yield held, slice(len(held) - left, None)


def _hops(parts: Iterable[np.ndarray], hop: int) -> Iterator[np.ndarray]:
  """Samples as rows (n, hop), the last one padded by reflection."""
  held = np.zeros(0, np.float32)
  for part in parts:
    part = np.asarray(part)
    if part.ndim != 1:
      raise UserError(f"sound of shape {part.shape} cannot be encoded; give one channel, (T,)")
    held = np.concatenate([held, _finite(part.astype(np.float32), "samples")])
    # One row is kept back, for the reflection at the end.
    whole = max(len(held) // hop - 1, 0) * hop
    if whole:
      yield held[:whole].reshape(-1, hop)
      held = held[whole:]
  if not len(held):
    raise UserError("there are no samples to encode; give at least one")
  yield np.pad(held, (0, -len(held) % hop), mode="reflect").reshape(-1, hop)


class ChunkedCodec:
  """A codec with its parameters that encodes and decodes sound of any length, chunk by chunk.

  Attributes:
    model: the codec.
    params: its parameters, unboxed.
    chunk: latents per chunk, contexts included.
  """

  def __init__(self, model: DACVAE, params: PyTree, *, chunk: int = CHUNK):
    """Prepares the jitted functions; they are compiled for each new shape.

    Raises:
      UserError: if chunks are not longer than their contexts.
    """
    least = 2 * max(model.encoder_context, model.decoder_context) + 1
    if chunk < least:
      raise UserError(f"chunks of {chunk} latents are too short for this codec; give {least}")
    self.model, self.params, self.chunk = model, params, chunk

    def encode(params, wave):
      return model.apply({"params": params}, wave.reshape(1, -1), method="encode")[0][0]

    def decode(params, latent):
      return model.apply({"params": params}, latent[None], method="decode")[0]

    self._encoder, self._decoder = jax.jit(encode), jax.jit(decode)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Identifies the weights, and so the latents that they encode."""
    return fingerprint(self.params)

  def encode_stream(self, waves: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Latent means of a stream of samples, chunk by chunk.

    Args:
      waves: arrays (n,) in [-1, 1], any n each, as from `data.media.audio.read_blocks`.

    Yields:
      float32 (l, C), together ceil(T / hop) latents.

    Raises:
      UserError: on no samples, more than one channel, NaN or Inf.
    """
    rows = _hops(waves, self.model.hop)
    for chunk, kept in chunks(rows, size=self.chunk, context=self.model.encoder_context):
      yield _finite(np.asarray(self._encoder(self.params, chunk))[kept], "latents")

  def decode_stream(
    self, latents: Iterable[np.ndarray], *, length: int | None = None
  ) -> Iterator[np.ndarray]:
    """Sound of a stream of latents, chunk by chunk.

    Args:
      latents: arrays (n, C), any n each.
      length: samples of the whole; by default all that the latents cover.

    Yields:
      float32 (t,) in [-1, 1].

    Raises:
      UserError: on no latents, latents of another shape, or fewer of them than `length` needs.
    """
    if length is not None and length < 1:
      raise UserError(f"sound of {length} samples cannot be decoded; request at least one")
    hop, done = self.model.hop, 0
    parts = (self._checked(latent) for latent in latents)
    for chunk, kept in chunks(parts, size=self.chunk, context=self.model.decoder_context):
      wave = np.asarray(self._decoder(self.params, chunk)).reshape(-1, hop)[kept].reshape(-1)
      wave = wave if length is None else wave[: length - done]
      done += len(wave)
      yield wave
      if done == length:
        return
    if not done:
      raise UserError("there are no latents to decode; give at least one")
    if length is not None:
      raise UserError(f"the latents end {length - done} samples before the {length} requested")

  def encode(self, wave: np.ndarray) -> np.ndarray:
    """Latent mean (L, C) of a whole waveform (T,)."""
    return np.concatenate(list(self.encode_stream([wave])))

  def decode(self, latent: np.ndarray, *, length: int | None = None) -> np.ndarray:
    """Waveform float32 (T,) of a whole latent (L, C)."""
    return np.concatenate(list(self.decode_stream([latent], length=length)))

  def _checked(self, latent: np.ndarray) -> np.ndarray:
    latent = np.asarray(latent, np.float32)
    if latent.ndim != 2 or latent.shape[-1] != self.model.latent:
      raise UserError(
        f"latents of shape {latent.shape} do not fit this codec, which has {self.model.latent} "
        "channels; give the codec that encoded them"
      )
    return _finite(latent, "latents")


def _finite(array: np.ndarray, what: str) -> np.ndarray:
  if not np.isfinite(array).all():
    raise UserError(f"the {what} hold values that are not finite; check their source")
  return array
