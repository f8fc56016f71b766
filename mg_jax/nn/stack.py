"""A stack of identical layers as one `nn.scan`, whose parameters are stacked on axis 0."""

from flax import linen as nn

from mg_jax.core.remat import Policy, remat


def stacked(
  layer: type[nn.Module], length: int, *, policy: Policy = "none", unroll: int = 1
) -> type[nn.Module]:
  """A class of `length` sequential layers, with the fields of `layer`.

  Args:
    layer: called as (x, *around) -> (x, None); every layer gets the same `around`.
    length: number of layers.
    policy: what each layer saves for its backward pass, see `core.remat`.
    unroll: layers per iteration of the scan; parameters do not depend on it.
  """
  return nn.scan(
    remat(layer, policy),
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=nn.broadcast,
    length=length,
    unroll=unroll,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )
