"""Tiles: what they cover, what they equal, what their seams look like, what they hold in memory."""

import tracemalloc

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.codecs.tiling import TiledAutoencoder, Tiling, parse, spans, stitch, windows

TINY = {"channels": 4, "multipliers": (1, 1), "patch": (4, 4, 4), "blocks": 0, "latent": 3,
        "groups": 2, "attention": False}  # fmt: skip


class Smooth(nn.Module):
  """Means of 8 x 8 x 8 pixels and linear interpolation: sees one latent to either side."""

  factors = (8, 8, 8)
  latent = 3

  def latent_shape(self, frames, height, width):
    if height % 8 or width % 8:
      raise UserError(f"{height}x{width} is not a multiple of 8")
    return -(-frames // 8), height // 8, width // 8, 3

  def encode(self, video):
    b, t, h, w, c = video.shape
    video = jnp.pad(video, ((0, 0), (0, -t % 8), (0, 0), (0, 0), (0, 0)), mode="edge")
    mean = video.reshape(b, -1, 8, h // 8, 8, w // 8, 8, c).mean((2, 4, 6))
    padded = jnp.pad(mean, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)), mode="edge")
    return padded[:, :-2] / 4 + mean / 2 + padded[:, 2:] / 4, mean

  def decode(self, latent, *, frames):
    b, t, h, w, c = latent.shape
    return jax.image.resize(latent, (b, 8 * t, 8 * h, 8 * w, c), "linear")[:, :frames]


def smooth(**tiling):
  return TiledAutoencoder(Smooth(), {}, Tiling(**tiling))


def video_of(frames, height=16, width=16, seed=0):
  shape = (frames, height, width, 3)
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize(
  ("sizes", "tiling"),
  [
    ([], Tiling()),
    (["32", "1024"], Tiling()),
    (["16", "256"], Tiling(frames=16, overlap=8, side=256, border=32)),
    (["16", "256", "0", "64"], Tiling(frames=16, overlap=0, side=256, border=64)),
  ],
)
def test_a_tiling_from_text(sizes, tiling):
  assert parse(sizes) == tiling


@pytest.mark.parametrize("sizes", [["32"], ["32", "-8"], ["a", "b"], ["1", "2", "3"]])
def test_what_is_no_tiling(sizes):
  with pytest.raises(UserError, match="such as 32,512"):
    parse(sizes)


@pytest.fixture(scope="module")
def tae():
  model = TAE(**TINY)
  params = unbox(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 16, 16, 3)))["params"])
  return model, params


def plain(model, method, **kw):
  """The network itself on one clip."""
  return jax.jit(lambda p, x: model.apply({"params": p}, x[None], method=method, **kw))


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 300), st.integers(1, 40), st.data())
def test_spans_cover_a_length_with_the_asked_overlap(length, size, data):
  overlap = data.draw(st.integers(0, size - 1))
  side, starts = spans(length, size=size, overlap=overlap)
  assert starts[0] == 0 and starts[-1] + side == length and side <= max(size, 1)
  for before, after in zip(starts, starts[1:], strict=False):
    assert before < after <= before + side - overlap
  # No fewer tiles would do.
  assert len(starts) == 1 or size + (len(starts) - 2) * (size - overlap) < length


@pytest.mark.parametrize("length, size, overlap", [
  (1, 4, 2), (4, 4, 2), (5, 4, 2), (7, 4, 3), (29, 6, 5), (17, 8, 0), (40, 16, 2),
])  # fmt: skip
def test_weights_of_a_row_of_tiles_sum_to_one_everywhere(length, size, overlap):
  side, starts = spans(length, size=size, overlap=overlap)
  # Each tile marked by a channel of its own: the channels are then the weights.
  tiles = [jnp.zeros((side, len(starts))).at[:, i].set(1) for i in range(len(starts))]
  weights = np.asarray(stitch(tiles, starts=starts, axis=0))
  assert weights.shape == (length, len(starts)) and weights.min() >= 0
  np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
  for i, start in enumerate(starts):
    outside = np.r_[weights[:start, i], weights[start + side :, i]]
    np.testing.assert_array_equal(outside, 0)


def test_two_tiles_fade_as_the_formula_says():
  tiles = [jnp.full((6,), 1.0), jnp.full((6,), 0.0)]
  faded = stitch(tiles, starts=(0, 2), axis=0)  # four overlapping positions: 1 - j / 4
  np.testing.assert_allclose(faded, [1, 1, 1, 0.75, 0.5, 0.25, 0, 0])


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("length, expected", [
  (0, []), (1, [(0, 1)]), (4, [(0, 4)]), (5, [(0, 4), (2, 5)]), (6, [(0, 4), (2, 6)]),
  (7, [(0, 4), (2, 6), (4, 7)]),
])  # fmt: skip
def test_windows_of_a_stream_do_not_depend_on_its_parts(length, expected, chunk):
  rows = np.arange(length)
  parts = (rows[i : i + chunk] for i in range(0, length, chunk))
  found = [([int(r) for r in held], last) for held, last in windows(parts, size=4, stride=2)]
  assert [held for held, _ in found] == [list(range(a, b)) for a, b in expected]
  assert [last for _, last in found] == [i == len(expected) - 1 for i in range(len(expected))]


@pytest.mark.parametrize("frames", [1, 13, 32])
def test_a_clip_within_one_tile_is_coded_as_without_tiling(tae, frames):
  model, params = tae
  tiled, video = TiledAutoencoder(model, params), video_of(frames)
  latent = plain(model, "encode")(params, video)[0][0]
  np.testing.assert_array_equal(tiled.encode(video), latent)
  back = plain(model, "decode", frames=frames)(params, latent)[0]
  np.testing.assert_array_equal(tiled.decode(np.asarray(latent), frames=frames), back)


@pytest.mark.parametrize("frames", [33, 64, 71, 100])
def test_encoding_is_that_of_the_tiles_side_by_side(tae, frames):
  model, params = tae
  params = jax.tree.map(lambda p: p + 0.05, params)
  tiled, video = TiledAutoencoder(model, params), video_of(frames)
  encode = lambda v: plain(model, "encode")(params, v)[0][0]  # noqa: E731
  filled = np.concatenate([video, np.repeat(video[-1:], -frames % 32, axis=0)])
  expected = np.concatenate([encode(filled[i : i + 32]) for i in range(0, frames, 32)])
  latent = tiled.encode(video)
  assert latent.shape == (-(-frames // 8), 2, 2, 3)
  np.testing.assert_array_equal(latent, expected[: len(latent)])


@pytest.mark.parametrize("count", [5, 6, 8, 13])
def test_decoding_is_that_of_the_tiles_faded(tae, count):
  model, params = tae
  params = jax.tree.map(lambda p: p + 0.05, params)
  latent = np.random.default_rng(0).standard_normal((count, 2, 2, 3)).astype(np.float32)
  filled = np.concatenate([latent, latent[-1:]]) if count % 2 else latent
  decode = lambda x: plain(model, "decode", frames=32)(params, x)[0]  # noqa: E731
  tiles = [np.asarray(decode(filled[i : i + 4])) for i in range(0, len(filled) - 2, 2)]
  expected = np.zeros((8 * len(filled), 16, 16, 3))
  for i, tile in enumerate(tiles):
    weight = np.ones(32)
    if i > 0:
      weight[:16] = np.arange(16) / 16
    if i < len(tiles) - 1:
      weight[16:] = 1 - np.arange(16) / 16
    expected[16 * i : 16 * i + 32] += weight[:, None, None, None] * tile
  for frames in (8 * count, 8 * count - 5):
    video = TiledAutoencoder(model, params).decode(latent, frames=frames)
    np.testing.assert_allclose(video, expected[:frames], atol=1e-5)


def test_a_fresh_inflated_network_shows_no_seam(tae):
  """Its temporal layers pass every frame on alone, so tiles in time change nothing."""
  model, params = tae
  video = video_of(72)
  whole = jax.jit(model.apply)({"params": params}, video[None])
  tiled = TiledAutoencoder(model, params)
  np.testing.assert_allclose(tiled.encode(video), whole[1][0], atol=1e-5)
  np.testing.assert_allclose(tiled.decode(np.asarray(whole[1][0])), whole[0][0], atol=1e-5)


@pytest.mark.parametrize("frames", [40, 64, 100])
def test_away_from_seams_tiles_equal_the_whole(frames):
  video, model = video_of(frames), Smooth()
  mean = np.asarray(model.encode(jnp.asarray(video)[None])[0][0])
  inside = np.array([i for i in range(len(mean)) if i % 4 in (1, 2) or i == 0])
  inside = inside[inside < frames // 32 * 4]  # the tile at the end repeats its last frame
  np.testing.assert_allclose(smooth().encode(video)[inside], mean[inside], atol=1e-6)
  whole = np.asarray(model.decode(jnp.asarray(mean)[None], frames=frames)[0])
  # Tiles that overlap by one latent have two in the middle that nothing fades.
  tiled = smooth(overlap=8).decode(mean, frames=frames)
  alone = [t for t in range(frames) if t // 8 % 3 and t // 8 < (len(mean) - 1) // 3 * 3]
  np.testing.assert_allclose(tiled[alone], whole[alone], atol=1e-6)
  assert np.abs(tiled - whole).max() > 1e-3  # the seams are there


@pytest.mark.parametrize("height, width", [(40, 24), (24, 72), (72, 72)])
def test_frames_larger_than_a_tile_are_cut_and_joined(height, width):
  rows = np.linspace(-0.9, 0.9, height)[:, None] * np.linspace(0.2, 1, width)
  video = np.broadcast_to(rows[None, ..., None], (9, height, width, 3)).astype(np.float32)
  whole = smooth()
  cut = smooth(side=24, border=8)
  assert cut.tiling.cuts(9, height, width) and not whole.tiling.cuts(9, height, width)
  latent = whole.encode(video)
  np.testing.assert_allclose(cut.encode(video), latent, atol=1e-6)
  difference = np.abs(cut.decode(latent, frames=9) - whole.decode(latent, frames=9))
  assert difference.shape == video.shape and 0 < difference.max() < 0.1
  # The middle of the first tile sees no seam of either axis.
  np.testing.assert_allclose(difference[:, 4:12, 4:12], 0, atol=1e-6)
  hard = smooth(side=24, border=0).decode(latent, frames=9)
  jump = lambda v: np.abs(np.diff(np.asarray(v), axis=2)).max()  # noqa: E731
  if width > 24:
    assert jump(cut.decode(latent, frames=9)) < 0.7 * jump(hard)


def test_cross_fade_hides_the_seam_of_a_steady_motion():
  """Brightness rises at a constant rate; at a hard seam it stands still and then jumps."""
  ramp = np.linspace(-1, 1, 12, dtype=np.float32)[:, None, None, None]
  latent = np.broadcast_to(ramp, (12, 1, 1, 3))
  speed = lambda **kw: np.diff(smooth(**kw).decode(latent)[:, 4, 4, 0])[8:-8]  # noqa: E731
  steady = (ramp[1] - ramp[0]).item() / 8
  faded, hard = speed() / steady, speed(overlap=0) / steady
  assert hard.max() > 7 and hard.min() < 0.1
  assert faded.max() < 1.5 and faded.min() > 0.5


def test_one_program_per_shape_of_a_tile(tae):
  model, params = tae
  tiled = TiledAutoencoder(model, params)
  for frames in (33, 50, 64, 70):
    tiled.decode(tiled.encode(video_of(frames)), frames=frames)
  assert tiled._encoder._cache_size() == tiled._decoder._cache_size() == 1


def test_an_autoencoder_of_single_frames_needs_no_overlap():
  model = TAE(**(TINY | {"patch": (1, 4, 4)}), temporal=False)
  params = unbox(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))["params"])
  tiled, video = TiledAutoencoder(model, params), video_of(40)
  whole, mean, _ = jax.jit(model.apply)({"params": params}, video[None])
  assert tiled.encode(video).shape == (40, 2, 2, 3)
  np.testing.assert_allclose(tiled.encode(video), mean[0], atol=1e-5)
  parts = list(tiled.decode_stream([np.asarray(mean[0])]))
  assert [len(part) for part in parts] == [32, 8]
  np.testing.assert_allclose(np.concatenate(parts), whole[0], atol=1e-5)


def test_pixels_are_clipped_and_rounded():
  latent = np.array([-2.0, 0.0, 2.0], np.float32).reshape(1, 1, 1, 3)
  pixels = next(smooth().pixel_stream([latent], frames=3))
  assert pixels.dtype == np.uint8 and pixels.shape == (3, 8, 8, 3)
  assert pixels[0, 0, 0].tolist() == [0, 128, 255]


def test_bytes_and_floats_of_a_video_give_the_same_latents():
  pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
  floats = pixels / np.float32(127.5) - 1
  np.testing.assert_allclose(smooth().encode(pixels), smooth().encode(floats), atol=1e-6)


def test_wrong_input_is_told_in_a_sentence():
  with pytest.raises(UserError, match="no frames to encode"):
    list(smooth().encode_stream([]))
  with pytest.raises(UserError, match="no latents to decode"):
    list(smooth().decode_stream([]))
  with pytest.raises(UserError, match="not finite"):
    smooth().encode(np.full((9, 8, 8, 3), np.nan, np.float32))
  with pytest.raises(UserError, match="multiple of 8"):
    smooth().encode(np.zeros((9, 9, 8, 3), np.uint8))
  with pytest.raises(UserError, match="frames of one clip differ in size"):
    list(smooth().encode_stream(np.zeros((1, s, s, 3), np.uint8) for s in (8, 16)))
  with pytest.raises(UserError, match="has 3 channels; give the one"):
    smooth().decode(np.zeros((9, 1, 1, 16), np.float32))
  with pytest.raises(UserError, match="not finite"):
    smooth().decode(np.full((1, 1, 1, 3), np.inf, np.float32))
  with pytest.raises(UserError, match="end 3 frames before the 43"):
    smooth().decode(np.zeros((5, 1, 1, 3), np.float32), frames=43)
  with pytest.raises(UserError, match="at least one"):
    smooth().decode(np.zeros((5, 1, 1, 3), np.float32), frames=0)


def test_broken_weights_are_told(tae):
  model, params = tae
  broken = TiledAutoencoder(model, jax.tree.map(lambda p: p * jnp.nan, params))
  with pytest.raises(UserError, match="latents hold values that are not finite"):
    broken.encode(video_of(3))
  with pytest.raises(UserError, match="decoded frames hold values"):
    list(broken.pixel_stream([np.zeros((1, 2, 2, 3), np.float32)]))


@pytest.mark.parametrize("bad, words", [
  ({"frames": 36}, "frames of tiles is 36; it must be a multiple of 8"),
  ({"overlap": 4}, "overlap of tiles is 4"),
  ({"side": 500}, "side of tiles is 500"),
  ({"overlap": 32}, "must be smaller than its tile"),
  ({"border": 1024}, "must be smaller than its tile"),
])  # fmt: skip
def test_impossible_tiles_are_told(bad, words):
  with pytest.raises(UserError, match=words):
    smooth(**bad)


def test_memory_does_not_grow_with_length():
  tiled = smooth()

  def peak(frames):
    """The most bytes that numpy and jax hold while a clip passes through."""
    most = 0
    source = (np.full((1, 64, 64, 3), i % 256, np.uint8) for i in range(frames))
    tracemalloc.start()
    count = 0
    for part in tiled.pixel_stream(tiled.encode_stream(source)):
      count += len(part)
      most = max(most, sum(array.nbytes for array in jax.live_arrays()))
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == frames
    return python + most

  peak(64)  # compiles
  short, long = peak(64), peak(512)
  assert long < 1.1 * short, (short, long)
