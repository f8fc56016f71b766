"""Logical axes: misspelt names and wrong ranks raise, dimensions that do not divide are told."""

import logging

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from mg_jax.core import sharding
from mg_jax.core.mesh import AXES, make_mesh, use_mesh
from mg_jax.core.sharding import (
  LOGICAL,
  batch_sharding,
  partitioned,
  replicated,
  shard,
  spec_table,
  state_shardings,
  unbox,
)


class Layer(nn.Module):
  """One matrix with named dimensions, stacked by scan below, and a plain bias."""

  @nn.compact
  def __call__(self, x_BD, _):
    kernel_DF = self.param(
      "kernel", partitioned(nn.initializers.normal(), "embed", "mlp"), (x_BD.shape[-1],) * 2
    )
    bias_F = self.param("bias", nn.initializers.zeros, (x_BD.shape[-1],))
    return shard(jnp.tanh(x_BD @ kernel_DF + bias_F), "batch", "act_embed"), None


class Stack(nn.Module):
  @nn.compact
  def __call__(self, x_BD):
    layers = nn.scan(
      Layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=3,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return layers(name="layers")(x_BD, None)[0]


def _abstract():
  return jax.eval_shape(Stack().init, jax.random.key(0), jnp.ones((4, 8)))["params"]


def test_vocabulary_names_only_mesh_axes():
  for name, axes in LOGICAL.items():
    for axis in (axes,) if isinstance(axes, str) else axes or ():
      assert axis in AXES, f"{name} is sent to {axis}"


@pytest.mark.parametrize("mesh_shape", [None, (2, 2, 1, 2)])
def test_unknown_name_raises_with_and_without_a_mesh(mesh_shape):
  x_BL = jnp.ones((8, 8))
  if mesh_shape is None:
    with pytest.raises(ValueError, match="'batsh'"):
      shard(x_BL, "batsh", "length")
  else:
    with use_mesh(make_mesh(mesh_shape)), pytest.raises(ValueError, match="'batsh'"):
      shard(x_BL, "batsh", "length")


def test_unknown_name_raises_when_a_parameter_is_declared():
  with pytest.raises(ValueError, match="'embd'"):
    partitioned(nn.initializers.zeros, "embd", "mlp")


@pytest.mark.parametrize("names", [("batch",), ("batch", "length", "act_embed")])
def test_wrong_rank_raises(names):
  with pytest.raises(ValueError, match=r"shape \(8, 4\)"):
    shard(jnp.ones((8, 4)), *names)


def test_none_is_a_name_for_any_dimension():
  x_BL = jnp.ones((8, 4))
  with use_mesh(make_mesh((8, 1, 1, 1))):
    y_BL = jax.jit(lambda x: shard(x, "batch", None))(x_BL)
  assert y_BL.sharding.shard_shape(y_BL.shape) == (1, 4)


def test_values_do_not_change():
  x_BL = jnp.arange(32.0).reshape(8, 4)
  with use_mesh(make_mesh((2, 2, 2, 1))):
    y_BL = jax.jit(lambda x: shard(x, "batch", "length"))(x_BL)
  assert (y_BL == x_BL).all()
  assert y_BL.sharding.shard_shape(y_BL.shape) == (2, 2)


def test_a_dimension_that_does_not_divide_is_replicated_and_reported_once(caplog, monkeypatch):
  monkeypatch.setattr(sharding, "_reported", set())
  with caplog.at_level(logging.WARNING, sharding.__name__), use_mesh(make_mesh((8, 1, 1, 1))):
    for _ in range(2):
      y_BL = jax.jit(lambda x: shard(x, "batch", "length"))(jnp.ones((6, 4)))
  assert y_BL.sharding.is_fully_replicated
  lines = [r.getMessage() for r in caplog.records if r.name == sharding.__name__]
  assert len(lines) == 1
  assert "6 is not divisible" in lines[0] and "data" in lines[0]


@pytest.mark.smoke
def test_initialization_under_a_mesh_gives_sharded_parameters():
  mesh = make_mesh((1, 4, 1, 2))
  x_BD = jnp.ones((4, 8))
  with use_mesh(mesh):
    places = state_shardings(_abstract(), mesh)
    params = jax.jit(lambda key: unbox(Stack().init(key, x_BD)["params"]), out_shardings=places)(
      jax.random.key(0)
    )
    kernel = params["layers"]["kernel"]
    assert kernel.shape == (3, 8, 8)
    assert kernel.sharding.spec == P(None, "fsdp", "tensor")
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 2, 4)
    assert params["layers"]["bias"].sharding.is_fully_replicated
    y_BD = jax.jit(Stack().apply)({"params": params}, x_BD)
  plain = unbox(Stack().init(jax.random.key(0), x_BD)["params"])
  assert jnp.allclose(y_BD, Stack().apply({"params": plain}, x_BD), atol=1e-6)


def test_spec_table_has_one_line_for_each_parameter():
  assert spec_table(_abstract()) == [
    "layers/bias 3x8 float32 ()",
    "layers/kernel 3x8x8 float32 (-, fsdp, tensor)",
  ]


def test_state_shardings_replicate_what_does_not_divide():
  abstract = jax.eval_shape(Stack().init, jax.random.key(0), jnp.ones((4, 6)))["params"]
  places = state_shardings(abstract, make_mesh((1, 4, 1, 2)))
  assert places["layers"]["kernel"].spec == P(None, None, "tensor")


def test_unbox_leaves_plain_arrays():
  boxed = Stack().init(jax.random.key(0), jnp.ones((4, 8)))["params"]
  assert isinstance(boxed["layers"]["kernel"], nn.Partitioned)
  assert isinstance(unbox(boxed)["layers"]["kernel"], jax.Array)


def test_batches_are_split_and_scalars_are_not():
  mesh = make_mesh((4, 2, 1, 1))
  x = jax.device_put(jnp.zeros((16, 3)), batch_sharding(mesh))
  assert x.sharding.shard_shape(x.shape) == (2, 3)
  assert jax.device_put(jnp.zeros(()), replicated(mesh)).sharding.is_fully_replicated
