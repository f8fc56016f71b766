import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.nn.stack import stacked


class Affine(nn.Module):
  width: int

  @nn.compact
  def __call__(self, x, shift):
    w = self.param("w", nn.initializers.normal(0.5), (self.width, self.width))
    return x @ w + shift, None


def _run(**options):
  stack = stacked(Affine, 3, **options)(4)
  x, shift = jnp.ones((2, 4)), jnp.arange(4.0)
  params = stack.init(jax.random.key(0), x, shift)["params"]
  return stack, params, x, shift


def test_layers_run_one_after_the_other_and_see_the_same_surroundings():
  stack, params, x, shift = _run()
  want = x
  for w in params["w"]:
    want = want @ w + shift
  got, _ = stack.apply({"params": params}, x, shift)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_every_layer_starts_from_weights_of_its_own():
  w = _run()[1]["w"]
  assert w.shape == (3, 4, 4)
  assert not np.allclose(w[0], w[1])


@pytest.mark.parametrize("options", [{"policy": "full"}, {"unroll": 3}])
def test_memory_and_unrolling_leave_parameters_values_and_gradients(options):
  plain, params, x, shift = _run()
  other, same, *_ = _run(**options)
  np.testing.assert_array_equal(params["w"], same["w"])

  def loss(stack):
    return jax.grad(lambda p: jnp.sum(stack.apply({"params": p}, x, shift)[0] ** 2))(params)["w"]

  np.testing.assert_allclose(loss(other), loss(plain), rtol=1e-5)
