"""Patches: the inverse, the order of values, the token counts of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.models import patches


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 2, 1)])
def test_unpatchify_inverts_patchify(patch):
  x = jax.random.normal(jax.random.key(0), (2, 4, 6, 8, 3))
  tokens = patches.grid(x.shape[1:4], patch)
  flat = patches.patchify(x, patch)
  assert flat.shape[:3] == (2, tokens[0], tokens[1] * tokens[2])
  np.testing.assert_array_equal(
    patches.unpatchify(flat.reshape(2, -1, flat.shape[-1]), tokens, patch), x
  )


def test_a_patch_is_a_strided_convolution():
  patch, key = (1, 2, 2), jax.random.key(1)
  x = jax.random.normal(key, (1, 3, 4, 6, 5))
  kernel = jax.random.normal(key, (*patch, 5, 7))
  conv = jax.lax.conv_general_dilated(
    x, kernel, patch, "VALID", dimension_numbers=("NTHWC", "THWIO", "NTHWC")
  )
  ours = patches.patchify(x, patch) @ kernel.reshape(-1, 7)
  np.testing.assert_allclose(ours.reshape(conv.shape), conv, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "latent, tokens",
  [
    ((1, 32, 32), 256),
    ((32, 32, 32), 8192),
    ((1, 96, 96), 2304),
    ((32, 96, 96), 73728),
    ((32, 72, 128), 73728),
    ((24, 96, 96), 55296),
    ((16, 96, 96), 36864),
    ((16, 24, 44), 4224),
  ],
)
def test_token_counts_of_the_paper(latent, tokens):
  assert np.prod(patches.grid(latent, (1, 2, 2))) == tokens
  x = jax.ShapeDtypeStruct((1, *latent, 16), jnp.float32)
  shape = jax.eval_shape(lambda x: patches.patchify(x, (1, 2, 2)), x).shape
  assert (shape[1] * shape[2], shape[3]) == (tokens, 64)


def test_a_latent_that_does_not_divide_is_a_user_error():
  with pytest.raises(UserError, match="not divisible"):
    patches.grid((1, 5, 4), (1, 2, 2))


def test_a_token_is_clean_only_when_its_whole_patch_is():
  mask = np.zeros((1, 2, 4, 4), bool)
  mask[0, 0, :2, :2] = True
  mask[0, 1, 2, 2] = True
  np.testing.assert_array_equal(
    patches.patch_mask(jnp.asarray(mask), (1, 2, 2))[0], [1, 0, 0, 0] + [0] * 4
  )
