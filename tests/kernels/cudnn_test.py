"""The GPU kernel's call, run by XLA where there is no GPU, and what it does not support."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from mg_jax.core.cuda_target import gpu_devices, installed
from mg_jax.kernels import attention, xla
from mg_jax.kernels.cudnn import cudnn, unsupported

BY_XLA = functools.partial(cudnn, implementation="xla")


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("length, keys", [(16, 16), (24, 7), (1, 5), (5, 6)])
def test_parity_with_reference(length, keys, masked):
  draws = jax.random.split(jax.random.key(length), 4)
  q, ct = (jax.random.normal(draws[i], (2, length, 3, 8)) for i in (0, 1))
  k, v = (jax.random.normal(draws[i], (2, keys, 3, 8)) for i in (2, 3))
  # The real keys of two texts behind each other, and none at all.
  mask = jnp.stack([jnp.arange(keys) % 3 != 1, jnp.zeros(keys, bool)]) if masked else None
  results = []
  for kernel in (BY_XLA, xla.reference):
    fn = functools.partial(kernel, mask_BS=mask, scale=0.3)
    out, pullback = jax.vjp(fn, q, k, v)
    results.append((out, *pullback(ct)))
  for a, b in zip(*results, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)
  if masked:
    assert all(not np.asarray(x[1]).any() for x in results[0])


@pytest.mark.parametrize(
  "dtype, dim, reason",
  [
    ("bfloat16", 128, None),
    ("float16", 64, None),
    ("float32", 128, "not float32"),
    ("bfloat16", 20, "not a multiple of 8"),
    ("bfloat16", 256, "up to 128"),
  ],
)
def test_what_it_takes_is_known(dtype, dim, reason):
  shape = (1, 16, 2, dim)
  found = unsupported(shape, shape, jnp.dtype(dtype), False, "cuda")
  assert (found is None) if reason is None else reason in found
  chosen = attention.choose(
    "auto", shape, shape, dtype=jnp.dtype(dtype), masked=False, platform="cuda"
  )
  assert chosen.name == ("cudnn" if reason is None else "blocked")


@pytest.mark.skipif(
  not installed(), reason="the compiler for GPUs (jax's CUDA plugin and cuDNN) is not installed"
)
def test_the_fused_kernel_takes_masks_with_gaps_and_odd_lengths():
  place = SingleDeviceSharding(gpu_devices("h200", gpus=1, hosts=1)[0])
  shape = lambda *dims, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(  # noqa: E731
    dims, dtype, sharding=place
  )

  def loss(q, k, v, mask):
    return cudnn(q, k, v, mask_BS=mask, scale=0.1).astype(jnp.float32).sum()

  # 257 tokens are those of a vision tower.
  for queries, keys, masked in ((256, 96, True), (257, 257, False), (256, 77, True)):
    arrays = shape(2, queries, 4, 128), *[shape(2, keys, 4, 128)] * 2
    mask = shape(2, keys, dtype=bool) if masked else None
    text = jax.jit(jax.grad(loss)).lower(*arrays, mask).compile().as_text()
    assert "__cudnn$fmha" in text
