"""Convolution layers: parameters, inits, strides, and upsampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.sharding import unbox
from mg_jax.nn.conv import PlaneConv, SpatialConv, TemporalConv


def normal(seed, shape):
  return jax.random.normal(jax.random.key(seed), shape)


def with_bias(module, x):
  params = unbox(module.init(jax.random.key(1), x))["params"]
  return {"params": params | {"bias": normal(2, params["bias"].shape)}}


def test_spatial_conv_at_one_pixel():
  x = normal(0, (2, 5, 6, 3))
  params = with_bias(SpatialConv(4), x)
  p = params["params"]
  want = jnp.einsum("hwi,hwio->o", x[1, 1:4, 2:5], p["kernel"]) + p["bias"]
  np.testing.assert_allclose(SpatialConv(4).apply(params, x)[1, 2, 3], want, atol=1e-5)


@pytest.mark.parametrize("stride,size", [(1, (5, 6)), (2, (3, 3))])
def test_spatial_strides(stride, size):
  y, _ = SpatialConv(4, stride=stride).init_with_output(jax.random.key(0), normal(0, (2, 5, 6, 3)))
  assert y.shape == (2, *size, 4)


def test_temporal_conv_replicates_edge_frames():
  x = normal(0, (1, 4, 2, 2, 3))
  params = with_bias(TemporalConv(5), x)
  p = params["params"]
  seen = jnp.stack([x[0, 0], x[0, 0], x[0, 1]])
  want = jnp.einsum("thwi,tio->hwo", seen, p["kernel"]) + p["bias"]
  np.testing.assert_allclose(TemporalConv(5).apply(params, x)[0, 0], want, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 4])
def test_identity_init_passes_frames_on(frames):
  x = normal(0, (2, frames, 3, 2, 4))
  y, _ = TemporalConv(4, kernel_init="identity").init_with_output(jax.random.key(0), x)
  np.testing.assert_allclose(y, x, atol=1e-6)
  half, _ = TemporalConv(4, stride=2, kernel_init="identity").init_with_output(jax.random.key(0), x)
  np.testing.assert_allclose(half, x[:, ::2], atol=1e-6)


def test_logical_names():
  spatial = SpatialConv(4).init(jax.random.key(0), normal(0, (1, 4, 4, 3)))["params"]
  temporal = TemporalConv(4).init(jax.random.key(0), normal(0, (1, 2, 2, 2, 3)))["params"]
  assert spatial["kernel"].names == ("kernel", "kernel", "conv_in", "conv_out")
  assert temporal["kernel"].names == ("kernel", "conv_in", "conv_out")
  assert spatial["bias"].names == temporal["bias"].names == ("conv_out",)


def test_spatial_upsampling_is_repeat_then_convolve():
  x = normal(0, (2, 3, 4, 3))
  params = with_bias(SpatialConv(4), x)
  want = SpatialConv(4).apply(params, jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))
  np.testing.assert_allclose(SpatialConv(4, upsample=True).apply(params, x), want, atol=1e-5)


def test_temporal_upsampling_is_repeat_then_convolve():
  x = normal(0, (2, 3, 2, 2, 3))
  params = with_bias(TemporalConv(4), x)
  want = TemporalConv(4).apply(params, jnp.repeat(x, 2, 1))
  np.testing.assert_allclose(TemporalConv(4, upsample=True).apply(params, x), want, atol=1e-5)


def test_upsampling_with_a_stride_is_refused():
  with pytest.raises(ValueError, match="upsampling needs kernel 3 and stride 1"):
    SpatialConv(4, stride=2, upsample=True).init(jax.random.key(0), normal(0, (1, 4, 4, 3)))


@pytest.mark.parametrize(
  "module,shape", [(SpatialConv, (1, 4, 4, 3)), (TemporalConv, (1, 2, 2, 2, 3))]
)
def test_compute_type(module, shape):
  layer = module(4, dtype=jnp.bfloat16)
  y, params = layer.init_with_output(jax.random.key(0), normal(0, shape))
  assert y.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_plane_conv_at_one_position():
  x = normal(0, (2, 7, 9, 3))
  module = PlaneConv(4, (5, 3), (3, 2))
  params = with_bias(module, x)
  p = params["params"]
  want = jnp.einsum("hwi,hwio->o", x[1, 1:6, 3:6], p["kernel"]) + p["bias"]
  y = module.apply(params, x)
  assert y.shape == (2, 3, 5, 4)
  np.testing.assert_allclose(y[1, 1, 2], want, atol=1e-5)
