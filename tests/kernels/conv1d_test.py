import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.sharding import shard
from mg_jax.kernels import conv1d


def draw(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def same_gradients(ours, plain, *args):
  """Whether two functions agree, forward and backward."""

  def run(fn, *args):
    y, back = jax.vjp(fn, *args)
    return y, *back(draw(9, *y.shape))

  both = jax.jit(lambda *args: (run(ours, *args), run(plain, *args)))
  for a, b in zip(*both(*args), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("limit", [1.6, 30.0, 1000.0])
def test_sine_is_as_good_as_float32_allows(limit):
  z = np.linspace(-limit, limit, 100_001).astype(np.float32)
  error = np.asarray(jax.jit(conv1d.sine)(z), np.float64) - np.sin(z.astype(np.float64))
  assert np.abs(error).max() <= 2e-7


@pytest.mark.parametrize("size", [1e6, 1e10, 1e20, 3e38])
def test_sine_of_anything_finite_is_a_sine(size):
  z = size * np.linspace(-1, 1, 10_001).astype(np.float32)
  for y in (conv1d.sine(jnp.asarray(z)), jax.jit(conv1d.sine)(z)):
    assert np.abs(y).max() <= 1 + 1e-6


def plain_snake(x, alpha):
  return x + jnp.square(jnp.sin(alpha * x)) / (alpha + 1e-9)


def test_snake_forward_and_backward():
  same_gradients(conv1d.snake, plain_snake, 3 * draw(0, 2, 7, 5), draw(1, 5))


def test_snake_of_frequency_zero_passes_everything_on():
  x = draw(0, 1, 4, 2)
  y, back = jax.vjp(conv1d.snake, x, jnp.zeros(2))
  np.testing.assert_array_equal(y, x)
  assert all(np.isfinite(g).all() for g in back(x))


def test_snake_in_bfloat16_is_computed_in_float32():
  x, alpha = draw(0, 1, 64, 4).astype(jnp.bfloat16), jnp.full(4, 20.0)
  y = conv1d.snake(x, alpha)
  assert y.dtype == jnp.bfloat16
  wanted = plain_snake(x.astype(jnp.float32), alpha).astype(jnp.bfloat16)
  np.testing.assert_array_equal(np.float32(y), np.float32(wanted))


def by_taps(x, w, dilation):
  """What a dilated convolution is: a sum over its taps."""
  pad = w.shape[0] // 2 * dilation
  x = jnp.pad(x, ((0, 0), (pad, pad), (0, 0)))
  length = x.shape[1] - 2 * pad
  return sum(x[:, i * dilation : i * dilation + length] @ tap for i, tap in enumerate(w))


@pytest.mark.parametrize("taps, dilation, length", [(7, 1, 9), (7, 3, 12), (7, 9, 5), (1, 1, 4)])
def test_dilated_convolution(taps, dilation, length):
  same_gradients(
    lambda x, w: conv1d.wave_conv(x, w, dilation=dilation),
    lambda x, w: by_taps(x, w, dilation),
    draw(0, 2, length, 3), draw(1, taps, 3, 4),
  )  # fmt: skip


@pytest.mark.parametrize("stride, count", [(2, 5), (6, 1), (10, 3)])
def test_strided_convolutions_are_each_other_transposed(stride, count):
  x, w = draw(0, 2, stride * count, 3), draw(1, stride, 3, 2, 4)

  def down(x, w):
    kernel = w.transpose(2, 0, 1, 3).reshape(2 * stride, 3, 4)
    padding = [(stride // 2, stride // 2)]
    dims = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride,), padding, dimension_numbers=dims)

  def up(y, w):
    return jax.linear_transpose(lambda x: down(x, w), x)(y)[0]

  same_gradients(conv1d.down_conv, down, x, w)
  y = draw(2, 2, count, 4)
  # Output channels of the one are input channels of the other.
  same_gradients(lambda y, w: conv1d.up_conv(y, w.transpose(3, 2, 0, 1)), up, y, w)


def test_shapes_that_do_not_fit_are_told():
  with pytest.raises(ValueError, match="odd kernels, got 4"):
    conv1d.wave_conv(draw(0, 1, 8, 2), draw(1, 4, 2, 2))
  with pytest.raises(ValueError, match="even strides that divide, got 4 for 6"):
    conv1d.down_conv(draw(0, 1, 6, 2), draw(1, 4, 2, 2, 3))
  with pytest.raises(ValueError, match="even strides, got 3"):
    conv1d.up_conv(draw(0, 1, 6, 2), draw(1, 2, 2, 3, 3))


@pytest.mark.parametrize("mesh", [(8, 1, 1, 1), (1, 2, 2, 2)])
def test_one_device_equals_eight(mesh):
  x, alpha = draw(0, 8, 12, 4), jnp.ones(4)
  kernels = draw(1, 7, 4, 4), draw(2, 6, 4, 2, 4), draw(3, 4, 2, 6, 4)

  def loss(x, alpha, kernels):
    y = conv1d.snake(shard(x, "batch", "time", "channels"), alpha)
    y = conv1d.wave_conv(y, kernels[0], dilation=3)
    y = conv1d.up_conv(conv1d.down_conv(y, kernels[1]), kernels[2])
    return jnp.mean(jnp.square(y))

  step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
  wanted = step(x, alpha, kernels)
  with use_mesh(make_mesh(mesh)):
    ours = step(x, alpha, kernels)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(jnp.abs(b).max())))
