import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.sharding import unbox
from mg_jax.nn.audio import Snake, WaveConv, WaveDown, WaveUp


def noise(*shape):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
  "layer, shape",
  [
    (WaveConv(64, dilation=3), (2, 96, 64)),
    (WaveDown(64, stride=4), (2, 24, 64)),
    (WaveUp(64, stride=4), (2, 384, 64)),
  ],
)
def test_layers_keep_the_spread_of_noise(layer, shape):
  x = noise(2, 96, 64)
  y = jax.jit(lambda x: layer.init_with_output(jax.random.key(0), x)[0])(x)
  assert y.shape == shape and y.dtype == jnp.float32
  inside = np.asarray(y)[:, shape[1] // 4 : -shape[1] // 4]
  assert 0.85 < inside.std() < 1.15


@pytest.mark.parametrize("layer", [WaveConv(3), WaveDown(3, stride=2), WaveUp(3, stride=2)])
def test_layers_compute_in_the_type_they_are_told(layer):
  layer = layer.clone(dtype=jnp.bfloat16)
  out, params = jax.eval_shape(layer.init_with_output, jax.random.key(0), noise(1, 8, 2))
  assert out.dtype == jnp.bfloat16
  assert {p.dtype for p in jax.tree.leaves(unbox(params))} == {jnp.dtype("float32")}


def test_a_snake_has_a_frequency_for_each_channel():
  x = jnp.asarray(noise(1, 5, 3))
  alpha = jnp.array([0.5, 1.0, 4.0])
  y = Snake().apply({"params": {"alpha": alpha}}, x)
  np.testing.assert_allclose(y, x + np.sin(alpha * x) ** 2 / alpha, atol=1e-6)
  start = Snake().init(jax.random.key(0), x)["params"]["alpha"]
  np.testing.assert_array_equal(unbox(start), np.ones(3))


@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_the_gain_is_that_of_power_at_the_start(gain):
  x = jax.random.normal(jax.random.key(0), (1, 400, 64))
  module = WaveConv(64, kernel=3, gain=gain)
  y = module.apply(unbox(module.init(jax.random.key(1), x)), x)
  np.testing.assert_allclose(jnp.var(y) / jnp.var(x), gain, rtol=0.1)
