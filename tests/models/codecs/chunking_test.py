import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.models.codecs.chunking import ChunkedCodec, chunks
from mg_jax.models.codecs.dacvae import DACVAE

# Contexts of 17 and 19 latents.
SMALL = DACVAE(channels=2, rates=(2, 4), hidden=8, decoder_channels=8, latent=3)
HOP = SMALL.hop


@pytest.fixture(scope="module")
def codec(awaken):
  wave = jax.ShapeDtypeStruct((1, HOP), jnp.float32)
  params = awaken(jax.eval_shape(SMALL.init, jax.random.key(0), wave)["params"])
  return ChunkedCodec(SMALL, params, chunk=50)


def noise(*shape, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def split(array, sizes):
  """A stream of parts of these sizes, over and over."""
  start, turn = 0, 0
  while start < len(array):
    yield array[start : start + sizes[turn % len(sizes)]]
    start, turn = start + sizes[turn % len(sizes)], turn + 1


@pytest.mark.parametrize("length", [1, 9, 10, 11, 14, 17, 18, 40])
@pytest.mark.parametrize("sizes", [(1,), (7, 0, 3), (100,)])
def test_chunks_cover_a_stream_once_with_context_around_all_they_keep(length, sizes):
  rows = np.arange(length)
  kept = []
  for chunk, keep in chunks(split(rows, sizes), size=10, context=3):
    assert len(chunk) == min(10, length)
    begin, end = keep.indices(len(chunk))[:2]
    # Full context, or the end of the stream.
    assert begin >= 3 or chunk[0] == 0
    assert end <= len(chunk) - 3 or chunk[-1] == length - 1
    kept.append(chunk[keep])
  np.testing.assert_array_equal(np.concatenate(kept), rows)


@pytest.mark.parametrize("samples", [133 * HOP - 3, 51 * HOP, 50 * HOP, 5])
def test_chunked_is_unchunked(codec, samples):
  wave = noise(samples)
  params = {"params": codec.params}
  whole = jax.jit(lambda w: SMALL.apply(params, w[None], method="encode")[0][0])(wave)
  latent = np.concatenate(list(codec.encode_stream(split(wave, (37, 400)))))
  np.testing.assert_allclose(latent, whole, atol=1e-5 * np.abs(whole).max())

  # From the same latents, lest an error of the encoder hide one of the decoder.
  decode = jax.jit(lambda z: SMALL.apply(params, z[None], length=samples, method="decode")[0])
  whole = decode(latent)
  parts = list(codec.decode_stream(split(latent, (1, 60)), length=samples))
  assert len(parts) > 1 or samples <= 50 * HOP
  np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_less_context_than_the_field_of_view_would_show(codec, monkeypatch):
  wave = noise(133 * HOP)
  whole = codec.encode(wave)
  monkeypatch.setattr(DACVAE, "encoder_context", 4)
  assert np.abs(codec.encode(wave) - whole).max() > 1e-3 * np.abs(whole).max()


def test_all_long_streams_share_two_programs(codec):
  for samples in (60 * HOP, 75 * HOP + 1, 133 * HOP):
    codec.decode(codec.encode(noise(samples)), length=samples)
  sizes = codec._encoder._cache_size(), codec._decoder._cache_size()
  codec.decode(codec.encode(noise(99 * HOP)), length=99 * HOP - 5)
  assert (codec._encoder._cache_size(), codec._decoder._cache_size()) == sizes


def test_a_stream_is_coded_while_it_runs(codec):
  def endless():
    while True:
      yield noise(20 * HOP)

  assert next(codec.encode_stream(endless())).shape == (50 - SMALL.encoder_context, 3)
  latents = (noise(20, 3) for _ in iter(int, 1))
  parts = list(codec.decode_stream(latents, length=90 * HOP + 3))
  assert sum(map(len, parts)) == 90 * HOP + 3


def test_what_is_wrong_is_told(codec):
  hole = noise(40)
  hole[7] = np.nan
  for call, message in (
    (lambda: codec.encode(np.zeros(0, np.float32)), "no samples to encode"),
    (lambda: list(codec.encode_stream([])), "no samples to encode"),
    (lambda: codec.encode(noise(40, 2)), r"sound of shape \(40, 2\) cannot be encoded"),
    (lambda: codec.encode(hole), "samples hold values that are not finite"),
    (lambda: list(codec.decode_stream([])), "no latents to decode"),
    (lambda: codec.decode(noise(4, 5)), r"\(4, 5\) do not fit this codec, which has 3"),
    (lambda: codec.decode(noise(4, 3) + np.inf), "latents hold values that are not finite"),
    (lambda: codec.decode(noise(4, 3), length=0), "0 samples cannot be decoded"),
    (lambda: codec.decode(noise(4, 3), length=4 * HOP + 2), "end 2 samples before"),
    (lambda: ChunkedCodec(SMALL, {}, chunk=38), "too short for this codec; give 39"),
  ):
    with pytest.raises(UserError, match=message):
      call()
