"""What the model tests share: parameters away from their zero initialisations, without an init."""

import jax
import numpy as np
import pytest

from mg_jax.core.sharding import unbox
from mg_jax.core.tree import map_paths


def _awaken(params, seed=7):
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    noise = rng.standard_normal(leaf.shape).astype(leaf.dtype)
    if path.endswith("scale"):
      return jax.numpy.asarray(1 + 0.1 * noise)
    return jax.numpy.asarray(0.2 * noise)

  return map_paths(draw, unbox(params))


@pytest.fixture(scope="session")
def awaken():
  """awaken(params): plain random arrays in the shapes of a tree, abstract or not; no gate is 0.

  Running an initialiser costs seconds of compilation, shape inference none.
  """
  return _awaken
