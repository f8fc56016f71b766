"""Context parallelism gives what one device gives, on eight fake devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.kernels import context, xla
from mg_jax.kernels.attention import attend

MESHES = [(8, 1, 1, 1), (1, 8, 1, 1), (1, 2, 2, 2), (2, 2, 1, 2), (1, 1, 8, 1)]

# (B, L, S, N): self, text of another length, nothing that divides.
SHAPES = [(8, 16, 16, 4), (8, 16, 6, 4), (3, 9, 9, 3)]


def make_inputs(shape):
  b, length, context_length, n = shape
  keys = jax.random.split(jax.random.key(0), 4)
  q = jax.random.normal(keys[0], (b, length, n, 4))
  k, v = (jax.random.normal(key, (b, context_length, n, 4)) for key in keys[1:3])
  mask = jnp.arange(context_length)[None] < 1 + jnp.arange(b)[:, None]
  return (q, k, v), jax.random.normal(keys[3], q.shape), mask


def run(inputs, ct, mask, kernel):
  @jax.jit
  def both(inputs, ct):
    out, pullback = jax.vjp(functools.partial(attend, mask_BS=mask, kernel=kernel), *inputs)
    return out, pullback(ct)

  return jax.device_get(both(inputs, ct))


@pytest.mark.parametrize("mesh_shape", MESHES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=["self", "cross", "indivisible"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_equals_single_device(mesh_shape, shape, masked):
  inputs, ct, mask = make_inputs(shape)
  mask = mask if masked else None
  want = run(inputs, ct, mask, "reference")
  with use_mesh(make_mesh(mesh_shape)):
    got = run(inputs, ct, mask, "blocked")
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


def local_shapes(mesh_shape, shape):
  seen = []

  def local(q, k, v, *, mask_BS, scale):
    seen.append((q.shape, k.shape))
    return xla.reference(q, k, v, mask_BS=mask_BS, scale=scale)

  inputs, _, _ = make_inputs(shape)
  with use_mesh(make_mesh(mesh_shape)):
    jax.jit(functools.partial(context.parallel(local), scale=1.0)).lower(*inputs)
  return seen[-1]


def test_kernel_sees_its_own_queries_and_heads_and_all_keys():
  assert local_shapes((1, 2, 2, 2), (8, 16, 16, 4)) == ((4, 8, 2, 4), (4, 16, 2, 4))


def test_indivisible_dimensions_stay_whole():
  assert local_shapes((1, 2, 2, 2), (3, 9, 9, 4)) == ((3, 9, 2, 4), (3, 9, 2, 4))


def compiled_text(context_length):
  inputs, ct, _ = make_inputs((8, 16, context_length, 4))
  specs = (jax.P(("data", "fsdp"), "context", "tensor"), jax.P(("data", "fsdp"), None, "tensor"))
  mesh = make_mesh((1, 2, 2, 2))
  own = context_length == 16
  shardings = [jax.NamedSharding(mesh, s) for s in (specs[0], specs[1 - own], specs[1 - own])]
  with use_mesh(mesh):
    inputs = [jax.device_put(x, s) for x, s in zip(inputs, shardings, strict=True)]
    ct = jax.device_put(ct, shardings[0])
    step = jax.jit(lambda x, ct: jax.vjp(attend, *x)[1](ct), out_shardings=(*shardings,))
    return step.lower(inputs, ct).compile().as_text()


def test_own_keys_are_gathered_and_their_gradients_reduce_scattered():
  text = compiled_text(16)
  assert "all-gather" in text and "reduce-scatter" in text


def test_text_keys_are_not_gathered():
  assert "all-gather" not in compiled_text(6)


def test_one_device_runs_the_local_kernel_unwrapped():
  inputs, _, _ = make_inputs((2, 4, 4, 2))
  with use_mesh(make_mesh((1, 1, 1, 1))):
    text = str(jax.make_jaxpr(attend)(*inputs))
  assert "shard_map" not in text
