"""Inflation of an image autoencoder to a temporal one that is equivalent on each frame [MG 3.1.1].

The spatial arrays are kept. Temporal convolutions are initialised as the identity and the output of
temporal attention as zero, so that before training latent t is the image autoencoder's latent of
frame 8 t, and the eight frames decoded from it are the image autoencoder's. In training, a warm
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

# Regular expression for the paths of parameters that only the temporal autoencoder has.
TEMPORAL = r"/(temporal|time)/"


def inflate(params: PyTree, model: TAE, *, key: jax.Array) -> PyTree:
  """Parameters of a temporal autoencoder, unboxed.

  Args:
    params: of the same autoencoder with `temporal=False`, unboxed.
    model: the temporal autoencoder.
    key: for the inner layers of the temporal attention, which are initialised at random.

  Raises:
    UserError: if `params` are not those of this model with `temporal=False`.
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
      "give both the same fields except temporal"
    )

  @jax.jit
  def added(key):
    return {path: leaf for path, leaf in flatten_paths(initial(key)).items() if path not in image}

  arrays = image | added(key)
  return map_paths(lambda path, _: arrays[path], abstract)
