"""From an image autoencoder to a temporal one that does the same to every frame [MG 3.1.1].

The spatial arrays are kept as they are. Temporal convolutions start as the identity and temporal
attention with a zero output, so that before any training latent t is what the image autoencoder
gives for frame 8 t, and the eight frames decoded from it are what it decodes. In training, a warm
start that allows `TEMPORAL` to be missing does the same.
"""

import re

import jax
import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.core.tree import flatten_paths, map_paths
from mg_jax.core.typing import PyTree
from mg_jax.models.codecs.tae import TAE

# Paths of the parameters that only the temporal autoencoder has, as a pattern to search for.
TEMPORAL = r"/(temporal|time)/"


def inflate(params: PyTree, model: TAE, *, key: jax.Array) -> PyTree:
  """Parameters of a temporal autoencoder, unboxed.

  Args:
    params: of the same autoencoder with `temporal=False`, unboxed.
    model: the temporal autoencoder.
    key: of the inner layers of the temporal attention, which start at random.

  Raises:
    UserError: when `params` are not those of this model without time.
  """
  _, height, width = model.factors
  frame = jnp.zeros((1, 1, height, width, 3))

  def initial(key):
    return unbox(model.init(key, frame)["params"])

  abstract = jax.eval_shape(initial, key)
  image, wanted = flatten_paths(params), flatten_paths(abstract)
  wrong = [p for p, leaf in image.items() if p not in wanted or wanted[p].shape != leaf.shape]
  wrong += [p for p in wanted if p not in image and not re.search(TEMPORAL, p)]
  if wrong:
    raise UserError(
      f"{len(wrong)} parameters of the image autoencoder do not fit this model, first {wrong[0]}; "
      "give both the same fields but for temporal"
    )

  @jax.jit
  def added(key):
    return {path: leaf for path, leaf in flatten_paths(initial(key)).items() if path not in image}

  arrays = image | added(key)
  return map_paths(lambda path, _: arrays[path], abstract)
