"""Tiled autoencoding of clips of any length in constant memory [MG 3.1.1].

Time is cut into tiles of 32 frames, which are 4 latents: contiguous for encoding, overlapping by 16
frames for decoding, with a cross-fade. Frames too large for memory are tiled in space too, with a
cross-fade both ways. A clip that fits one tile is coded whole, as without tiling. The short last
tile of a longer clip is padded by repeating its last frame, so that one program is compiled per
tile shape.

video (T', H', W', 3), uint8 or float32 in [-1, 1]  <->  latent float32 (T, H, W, C)
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.pixels import from_uint8, to_uint8
from mg_jax.core.tree import fingerprint
from mg_jax.core.typing import Array, PyTree
from mg_jax.data.media.frames import as_rgb


@dataclasses.dataclass(frozen=True)
class Tiling:
  """How clips are cut, in frames and pixels of the video.

  Attributes:
    frames: length of a tile [MG 3.1.1].
    overlap: of decoded tiles in time; encoded ones do not overlap [MG 3.1.1].
    side: maximum height and width of a tile.
    border: overlap of tiles in height and width. Tiles in space are independent of each other,
      norms and attention included: tile in space only what does not fit.
  """

  frames: int = 32
  overlap: int = 16
  side: int = 1024
  border: int = 128

  def __post_init__(self):
    if not 0 <= self.overlap < self.frames or not 0 <= self.border < self.side:
      raise UserError(
        f"tiles of {self.frames} frames and {self.side} pixels cannot overlap by {self.overlap} "
        f"frames and {self.border} pixels; an overlap must be smaller than its tile"
      )

  def cuts(self, frames: int, height: int, width: int) -> bool:
    """Whether a clip is larger than one tile."""
    return frames > self.frames or max(height, width) > self.side


def parse(sizes: Sequence[str]) -> Tiling:
  """A tiling from text: FRAMES, SIDE, optionally followed by their overlaps OVERLAP, BORDER.

  By default half of the frames and an eighth of the side overlap.

  Raises:
    UserError: if the text is not of this form.
  """
  if not sizes:
    return Tiling()
  if len(sizes) not in (2, 4) or not all(text.strip().isdecimal() for text in sizes):
    raise UserError(
      f"tiles are FRAMES,SIDE or FRAMES,SIDE,OVERLAP,BORDER such as 32,512, not {','.join(sizes)}"
    )
  frames, side, *overlaps = map(int, sizes)
  overlap, border = overlaps or (frames // 2, side // 8)
  return Tiling(frames=frames, overlap=overlap, side=side, border=border)


def spans(length: int, *, size: int, overlap: int) -> tuple[int, tuple[int, ...]]:
  """Side and starts of the fewest equal tiles of at most `size` that cover a length.

  Each tile overlaps the next one by `overlap` or slightly more; sides are as small as that allows.
  """
  count = max(1, math.ceil((length - overlap) / (size - overlap)))
  side = math.ceil((length + (count - 1) * overlap) / count)
  return side, tuple(i * (length - side) // max(count - 1, 1) for i in range(count))


def windows(
  parts: Iterable[np.ndarray], *, size: int, stride: int
) -> Iterator[tuple[list[np.ndarray], bool]]:
  """Cuts a stream of arrays along their first axis into (rows of a window, whether it is the last).

  Every window but the last has `size` rows and starts `stride` after the previous one; the last one
  has the remaining rows, at least one of them new. At most `size` rows and one part are in memory.
  """
  held: list[np.ndarray] = []
  for part in parts:
    for row in part:
      if len(held) == size:
        yield held, False
        held = held[stride:]
      held.append(row)
  if held:
    yield held, True


@functools.partial(jax.jit, static_argnames="axis")
def crossfade(before: Array, after: Array, *, axis: int) -> Array:
  """`after`, with its first positions cross-faded from `before`, which overlaps them.

  Of N positions the j-th, from 0, is 1 - j / N of `before` and j / N of `after`. The paper prints
  the two weights the other way round, which would jump at both ends [MG 3.1.1].
  """
  n = before.shape[axis]
  shape = [n if i == axis else 1 for i in range(before.ndim)]
  weight = (jnp.arange(n) / max(n, 1)).reshape(shape)
  head, rest = jnp.split(after, [n], axis=axis)
  return jnp.concatenate([before * (1 - weight) + head * weight, rest], axis=axis)


@functools.partial(jax.jit, static_argnames=("starts", "axis"))
def stitch(tiles: Sequence[Array], *, starts: tuple[int, ...], axis: int) -> Array:
  """Joins overlapping tiles that start at `starts`, with cross-fades."""
  out = tiles[0]
  for tile, start in zip(tiles[1:], starts[1:], strict=True):
    kept, under = jnp.split(out, [start], axis=axis)
    out = jnp.concatenate([kept, crossfade(under, tile, axis=axis)], axis=axis)
  return out


def _fill(array: np.ndarray, length: int) -> np.ndarray:
  """Repeats the last row up to a length."""
  return np.concatenate([array, np.repeat(array[-1:], length - len(array), axis=0)])


def _stack(rows: list[np.ndarray], what: str) -> np.ndarray:
  if any(row.shape != rows[0].shape for row in rows):
    raise UserError(f"{what} of one clip differ in size; scale them to one")
  return np.stack(rows)


@jax.jit
def _to_pixels(video: Array) -> tuple[Array, Array]:
  pixels = to_uint8(video)
  return pixels, jnp.isfinite(video).all()


class TiledAutoencoder:
  """An autoencoder with its parameters that encodes and decodes clips of any length, tile by tile.

  Attributes:
    model: with `factors`, `latent`, `latent_shape`, `encode` and `decode`, like
      models.codecs.tae.TAE.
    params: its parameters, unboxed.
    tiling: how clips are cut.
  """

  def __init__(self, model: nn.Module, params: PyTree, tiling: Tiling | None = None):
    """Prepares the jitted functions; they are compiled for each new shape.

    Raises:
      UserError: if the tiles are not multiples of the autoencoder's compression.
    """
    self.model, self.params, self.tiling = model, params, tiling or Tiling()
    time, height, width = model.factors
    tiling = self.tiling
    for name, factors in (
      ("frames", (time,)), ("overlap", (time,)), ("side", (height, width)),
      ("border", (height, width)),
    ):  # fmt: skip
      if any(getattr(tiling, name) % factor for factor in factors):
        raise UserError(
          f"the {name} of tiles is {getattr(tiling, name)}; it must be a multiple of "
          f"{math.lcm(*factors)}, the compression of the autoencoder"
        )

    def encode(params, video):
      if video.dtype == jnp.uint8:
        video = from_uint8(video)
      return model.apply({"params": params}, video[None], method="encode")[0][0]

    def decode(params, latent, *, frames):
      return model.apply({"params": params}, latent[None], frames=frames, method="decode")[0]

    self._encoder = jax.jit(encode)
    self._decoder = jax.jit(decode, static_argnames="frames")

  @functools.cached_property
  def fingerprint(self) -> str:
    """Identifies the weights, and so the latents that they encode."""
    return fingerprint(self.params)

  def encode_stream(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Latent means of a stream of frames, tile by tile.

    Args:
      frames: arrays (n, H', W', 3), any n each, as accepted by `data.media.frames.as_rgb`.

    Yields:
      float32 (t, H, W, C), together ceil(T' / 8) latents.

    Raises:
      UserError: on no frames, sizes that the autoencoder does not support, NaN or Inf.
    """
    size, index = self.tiling.frames, -1
    for index, (rows, last) in enumerate(windows(frames, size=size, stride=size)):
      video = as_rgb(_stack(rows, "the frames"))
      count, *grid, _ = self.model.latent_shape(*video.shape[:3])
      if index or not last:
        video = _fill(video, size)
      latent = self._over_space(self._encode, video, grid, self.model.factors[1:], (1, 1))
      yield _finite(np.asarray(latent)[:count], "latents")
    if index < 0:
      raise UserError("there are no frames to encode; give at least one")

  def decode_stream(
    self, latents: Iterable[np.ndarray], *, frames: int | None = None
  ) -> Iterator[np.ndarray]:
    """Video of a stream of latents, tile by tile.

    Args:
      latents: arrays (n, H, W, C), any n each.
      frames: of the whole clip; by default all that the latents cover.

    Yields:
      float32 (t, H', W', 3), about within [-1, 1].

    Raises:
      UserError: on no latents, latents of another shape, or fewer of them than `frames` needs.
    """
    for block, kept in self._decoded(latents, frames):
      yield np.asarray(block)[:kept]

  def pixel_stream(
    self, latents: Iterable[np.ndarray], *, frames: int | None = None
  ) -> Iterator[np.ndarray]:
    """As `decode_stream`, clipped and rounded to uint8 0..255.

    Raises:
      UserError: also if a decoded value is not finite.
    """
    for block, kept in self._decoded(latents, frames):
      pixels, finite = _to_pixels(block)
      if not finite:
        raise UserError("decoded frames hold values that are not finite; try another checkpoint")
      yield np.asarray(pixels)[:kept]

  def encode(self, video: np.ndarray) -> np.ndarray:
    """Latent mean (T, H, W, C) of a whole clip (T', H', W', 3)."""
    return np.concatenate(list(self.encode_stream([video])))

  def decode(self, latent: np.ndarray, *, frames: int | None = None) -> np.ndarray:
    """Video float32 (T', H', W', 3) of a whole latent (T, H, W, C)."""
    return np.concatenate(list(self.decode_stream([latent], frames=frames)))

  def _encode(self, video: np.ndarray) -> Array:
    return self._encoder(self.params, video)

  def _decoded(
    self, latents: Iterable[np.ndarray], frames: int | None
  ) -> Iterator[tuple[Array, int]]:
    """Yields (block of frames on the device, how many of them are valid)."""
    if frames is not None and frames < 1:
      raise UserError(f"a clip of {frames} frames cannot be decoded; request at least one")
    time = self.model.factors[0]
    size = self.tiling.frames // time
    # Without compression in time frames are independent, and there are no seams to hide.
    overlap = self.tiling.overlap // time if time > 1 else 0
    stride = size - overlap
    left = math.inf if frames is None else frames
    tail, index = None, -1
    for index, (rows, last) in enumerate(windows(latents, size=size, stride=stride)):
      latent = _stack(rows, "the latents")
      self._check(latent)
      whole = last and not index
      length = len(latent) * time
      if not whole:
        latent = _fill(latent, size)
      asked = min(left, length) if whole else size * time
      block = self._over_space(
        lambda x, asked=asked: self._decoder(self.params, x, frames=asked),
        latent, latent.shape[1:3], (1, 1), self.model.factors[1:],
      )  # fmt: skip
      if tail is not None:
        block = crossfade(tail, block, axis=0)
      if not last:
        length = stride * time
        block, tail = block[:length], block[length:]
      yield block, int(min(left, length))
      left -= min(left, length)
      if left == 0:
        return
    if index < 0:
      raise UserError("there are no latents to decode; give at least one")
    if frames is not None:
      raise UserError(f"the latents end {left} frames before the {frames} requested")

  def _check(self, latent: np.ndarray) -> None:
    if latent.ndim != 4 or latent.shape[-1] != self.model.latent:
      raise UserError(
        f"latents of shape {latent.shape[1:]} do not fit this autoencoder, which has "
        f"{self.model.latent} channels; give the one that encoded them"
      )
    _finite(latent, "latents")

  def _over_space(
    self,
    run: Callable[[np.ndarray], Array],
    x_THWC: np.ndarray,
    grid: Sequence[int],
    inner: tuple[int, int],
    outer: tuple[int, int],
  ) -> Array:
    """Runs the tiles of a frame of `grid` latents; a latent is `inner` inputs, `outer` outputs."""
    factors = self.model.factors[1:]
    (high, tops), (wide, lefts) = (
      spans(n, size=self.tiling.side // factor, overlap=self.tiling.border // factor)
      for n, factor in zip(grid, factors, strict=True)
    )
    strips = []
    for top in tops:
      strip = x_THWC[:, top * inner[0] : (top + high) * inner[0]]
      tiles = [run(strip[:, :, left * inner[1] : (left + wide) * inner[1]]) for left in lefts]
      strips.append(stitch(tiles, starts=tuple(left * outer[1] for left in lefts), axis=2))
    return stitch(strips, starts=tuple(top * outer[0] for top in tops), axis=1)


def _finite(array: Any, what: str) -> Any:
  if not np.isfinite(array).all():
    raise UserError(f"the {what} hold values that are not finite; try another checkpoint")
  return array
