"""Dense products: value and gradients against einsum, precision, and sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.kernels.linear import dense

CASES = [
  ((5, 4), (4, 3), 1, "bd,df->bf"),
  ((2, 5, 4), (4, 3), 1, "bld,df->blf"),
  ((2, 5, 4), (4, 3, 6), 1, "bld,dnk->blnk"),
  ((2, 5, 3, 6), (3, 6, 4), 2, "blnk,nkd->bld"),
]


def normal(seed, shape, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(seed), shape, dtype)


def run(fn, x, w, ct):
  out, pullback = jax.vjp(fn, x, w)
  return out, *pullback(ct)


@pytest.mark.parametrize("x_shape,w_shape,contract,formula", CASES, ids=lambda c: str(c))
@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_equals_einsum(x_shape, w_shape, contract, formula, dtype, tolerance):
  x, w = normal(0, x_shape, jnp.dtype(dtype)), normal(1, w_shape, jnp.dtype(dtype))
  plain = lambda x, w: jnp.einsum(formula, x, w)  # noqa: E731
  ct = normal(2, jax.eval_shape(plain, x, w).shape, x.dtype)
  got = run(lambda x, w: dense(x, w, contract=contract), x, w, ct)
  want = run(plain, *(a.astype(jnp.float32) for a in (x, w, ct)))
  for a, b in zip(got, want, strict=True):
    assert a.dtype == x.dtype
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=tolerance * float(jnp.abs(b).max()))


def test_accumulates_in_float32():
  # 1 + 2047 * 2^-9, a sum that bfloat16 partial sums would freeze at a power of two.
  x = jnp.full((1, 2048), 2.0**-9, jnp.bfloat16).at[0, 0].set(1)
  assert float(dense(x, jnp.ones((2048, 1), jnp.bfloat16))[0, 0]) == 5.0


def products(x, w):
  jaxpr = jax.make_jaxpr(lambda x, w: jax.vjp(dense, x, w)[1](x))(x, w)
  found = []

  def visit(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name == "dot_general":
        found.append(equation)
      for value in equation.params.values():
        inner = getattr(value, "jaxpr", None)
        if inner is not None:
          visit(inner)

  visit(jaxpr.jaxpr)
  return found


def test_backward_products_take_the_type_of_x():
  x, w = normal(0, (4, 4), jnp.bfloat16), normal(1, (4, 4), jnp.bfloat16)
  found = products(x, w)
  assert len(found) == 3
  for equation in found:
    assert {str(v.aval.dtype) for v in equation.invars} == {"bfloat16"}
    assert equation.outvars[0].aval.dtype == jnp.float32


def test_devices_add_up_activations_in_their_own_type_and_gradients_of_weights_in_float32():
  x, w = normal(0, (4, 4), jnp.bfloat16), normal(1, (4, 4), jnp.bfloat16)

  def types(*mesh):
    with use_mesh(make_mesh(mesh)):
      return [str(equation.outvars[0].aval.dtype) for equation in products(x, w)]

  assert types(1, 1, 1, 8) == ["bfloat16", "bfloat16", "float32"]
  # Nothing is added up between other devices.
  assert types(2, 2, 2, 1) == ["float32"] * 3


def test_each_device_accumulates_in_float32():
  # 1 + 255 * 2^-9 on each device, of which sums in bfloat16 would keep 1.
  x = jnp.full((1, 2048), 2.0**-9, jnp.bfloat16).at[0, ::256].set(1)
  mesh = make_mesh((1, 1, 1, 8))
  place = lambda a, *spec: jax.device_put(a, jax.NamedSharding(mesh, jax.P(*spec)))  # noqa: E731
  with use_mesh(mesh):
    got = jax.jit(dense)(place(x, None, "tensor"), place(jnp.ones((2048, 1), x.dtype), "tensor"))
  assert float(got[0, 0]) == pytest.approx(8 + 255 / 64, rel=2**-7)


@pytest.mark.parametrize("mesh_shape", [(8, 1, 1, 1), (1, 2, 2, 2)], ids=str)
def test_sharded_equals_whole(mesh_shape):
  x, w, ct = normal(0, (8, 4, 16)), normal(1, (16, 12)), normal(2, (8, 4, 12))
  want = run(dense, x, w, ct)
  mesh = make_mesh(mesh_shape)
  place = lambda a, *spec: jax.device_put(a, jax.NamedSharding(mesh, jax.P(*spec)))  # noqa: E731
  activation = (("data", "fsdp"), "context")
  with use_mesh(mesh):
    args = place(x, *activation), place(w, "fsdp", "tensor"), place(ct, *activation, "tensor")
    got = jax.jit(lambda *a: run(dense, *a))(*args)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(jax.device_get(a), b, atol=1e-4)


def test_refuses_dimensions_that_differ():
  with pytest.raises(ValueError, match="cannot contract"):
    dense(normal(0, (2, 3)), normal(1, (4, 5)))
