import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mg_jax.core.errors import UserError
from mg_jax.sampling.windows import Windows, starts, weights

sizes = st.tuples(st.integers(1, 400), st.integers(1, 90), st.integers(1, 90)).map(
  lambda s: (s[0], max(s[1:]), min(s[1:]))
)


@given(sizes)
def test_windows_cover_the_whole_and_stay_inside(size):
  length, window, hop = size
  first = starts(length, window=window, hop=hop)
  n = min(window, length)
  assert first[0] == 0 and first[-1] + n == length
  steps = np.diff(first)
  assert (steps[:-1] == hop).all() and (steps > 0).all() and (steps <= hop).all()
  # As many as are needed: without the last one, frames at the end would be missing.
  assert len(first) == 1 or first[-2] + window < length


@given(sizes, st.sampled_from(["triangular", "uniform"]))
def test_weights_sum_to_one_on_every_frame(size, shape):
  length, window, hop = size
  first = starts(length, window=window, hop=hop)
  masks = weights(first, length=length, window=window, shape=shape)
  total = np.zeros(length)
  for start, mask in zip(first, masks, strict=True):
    total[start : start + len(mask)] += mask
  np.testing.assert_allclose(total, 1, rtol=0, atol=3e-7)
  assert masks.shape == (len(first), min(window, length)) and (masks > 0).all()


def test_a_triangle_gives_way_to_the_next_window_and_a_uniform_one_halves():
  first = starts(17, window=10, hop=7)
  triangle = weights(first, length=17, window=10)
  np.testing.assert_array_equal(triangle[0, :7], 1)  # alone, the end at 0 included
  assert (np.diff(triangle[0, 7:]) < 0).all() and triangle[0, 9] < 1e-5
  assert (np.diff(triangle[1, :3]) > 0).all()
  uniform = weights(first, length=17, window=10, shape="uniform")
  np.testing.assert_array_equal(uniform[0, 7:], 0.5)


def test_hops_that_cannot_be():
  with pytest.raises(UserError, match="choose 1..10"):
    starts(30, window=10, hop=11)
  with pytest.raises(UserError, match="choose 1..10"):
    starts(30, window=10, hop=0)


@pytest.mark.parametrize("shape", ["triangular", "uniform"])
def test_windows_along_three_axes_put_a_latent_together_again(shape):
  """Cut and added, in groups with one window too many, a latent is what it was."""
  windows = Windows.of((5, 9, 7), window=(4, 4, 8), hop=(2, 3, 8), shape=shape)
  assert windows.size == (4, 4, 7) and len(windows) == 2 * 3
  latent = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 9, 7, 3)), jnp.float32)
  out = jnp.zeros_like(latent)
  for group, valid in (([0, 1, 2, 3], [1, 1, 1, 1]), ([4, 5, 5, 5], [1, 1, 0, 0])):
    parts = windows.take(latent, jnp.array(group))
    assert parts.shape == (8, 4, 4, 7, 3)
    first = windows.starts_J3[group[1]]
    np.testing.assert_array_equal(  # batch-major: row 4 + 1 is window 1 of sample 1
      parts[5], latent[1, first[0] : first[0] + 4, first[1] : first[1] + 4, :7]
    )
    out = windows.add(out, parts, jnp.array(group), jnp.array(valid, jnp.float32))
  np.testing.assert_allclose(out, latent, atol=1e-6)
