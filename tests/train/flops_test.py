"""Analytical FLOPs against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import pytest

from mg_jax.train.flops import count, count_training


def _array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_products_count_two_for_each_multiply_add():
  assert count(lambda a, b: a @ b, _array(3, 4), _array(4, 5)) == 2 * 3 * 4 * 5
  heads = lambda q, k: jnp.einsum("bqnk,bsnk->bnqs", q, k)  # noqa: E731
  assert count(heads, _array(2, 6, 3, 8), _array(2, 7, 3, 8)) == 2 * 2 * 3 * 6 * 7 * 8
  assert count(lambda a: jnp.tanh(a) + a, _array(30, 40)) == 0


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 3)])
def test_convolutions_count_every_tap_of_every_output(stride, groups):
  def conv(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (stride, stride), "SAME", feature_group_count=groups,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip

  x, w = _array(2, 8, 8, 3), _array(3, 3, 3 // groups, 6)
  forward = 2 * (2 * (8 // stride) ** 2 * 6) * (3 * 3 * 3 // groups)
  assert count(conv, x, w) == forward
  if stride == groups == 1:
    gradient = jax.grad(lambda x, w: jnp.sum(conv(x, w) ** 2), argnums=(0, 1))
    assert count(gradient, x, w) == 3 * forward


def test_loops_count_as_often_as_they_run():
  def scanned(x, w):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=5)[0]

  def nested(x, w):
    return jax.lax.map(lambda row: scanned(row, w), x)

  assert count(scanned, _array(4, 8), _array(8, 8)) == 5 * 2 * 4 * 8 * 8
  assert count(nested, _array(3, 4, 8), _array(8, 8)) == 3 * 5 * 2 * 4 * 8 * 8


def test_a_branch_counts_as_its_dearest_and_a_while_loop_as_one_turn():
  def branch(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

  def loop(x, w):
    return jax.lax.while_loop(lambda c: jnp.sum(c @ w) > 0, lambda c: c @ w, x)

  once = 2 * 4 * 8 * 8
  assert count(branch, _array(4, 8), _array(8, 8)) == 2 * once
  assert count(loop, _array(4, 8), _array(8, 8)) == once


def test_hand_written_gradients_and_jitted_functions_are_looked_into():
  @jax.custom_vjp
  def product(x, w):
    return jax.jit(lambda x, w: x @ w)(x, w)

  product.defvjp(
    lambda x, w: (product(x, w), (x, w)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g)
  )
  x, w, once = _array(4, 8), _array(8, 6), 2 * 4 * 8 * 6
  assert count(product, x, w) == once
  gradient = jax.grad(lambda x, w: jnp.sum(product(x, w) ** 2), argnums=(0, 1))
  assert count(gradient, x, w) == 3 * once


def test_training_counts_no_recomputation():
  def loss(w, x, wrap):
    body = wrap(lambda c, _: (jnp.tanh(c @ w), None))
    return jnp.sum(jax.lax.scan(body, x @ w, None, length=3)[0])

  w, x, once = _array(8, 8), _array(4, 8), 2 * 4 * 8 * 8
  plain = count_training(lambda w, x: loss(w, x, lambda f: f), w, x)
  # The input needs no gradient: 4 products forward, 8 backward less one.
  assert plain == 11 * once
  recomputed = lambda w, x: loss(w, x, jax.checkpoint)  # noqa: E731
  assert count(jax.grad(recomputed), w, x) == 14 * once
  assert count_training(recomputed, w, x) == 12 * once


def test_nothing_is_allocated():
  assert count(lambda a, b: a @ b, _array(10**6, 10**6), _array(10**6, 10**6)) == 2e18
