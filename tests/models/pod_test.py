"""The frozen encoders of the paper's size, compiled for pods that are not here."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from mg_jax.core.chips import CHIPS
from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.sharding import batch_sharding, state_shardings, unbox
from mg_jax.core.topology import tpu_devices
from mg_jax.core.tree import count_params
from mg_jax.kernels.platform import platform
from mg_jax.models import zoo
from mg_jax.models.encoders.t5 import T5Encoder

ROWS, LENGTH = 4, 512  # prompts per device, tokens of each


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="the TPU compiler (libtpu) is not installed"
)
@pytest.mark.parametrize("name", ["v5p:2x2x1", "v6e:2x4"])
def test_ul2_spread_over_a_pod_fits(name):
  devices = tpu_devices(name)
  mesh = make_mesh((1, len(devices), 1, 1), devices)
  model = T5Encoder(**zoo.text_encoder("ul2") | {"dtype": "bfloat16"})
  batch = batch_sharding(mesh)
  shape = (ROWS * len(devices), LENGTH)
  ids = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch)
  mask = jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=batch)
  boxed = jax.eval_shape(model.init, jax.random.key(0), ids, mask)["params"]
  params = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=s),
    unbox(boxed), state_shardings(boxed, mesh),
  )  # fmt: skip
  with use_mesh(mesh), platform("tpu"):
    run = jax.jit(lambda params, ids, mask: model.apply({"params": params}, ids, mask))
    memory = run.lower(params, ids, mask).compile().memory_analysis()
  weights = 2 * count_params(params) / len(devices)
  # Nothing but the smallest arrays is held whole on every device, and little more than the weights.
  assert memory.argument_size_in_bytes < 1.01 * weights
  assert weights < memory.peak_memory_in_bytes < 1.5 * weights
  assert memory.peak_memory_in_bytes < 0.9 * CHIPS[name.partition(":")[0]].memory_gib * 2**30
