"""The TPU kernel, interpreted step by step on this machine, and compiled for pods elsewhere."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.topology import tpu_devices
from mg_jax.kernels import attention, xla
from mg_jax.kernels.platform import platform
from mg_jax.kernels.splash import _blocks, splash

INTERPRETED = functools.partial(splash, interpret=True)


def _inputs(batch, length, keys, heads, dim, dtype=jnp.float32):
  draws = jax.random.split(jax.random.key(length + keys), 4)
  sizes = ((length, 0), (keys, 1), (keys, 2), (length, 3))
  q, k, v, ct = (jax.random.normal(draws[i], (batch, n, heads, dim), dtype) for n, i in sizes)
  return (q, k, v), ct


def _run(fn, inputs, ct):
  out, pullback = jax.vjp(fn, *inputs)
  return (out, *pullback(ct))


# (B, L, S, N, K): self, cross with text, neither a multiple of the block, one token, an odd count
# of heads, narrow heads, more than one block.
SHAPES = [
  (1, 128, 128, 2, 128), (2, 130, 70, 3, 32), (1, 1, 5, 1, 16), (1, 1100, 1500, 1, 8),
]  # fmt: skip


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity_with_reference(shape, masked):
  inputs, ct = _inputs(*shape)
  mask = None
  if masked:
    real = jnp.array([max(1, shape[2] // 2), 0])[: shape[0], None]
    mask = jnp.arange(shape[2])[None] < real
  want = _run(lambda *x: xla.reference(*x, mask_BS=mask, scale=0.3), inputs, ct)
  got = _run(lambda *x: INTERPRETED(*x, mask_BS=mask, scale=0.3), inputs, ct)
  for a, b in zip(got, want, strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(jnp.abs(b).max())))
  if masked and shape[0] > 1:
    assert all(not np.asarray(x[1]).any() for x in got), "all keys masked: zeros, no gradients"


def test_half_precision():
  inputs, ct = _inputs(1, 128, 100, 1, 64, jnp.bfloat16)
  wide = [x.astype(jnp.float32) for x in inputs]
  want = _run(lambda *x: xla.reference(*x, mask_BS=None, scale=0.1), wide, ct.astype(jnp.float32))
  got = _run(lambda *x: INTERPRETED(*x, mask_BS=None, scale=0.1), inputs, ct)
  for a, b in zip(got, want, strict=True):
    assert a.dtype == jnp.bfloat16
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=3e-2 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("dim, most", [(64, 1024), (128, 1024), (256, 512), (512, 256)])
@pytest.mark.parametrize("length", [1, 127, 128, 129, 1024, 1025, 9216, 73728, 868])
def test_blocks_cover_a_length_with_little_waste(length, dim, most):
  block, filled = _blocks(length, dim)
  assert block % 128 == 0 and block <= most and filled % block == 0
  assert length <= filled < length + 128 * (filled // block)


def test_it_leads_on_tpus():
  with platform("tpu"):
    assert attention.candidates("tpu")[0].name == "splash"


def test_short_sequences_are_left_to_others():
  shape = lambda length: (9216, length, 1, 512)  # noqa: E731
  choose = lambda q, k: attention.choose(  # noqa: E731
    "auto", shape(q), shape(k), dtype=jnp.bfloat16, masked=False, platform="tpu"
  )
  assert choose(4, 4).name == "blocked"
  assert choose(4, 512).name == choose(512, 4).name == choose(512, 512).name == "splash"


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="the TPU compiler (libtpu) is not installed"
)
@pytest.mark.parametrize("chip", ["v5p:2x2x1", "v6e:2x4"])
@pytest.mark.parametrize("length, keys", [(9216, 9216), (9216, 868)])
def test_forward_and_backward_compile_for_pods(chip, length, keys):
  from jax.sharding import SingleDeviceSharding

  place = SingleDeviceSharding(tpu_devices(chip)[0])
  spec = lambda n: jax.ShapeDtypeStruct((1, n, 2, 128), jnp.bfloat16, sharding=place)  # noqa: E731
  mask = jax.ShapeDtypeStruct((1, keys), jnp.bool_, sharding=place)

  def loss(q, k, v, mask):
    return splash(q, k, v, mask_BS=mask, scale=0.1).astype(jnp.float32).sum()

  grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
  memory = grad.lower(spec(length), spec(keys), spec(keys), mask).compile().memory_analysis()
  scores = 2 * 4 * length * keys  # of both heads, in float32
  assert memory.temp_size_in_bytes < scores / 2
