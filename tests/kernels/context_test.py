"""Context parallelism gives what one device gives in every scheme, on eight fake devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
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

  def local(q, k, v, *, mask_BS, scale, ring):
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


# Heads that divide over context and tensor of every mesh.
SCHEME_MESHES = [(1, 1, 8, 1), (1, 2, 4, 1), (1, 1, 2, 2), (2, 1, 4, 1)]
OWN = (4, 24, 24, 8)


def attend_and_back(scheme, inputs, ct, mask, kernel="auto"):
  def both(inputs, ct):
    fn = functools.partial(attend, mask_BS=mask, context_parallel=scheme, kernel=kernel)
    out, pullback = jax.vjp(fn, *inputs)
    return out, pullback(ct)

  return jax.jit(both)(inputs, ct)


def ragged_mask(shape):
  """Keys of whole devices missing, and in the last row all of them."""
  b, _, keys, _ = shape
  return jnp.arange(keys)[None] < jnp.array([keys, 7, 2, 0])[:b, None]


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("mesh_shape", SCHEME_MESHES, ids=str)
@pytest.mark.parametrize("scheme", ["gather", "ulysses", "ring"])
def test_every_scheme_equals_one_device(scheme, mesh_shape, masked):
  inputs, ct, _ = make_inputs(OWN)
  mask = ragged_mask(OWN) if masked else None
  want = attend_and_back("gather", inputs, ct, mask, "reference")
  with use_mesh(make_mesh(mesh_shape)):
    got = attend_and_back(scheme, inputs, ct, mask)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)
    assert not masked or not np.any(a[3]), "no key, no result and no gradient"


@pytest.mark.parametrize("scheme", ["ulysses", "ring"])
def test_half_precision_loses_no_more_than_on_one_device(scheme):
  inputs, ct, _ = make_inputs(OWN)
  exact = attend_and_back("gather", inputs, ct, None, "reference")
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (inputs, ct))
  alone = attend_and_back("gather", *half, None)
  with use_mesh(make_mesh((1, 1, 8, 1))):
    got = attend_and_back(scheme, *half, None)
  for a, b, want in zip(*map(jax.tree.leaves, (got, alone, exact)), strict=True):
    assert a.dtype == jnp.bfloat16
    error, usual = (np.linalg.norm(x.astype(jnp.float32) - want) for x in (a, b))
    assert error < 1.3 * usual


@pytest.mark.parametrize("scheme", ["gather", "ulysses", "ring"])
def test_text_is_read_alike_in_every_scheme(scheme):
  shape = (4, 24, 6, 8)
  inputs, ct, _ = make_inputs(shape)
  mask = ragged_mask(shape)
  want = attend_and_back("gather", inputs, ct, mask, "reference")
  with use_mesh(make_mesh((1, 1, 4, 2))):
    got = attend_and_back(scheme, inputs, ct, mask)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)


@pytest.mark.parametrize(
  "scheme, sent, unused",
  [
    ("gather", {"all-gather", "reduce-scatter"}, {"all-to-all", "collective-permute"}),
    ("ulysses", {"all-to-all"}, {"all-gather", "reduce-scatter", "collective-permute"}),
    ("ring", {"collective-permute"}, {"all-gather", "reduce-scatter", "all-to-all"}),
  ],
)
def test_a_scheme_sends_by_its_own_collectives_only(scheme, sent, unused):
  inputs, ct, _ = make_inputs(OWN)
  mesh = make_mesh((1, 2, 4, 1))
  sharding = jax.NamedSharding(mesh, jax.P(("data", "fsdp"), "context", "tensor"))
  with use_mesh(mesh):
    inputs, ct = jax.device_put((inputs, ct), sharding)
    fn = functools.partial(attend, context_parallel=scheme)
    step = jax.jit(lambda x, ct: jax.vjp(fn, *x)[1](ct), out_shardings=(sharding,) * 3)
    text = step.lower(inputs, ct).compile().as_text()
  assert {name for name in sent | unused if f" {name}(" in text} == sent


def test_a_ring_holds_less_than_gathered_keys():
  shape = (1, 4096, 4096, 8)
  mesh = make_mesh((1, 1, 8, 1))
  split = jax.NamedSharding(mesh, jax.P(None, "context"))
  x = jax.ShapeDtypeStruct((*shape[:2], shape[3], 16), jnp.float32, sharding=split)

  def temporaries(scheme):
    def loss(q, k, v):
      return jnp.sum(attend(q, k, v, context_parallel=scheme))

    with use_mesh(mesh):
      compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  scores = 4 * shape[1] ** 2 * shape[3] // 8  # of one device, if it held them all
  ring, gather = temporaries("ring"), temporaries("gather")
  assert ring < gather and ring < scores / 4


@pytest.mark.parametrize(
  "scheme, shape, words",
  [
    ("ulysses", (2, 24, 24, 6), "6 heads do not divide over context x tensor = 4 x 1; .* = 2,"),
    ("ulysses", (2, 30, 30, 8), "30 tokens do not divide over context = 4; .* context = 2,"),
    ("ring", (2, 25, 25, 8), "25 tokens do not divide over context = 4; .* context = 1, "),
  ],
)
def test_what_a_scheme_cannot_split_is_told_with_what_it_can(scheme, shape, words):
  inputs, _, _ = make_inputs(shape)
  with use_mesh(make_mesh((2, 1, 4, 1))), pytest.raises(UserError, match=words):
    attend(*inputs, context_parallel=scheme)
  with use_mesh(make_mesh((8, 1, 1, 1))):
    jax.eval_shape(functools.partial(attend, context_parallel=scheme), *inputs)


def test_a_kernel_that_cannot_merge_is_not_replaced_in_silence():
  inputs, _, _ = make_inputs(OWN)
  with use_mesh(make_mesh((1, 1, 8, 1))), pytest.raises(ValueError, match="results of a ring"):
    attend(*inputs, context_parallel="ring", kernel="reference")
