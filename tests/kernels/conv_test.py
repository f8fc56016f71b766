"""Convolutions and their backward passes against the plain form under autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.sharding import batch_sharding
from mg_jax.kernels import conv
from mg_jax.kernels.platform import platform


def normal(seed, shape, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(seed), shape, dtype)


@pytest.fixture(autouse=True)
def hand_written(monkeypatch):
  """The frames of these tests are small, and are to take the hand-written backward pass."""
  monkeypatch.setattr(conv, "_SMALL_FRAME", 0)


def plain_spatial(x, w, stride=1):
  pad = [(k // 2, k // 2) for k in w.shape[:2]]
  if stride == 2:
    pad = [(0, 1 + size % 2) for size in x.shape[1:3]]
  return lax.conv_general_dilated(
    x, w, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def plain_temporal(x, w, stride=1):
  pad = w.shape[0] // 2
  x = jnp.pad(x, ((0, 0), (pad, pad), (0, 0), (0, 0), (0, 0)), mode="edge")
  length = x.shape[1] - w.shape[0] + 1
  return sum(x[:, i : i + length : stride] @ w[i] for i in range(w.shape[0]))


def repeat(x, *axes):
  for axis in axes:
    x = jnp.repeat(x, 2, axis)
  return x


def assert_same(fn, plain, x, w):
  ct = normal(2, jax.eval_shape(plain, x, w).shape)

  def run(f):
    @jax.jit
    def both(x, w, ct):
      out, pullback = jax.vjp(f, x, w)
      return out, *pullback(ct)

    return both(x, w, ct)

  for got, want, label in zip(run(fn), run(plain), ("y", "dx", "dw"), strict=True):
    scale = max(1.0, float(jnp.abs(want).max()))
    np.testing.assert_allclose(got, want, atol=1e-5 * scale, rtol=0, err_msg=label)


@pytest.mark.parametrize(
  "shape,kernel",
  [
    ((4, 6, 8, 3), (3, 3)),
    ((3, 5, 7, 4), (5, 3)),
    ((2, 7, 5, 3), (1, 5)),
    ((1, 1, 2, 2), (3, 3)),
    ((3, 5, 7, 4), (1, 1)),
  ],
  ids=str,
)
def test_spatial_conv(shape, kernel):
  w = normal(1, (*kernel, shape[-1], 5))
  assert_same(conv.spatial_conv, plain_spatial, normal(0, shape), w)


@pytest.mark.parametrize("shape", [(4, 6, 8, 3), (3, 5, 7, 4), (2, 1, 2, 2)], ids=str)
def test_strided_spatial_conv(shape):
  w = normal(1, (3, 3, shape[-1], 5))
  fn = lambda x, w: conv.spatial_conv(x, w, stride=2)  # noqa: E731
  assert_same(fn, lambda x, w: plain_spatial(x, w, 2), normal(0, shape), w)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(4, 6, 8, 3), (3, 5, 7, 4), (2, 4, 2, 2)], ids=str)
def test_the_even_kernel_of_discriminators(shape, stride):
  fn = lambda x, w: conv.spatial_conv(x, w, stride=stride)  # noqa: E731
  plain = lambda x, w: lax.conv_general_dilated(  # noqa: E731
    x, w, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  assert_same(fn, plain, normal(0, shape), normal(1, (4, 4, shape[-1], 5)))


def test_strided_spatial_conv_halves_rounding_up():
  y = conv.spatial_conv(normal(0, (1, 5, 8, 2)), normal(1, (3, 3, 2, 3)), stride=2)
  assert y.shape == (1, 3, 4, 3)


def test_strided_spatial_conv_pads_behind_the_end_only():
  x, w = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1.0), jnp.arange(9.0).reshape(3, 3, 1, 1)
  # The first output starts at the first pixel, which only its first tap meets.
  np.testing.assert_array_equal(conv.spatial_conv(x, w + 1, stride=2)[0, ..., 0], [[1, 0], [0, 0]])
  edge = conv.spatial_conv(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), stride=2)
  np.testing.assert_array_equal(edge[0, ..., 0], [[9, 6], [6, 4]])


@pytest.mark.parametrize("frames", [1, 2, 3, 6])
@pytest.mark.parametrize("kernel,stride", [(3, 1), (3, 2), (5, 2), (1, 1)])
def test_temporal_conv(frames, kernel, stride):
  x, w = normal(0, (2, frames, 3, 2, 4)), normal(1, (kernel, 4, 5))
  fn = lambda x, w: conv.temporal_conv(x, w, stride=stride)  # noqa: E731
  assert_same(fn, lambda x, w: plain_temporal(x, w, stride), x, w)


@pytest.mark.parametrize("frames,want", [(1, 1), (2, 1), (5, 3), (8, 4)])
def test_strided_temporal_conv_halves_rounding_up(frames, want):
  y = conv.temporal_conv(normal(0, (1, frames, 1, 1, 2)), normal(1, (3, 2, 2)), stride=2)
  assert y.shape[1] == want


def test_a_still_video_stays_still():
  x = repeat(normal(0, (1, 1, 2, 2, 3)), 1, 1)
  y = conv.temporal_conv(x, normal(1, (3, 3, 3)))
  np.testing.assert_allclose(y, repeat(y[:, :1], 1, 1), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (3, 1, 3, 2)], ids=str)
def test_nearest2_spatial_conv(shape):
  w = normal(1, (3, 3, shape[-1], 4))
  plain = lambda x, w: plain_spatial(repeat(x, 1, 2), w)  # noqa: E731
  assert_same(conv.nearest2_spatial_conv, plain, normal(0, shape), w)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_nearest2_temporal_conv(frames):
  plain = lambda x, w: plain_temporal(repeat(x, 1), w)  # noqa: E731
  x, w = normal(0, (2, frames, 2, 3, 4)), normal(1, (3, 4, 3))
  assert_same(conv.nearest2_temporal_conv, plain, x, w)


def test_bfloat16_stays_bfloat16():
  x, w = normal(0, (2, 4, 4, 4), jnp.bfloat16), normal(1, (3, 3, 4, 4), jnp.bfloat16)
  y, pullback = jax.vjp(conv.spatial_conv, x, w)
  dx, dw = pullback(y)
  assert y.dtype == dx.dtype == dw.dtype == jnp.bfloat16
  wide = plain_spatial(x.astype(jnp.float32), w.astype(jnp.float32))
  np.testing.assert_allclose(y.astype(jnp.float32), wide, atol=2e-2 * float(jnp.abs(wide).max()))


def spatial(x, w):
  return conv.spatial_conv(x, w)


def half(x, w):
  return conv.spatial_conv(x, w, stride=2)


def temporal(x, w):
  y = conv.temporal_conv(x.reshape(2, 4, *x.shape[1:]), w[0])
  return y.reshape(8, *y.shape[2:])


@pytest.mark.parametrize(
  "fn,target",
  [
    (spatial, "cpu"),
    (spatial, "tpu"),
    (half, "cpu"),
    (conv.nearest2_spatial_conv, "cpu"),
    (temporal, "cpu"),
    (temporal, "tpu"),
  ],
)
@pytest.mark.parametrize(
  "mesh_shape,split",
  [
    ((8, 1, 1, 1), ("batch",)),
    ((1, 2, 2, 2), ("batch", "context")),
    ((1, 2, 2, 2), (None, None, "context")),
  ],
)
def test_equals_single_device_however_x_is_split(fn, target, mesh_shape, split):
  x, w = normal(0, (8, 4, 4, 3)), normal(1, (3, 3, 3, 4))
  ct = normal(2, jax.eval_shape(fn, x, w).shape)

  @jax.jit
  def both(x, w, ct):
    out, pullback = jax.vjp(fn, x, w)
    return out, *pullback(ct)

  want = both(x, w, ct)
  spec = jax.P(*(("data", "fsdp") if axis == "batch" else axis for axis in split))
  mesh = make_mesh(mesh_shape)
  with use_mesh(mesh), platform(target):
    place = lambda a: jax.device_put(a, jax.NamedSharding(mesh, spec))  # noqa: E731
    got = both(place(x), w, place(ct))
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(jax.device_get(a), b, atol=1e-4)


def test_a_split_batch_is_not_gathered():
  x, w = normal(0, (8, 4, 4, 3)), normal(1, (3, 3, 3, 4))
  mesh = make_mesh((2, 2, 1, 2))
  with use_mesh(mesh):
    split = jax.device_put(x, jax.NamedSharding(mesh, jax.P(("data", "fsdp"))))
    step = jax.jit(jax.grad(lambda w, x: jnp.sum(jnp.square(conv.spatial_conv(x, w)))))
    assert "all-gather" not in step.lower(w, split).compile().as_text()


def test_small_frames_leave_the_weight_gradient_to_xla(monkeypatch):
  def loops(size):
    x, w = jnp.zeros((4, size, size, 2)), jnp.zeros((3, 3, 2, 2))
    gradient = jax.jit(lambda x, w: jax.vjp(conv.spatial_conv, x, w)[1](x))
    return gradient.lower(x, w).as_text().count("stablehlo.while")

  monkeypatch.setattr(conv, "_SMALL_FRAME", 16)
  assert (loops(4), loops(5)) == (0, 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_native_weight_gradient_of_accelerators(stride):
  x, w = normal(0, (2, 5, 4, 3)), normal(1, (3, 3, 3, 4))
  with platform("tpu"):
    fn = lambda x, w: conv.spatial_conv(x, w, stride=stride)  # noqa: E731
    assert_same(fn, lambda x, w: plain_spatial(x, w, stride), x, w)


def test_kernels_that_are_not_offered_are_refused():
  x = normal(0, (1, 4, 4, 2))
  with pytest.raises(ValueError, match="odd kernels"):
    conv.spatial_conv(x, normal(1, (2, 2, 2, 2)))
  with pytest.raises(ValueError, match="stride 1, or 2 with kernel 3 x 3"):
    conv.spatial_conv(x, normal(1, (5, 5, 2, 2)), stride=2)
  with pytest.raises(ValueError, match="odd kernels"):
    conv.temporal_conv(x[None], normal(1, (2, 2, 2)))


@pytest.mark.parametrize(
  "shape, kernel, strides",
  [((2, 7, 6, 3), (3, 9), (1, 2)), ((2, 11, 3, 2), (5, 1), (3, 1)), ((1, 4, 5, 2), (3, 3), (1, 1))],
)
def test_planes_take_any_kernel_and_strides(shape, kernel, strides):
  w = normal(1, (*kernel, shape[-1], 4))

  def plain(x, w):
    pad = [(k // 2, k // 2) for k in kernel]
    return lax.conv_general_dilated(x, w, strides, pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))

  assert_same(lambda x, w: conv.plane_conv(x, w, strides=strides), plain, normal(0, shape), w)


def test_planes_are_the_same_on_many_devices():
  x, w = normal(0, (8, 6, 5, 2)), normal(1, (3, 3, 2, 8))
  loss = lambda x, w: jnp.sum(jnp.sin(conv.plane_conv(x, w, strides=(1, 2))))  # noqa: E731
  want = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, w)
  with use_mesh(make_mesh((2, 2, 2, 1))) as mesh:
    placed = jax.device_put(x, batch_sharding(mesh))
    got = jax.jit(jax.grad(loss, argnums=(0, 1)))(placed, w)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_even_kernels_of_planes_are_refused():
  with pytest.raises(ValueError, match="odd kernels"):
    conv.plane_conv(normal(0, (1, 4, 4, 1)), normal(1, (3, 2, 1, 1)), strides=(1, 1))
