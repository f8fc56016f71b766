"""Spatial and temporal convolutions, plain and behind a nearest-neighbour upsampling. [MG 3.1.1]

Spatial: x_NHWC (frames folded into N) with w_HWIO, zero padding on both sides; if strided, at the
end only, as in the image autoencoders of latent diffusion. Temporal: x_BTHWC with w_TIO, per pixel,
edge frames replicated on both sides (symmetric, not causal). All have odd kernels and hand-written
backward passes; results have the dtype of x, weight gradients accumulate in float32.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from mg_jax.core.typing import Array, Float
from mg_jax.kernels.context import mesh_axes
from mg_jax.kernels.linear import dense
from mg_jax.kernels.platform import current, partitioned

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_Padding = tuple[tuple[int, int], tuple[int, int]]

# Choices below were measured on an AVX-512 Xeon in float32, on shapes of the toy autoencoder.
# Relative to XLA's own, hand-written weight gradients took 0.3 to 0.6 times for 3 x 3 kernels on
# frames of 8 x 8 x 192 to 128 x 128 x 32 (but 1.7 times on 4 x 4 x 192, hence _SMALL_FRAME);
# temporal ones frame by frame took 0.3 to 0.5 times those of all frames at once; folding the
# nearest-neighbour upsampling into the kernel took 0.4 to 0.7 times repeating first. bfloat16 gains
# nothing without matrix units.

# Frames of up to this many positions leave the weight gradient to XLA, on CPUs too.
_SMALL_FRAME = 4 * 4


def over_batch(fn, *args: Array, whole: int, total: bool = False) -> Array:
  """fn on the shard of the batch that a device holds; the last `whole` arguments are not split.

  Needed because XLA's own partitioner silently returns wrong gradients if the height or width of a
  convolution is sharded. `total` sums the result over the devices. Only called inside custom
  derivatives, so its transpose is not needed.
  """
  if not partitioned():
    return fn(*args)
  axes = mesh_axes("batch", args[0].shape[0])
  split = PartitionSpec(axes)

  def local(*args):
    y = fn(*args)
    return lax.psum(y, axes) if total and axes else y

  specs = (split,) * (len(args) - whole) + (PartitionSpec(),) * whole
  out = PartitionSpec() if total else split
  return jax.shard_map(local, in_specs=specs, out_specs=out, check_vma=False)(*args)


def _lax_conv(x: Array, w: Array, strides: tuple[int, int], padding: _Padding) -> Array:
  def local(x, w):
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=_LAYOUT)

  return over_batch(local, x, w, whole=1)


def outer(a: Array, b: Array) -> Array:
  """Sum over positions of a (..., I) times b (..., O), as (I, O) in float32."""
  lead = tuple(range(a.ndim - 1))
  return lax.dot_general(a, b, ((lead, lead), ((), ())), preferred_element_type=jnp.float32)


def _plain(strides, padding: _Padding):
  return functools.partial(
    lax.conv_general_dilated, window_strides=strides, padding=padding, dimension_numbers=_LAYOUT
  )


def _native_weight_gradient(x: Array, w: Array, g: Array, strides, padding: _Padding) -> Array:
  conv = _plain(strides, padding)
  return jax.linear_transpose(lambda w: conv(x, w), w)(g)[0].astype(jnp.float32)


def _weight_gradient(x: Array, w: Array, g: Array, strides, padding: _Padding) -> Array:
  def native(x, g):
    return _native_weight_gradient(x, w, g, strides, padding)

  def by_frames(x, g):
    products = functools.partial(_strided_products, strides) if max(strides) > 1 else _products

    def add(total, frame):
      return total + products(*frame, w.shape[:2], padding), None

    return lax.scan(add, jnp.zeros(w.shape, jnp.float32), (x, g))[0]

  small = g.shape[1] * g.shape[2] <= _SMALL_FRAME
  local = native if small or current() != "cpu" else by_frames
  return over_batch(local, x, g, whole=0, total=True).astype(w.dtype)


def _products(x: Array, g: Array, kernel: tuple[int, int], padding: _Padding) -> Array:
  """The weight gradient (h, w, I, O) of one frame at stride 1, as one matrix product.

  x is (H, W, I), g the gradient (H2, W2, O) of the output. Taps along a row are stacked in x, taps
  along a column in g: with as many channels in as out, this writes two thirds of what stacking all
  nine taps of a 3 x 3 kernel in x would.
  """
  (rows, columns), ((low, high), sides) = kernel, padding
  x = jnp.pad(x, ((0, 0), sides, (0, 0)))
  g = jnp.pad(g, ((rows - 1 - low, rows - 1 - high), (0, 0), (0, 0)))
  height, width = x.shape[0], g.shape[1]
  along = jnp.concatenate([x[:, j : j + width] for j in range(columns)], axis=-1)
  # Row r of x is multiplied by tap i in row r - i + low of the output.
  across = jnp.concatenate([g[i : i + height] for i in reversed(range(rows))], axis=-1)
  dw = outer(_flat(across), _flat(along)).reshape(rows, -1, columns, x.shape[-1])
  return dw.transpose(0, 2, 3, 1)


def _strided_products(
  strides: tuple[int, int], x: Array, g: Array, kernel: tuple[int, int], padding: _Padding
) -> Array:
  """As `_products`, at any strides: the values of x under each tap, stacked."""
  (rows, columns), x = g.shape[:2], jnp.pad(x, (*padding, (0, 0)))
  met = [
    x[i : i + (rows - 1) * strides[0] + 1 : strides[0]][
      :, j : j + (columns - 1) * strides[1] + 1 : strides[1]
    ]
    for i in range(kernel[0])
    for j in range(kernel[1])
  ]
  dw = outer(_flat(g), _flat(jnp.concatenate(met, axis=-1)))
  return dw.T.reshape(*kernel, x.shape[-1], g.shape[-1])


def _flat(x: Array) -> Array:
  return x.reshape(-1, x.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, w: Array, padding: _Padding) -> Array:
  """Stride 1, with any padding smaller than the kernel."""
  return _lax_conv(x, w, (1, 1), padding)


def _conv_backward(padding, saved, g):
  x, w = saved
  back = tuple((k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(w.shape[:2], padding, strict=True))
  dx = _lax_conv(g, jnp.swapaxes(w[::-1, ::-1], 2, 3), (1, 1), back)
  return dx, _weight_gradient(x, w, g, (1, 1), padding)


_conv.defvjp(lambda x, w, padding: (_conv(x, w, padding), (x, w)), _conv_backward)


def _half_padding(x: Array) -> _Padding:
  return tuple((0, 1 + size % 2) for size in x.shape[1:3])


@jax.custom_vjp
def _half_conv(x: Array, w: Array) -> Array:
  """Kernel 3, stride 2, zero padding after the last row and column."""
  return _lax_conv(x, w, (2, 2), _half_padding(x))


def _half_conv_backward(saved, g):
  x, w = saved
  # Odd rows of x are under the middle tap only, even rows under the first tap and the last tap of
  # the previous output; likewise for columns. Four small convolutions replace one over added zeros.
  even, odd = ([2, 0], (1, 0)), ([1], (0, 0))
  w = jnp.swapaxes(w, 2, 3)
  phases = [
    [_lax_conv(g, w[jnp.array(i)][:, jnp.array(j)], (1, 1), (p, q)) for j, q in (even, odd)]
    for i, p in (even, odd)
  ]
  dx = _interleave(phases)[:, : x.shape[1], : x.shape[2]]
  return dx, _weight_gradient(x, saved[1], g, (2, 2), _half_padding(x))


_half_conv.defvjp(lambda x, w: (_half_conv(x, w), (x, w)), _half_conv_backward)


def _interleave(phases: list[list[Array]]) -> Array:
  """2 x 2 images of (N, H, W, C), by row and column parity, as one (N, 2H, 2W, C)."""
  n, h, w, c = phases[0][0].shape
  rows = [jnp.stack(row, axis=3) for row in phases]
  return jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, c)


def spatial_conv(
  x_NHWC: Float[Array, "N H W I"], w_HWIO: Float[Array, "h w I O"], *, stride: int = 1
) -> Float[Array, "N H2 W2 O"]:
  """Convolution of frames with zero padding k // 2, which keeps the size.

  Stride 2 gives ceil(H / 2) x ceil(W / 2); output i starts at input 2 i, with zero padding after
  the last row and column.
  The one even kernel, 4 x 4 of discriminators, has one zero on each side and rounds down: H - 1
  rows at stride 1, H // 2 at stride 2.

  Raises:
    ValueError: on another even kernel, and on a strided one that is neither 3 x 3 nor 4 x 4 with
      stride 2.
  """
  kernel = w_HWIO.shape[:2]
  if kernel == (4, 4) and stride in (1, 2):
    return _conv(x_NHWC, w_HWIO, ((1, 1), (1, 1))) if stride == 1 else _half4(x_NHWC, w_HWIO)
  if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
    raise ValueError(f"spatial_conv() takes odd kernels or 4 x 4, got {kernel}")
  if stride == 2 and kernel == (3, 3):
    return _half_conv(x_NHWC, w_HWIO)
  if stride != 1:
    raise ValueError(f"spatial_conv() has stride 1, or 2 with kernel 3 x 3, got {stride}, {kernel}")
  if kernel == (1, 1):
    return dense(x_NHWC, w_HWIO[0, 0])
  return _conv(x_NHWC, w_HWIO, tuple((k // 2, k // 2) for k in kernel))


def _half4(x: Array, w: Array) -> Array:
  """Kernel 4, stride 2: space-to-depth over 2 x 2 pixels, then a 2 x 2 kernel."""
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  n, h, width, c = (x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3])
  x = x[:, : 2 * h, : 2 * width].reshape(n, h, 2, width, 2, c)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, width, 4 * c)
  w = w.reshape(2, 2, 2, 2, c, -1).transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 4 * c, -1)
  return _conv(x, w, ((0, 0), (0, 0)))


def plane_conv(
  x_NHWC: Float[Array, "N H W I"], w_HWIO: Float[Array, "h w I O"], *, strides: tuple[int, int]
) -> Float[Array, "N H2 W2 O"]:
  """Convolution with an odd kernel of any shape and any strides, zero padding k // 2.

  For the inputs of sound critics, whose few channels suit XLA's own gradients best: they took 0.4
  to 0.9 times those of `spatial_conv`.

  Raises:
    ValueError: on an even kernel.
  """
  if any(k % 2 == 0 for k in w_HWIO.shape[:2]):
    raise ValueError(f"plane_conv() takes odd kernels, got {w_HWIO.shape[:2]}")
  return _planes(x_NHWC, w_HWIO, strides)


def _centred(w: Array) -> _Padding:
  return tuple((k // 2, k // 2) for k in w.shape[:2])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _planes(x: Array, w: Array, strides: tuple[int, int]) -> Array:
  return _lax_conv(x, w, strides, _centred(w))


def _planes_backward(strides, saved, g):
  x, w = saved
  padding = _centred(w)

  def input_gradient(x, g, w):
    conv = _plain(strides, padding)
    return jax.linear_transpose(lambda x: conv(x, w), x)(g)[0]

  def weight_gradient(x, g):
    return _native_weight_gradient(x, w, g, strides, padding)

  dw = over_batch(weight_gradient, x, g, whole=0, total=True)
  return over_batch(input_gradient, x, g, w, whole=1), dw.astype(w.dtype)


_planes.defvjp(lambda x, w, strides: (_planes(x, w, strides), (x, w)), _planes_backward)


def nearest2_spatial_conv(
  x_NHWC: Float[Array, "N H W I"], w_HWIO: Float[Array, "3 3 I O"]
) -> Float[Array, "N H2 W2 O"]:
  """`spatial_conv` of x repeated twice along H and W, without building the repeated frames.

  Every output parity depends on only 2 x 2 different pixels, so 3 x 3 taps fold into 2 x 2: 16
  products per input pixel instead of 36.
  """

  def fold(w, axis):
    a, b, c = (lax.index_in_dim(w, i, axis) for i in range(3))
    return (
      (jnp.concatenate([a, b + c], axis), (1, 0)),
      (jnp.concatenate([a + b, c], axis), (0, 1)),
    )

  return _interleave(
    [[_conv(x_NHWC, w, (p, q)) for w, q in fold(rows, 1)] for rows, p in fold(w_HWIO, 0)]
  )


def _replicate(x: Array, pad: int) -> Array:
  first, last = x[:, :1], x[:, -1:]
  return jnp.concatenate([first] * pad + [x] + [last] * pad, axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _temporal(x_BTPC: Array, w_TIO: Array, stride: int) -> Array:
  x = _replicate(x_BTPC, w_TIO.shape[0] // 2)
  return _lax_conv(x, w_TIO[:, None], (stride, 1), ((0, 0), (0, 0)))


def _temporal_weight_gradient(x: Array, g: Array, taps: int, stride: int) -> Array:
  """(taps, I, O) in float32, of x (B, T, P, I) and g (B, T2, P, O)."""
  pad, length, out = taps // 2, x.shape[1], g.shape[1]

  def at_once(x, g):
    padded = _replicate(x, pad)
    met = [padded[:, i : i + (out - 1) * stride + 1 : stride] for i in range(taps)]
    return jnp.stack([outer(tap, g) for tap in met])

  def by_frames(x, g):
    frames, outputs = (t.reshape(-1, *t.shape[2:]) for t in (x, g))

    def add(total, k):
      first, t = k // out * length, k % out * stride - pad
      met = [frames[first + jnp.clip(t + i, 0, length - 1)] for i in range(taps)]
      return total + outer(outputs[k], jnp.concatenate(met, axis=-1)), None

    start = jnp.zeros((g.shape[-1], taps * x.shape[-1]), jnp.float32)
    dw, _ = lax.scan(add, start, jnp.arange(len(outputs)))
    return dw.T.reshape(taps, x.shape[-1], -1)

  if current() != "cpu":
    return at_once(x, g)
  return over_batch(by_frames, x, g, whole=0, total=True)


def _temporal_backward(stride, saved, g):
  x, w = saved
  taps, pad, length = w.shape[0], w.shape[0] // 2, x.shape[1]
  dw = _temporal_weight_gradient(x, g, taps, stride)
  if stride > 1:
    # Zeros between the output frames turn the strided case into the unstrided one.
    g = lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), (0, 0, stride - 1), (0, 0, 0), (0, 0, 0)))
    g = g[:, : length + 2 * pad - taps + 1]
  short = length + 2 * pad - (g.shape[1] + taps - 1)
  back = ((taps - 1, taps - 1 + short), (0, 0))
  dx = _lax_conv(g, jnp.swapaxes(w[::-1], 1, 2)[:, None], (1, 1), back)
  # Gradients of replicated frames are added to those of their originals.
  head = jnp.sum(dx[:, : pad + 1], axis=1, keepdims=True)
  tail = jnp.sum(dx[:, length + pad - 1 :], axis=1, keepdims=True)
  if length == 1:
    dx = head + tail - dx[:, pad : pad + 1]
  else:
    dx = jnp.concatenate([head, dx[:, pad + 1 : length + pad - 1], tail], axis=1)
  return dx, dw.astype(w.dtype)


_temporal.defvjp(lambda x, w, stride: (_temporal(x, w, stride), (x, w)), _temporal_backward)


def temporal_conv(
  x_BTHWC: Float[Array, "B T H W I"], w_TIO: Float[Array, "t I O"], *, stride: int = 1
) -> Float[Array, "B T2 H W O"]:
  """Convolution over time with k // 2 replicated frames on each side; gives ceil(T / stride).

  Raises:
    ValueError: on an even kernel.
  """
  if w_TIO.shape[0] % 2 == 0:
    raise ValueError(f"temporal_conv() takes odd kernels, got {w_TIO.shape[0]}")
  if x_BTHWC.shape[1] == 1:
    # An image is a still video: every tap is applied to the same frame.
    return dense(x_BTHWC, jnp.sum(w_TIO, axis=0))
  b, t, h, w, c = x_BTHWC.shape
  y = _temporal(x_BTHWC.reshape(b, t, h * w, c), w_TIO, stride)
  return y.reshape(b, y.shape[1], h, w, y.shape[-1])


def nearest2_temporal_conv(
  x_BTHWC: Float[Array, "B T H W I"], w_TIO: Float[Array, "3 I O"]
) -> Float[Array, "B T2 H W O"]:
  """`temporal_conv` of x with every frame repeated twice: two taps per output frame, not three."""
  before, middle, after = w_TIO
  padded = _replicate(x_BTHWC, 1)
  even = dense(padded[:, :-2], before) + dense(x_BTHWC, middle + after)
  odd = dense(x_BTHWC, before + middle) + dense(padded[:, 2:], after)
  b, t, h, w, c = even.shape
  return jnp.stack([even, odd], axis=2).reshape(b, 2 * t, h, w, c)
