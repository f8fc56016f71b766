"""Meshes: automatic axes, sizes that are filled in or refused, and constraints that survive."""

import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import (
  AXES,
  batch_axes,
  batch_share,
  devices_of,
  make_mesh,
  parse_mesh,
  row_multiple,
  use_mesh,
)
from mg_jax.core.sharding import shard


class TwoLayers(nn.Module):
  """Names its hidden activation once and its output once."""

  @nn.compact
  def __call__(self, x_BLD):
    h_BLD = shard(nn.Dense(16, name="up")(x_BLD), "batch", "length", "act_embed")
    return shard(nn.Dense(8, name="down")(h_BLD), "batch", "length", "act_embed")


def _constraints(lowered) -> int:
  # The two partitioners of XLA spell the operation differently.
  text = lowered.as_text()
  return text.count("sdy.sharding_constraint") + text.count("@Sharding(")


@pytest.mark.smoke
def test_every_axis_is_auto():
  mesh = make_mesh((2, 2, 1, 2))
  assert mesh.axis_names == AXES
  assert mesh.axis_types == (AxisType.Auto,) * 4
  assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}


@pytest.mark.parametrize(
  "shape, sizes",
  [
    (None, (8, 1, 1, 1)),
    ((-1, 2, 1, 2), (2, 2, 1, 2)),
    ((1, -1, 1, 1), (1, 8, 1, 1)),
    ((2, 1, 1, 1), (2, 1, 1, 1)),  # fewer devices than there are
  ],
)
def test_mesh_sizes(shape, sizes):
  assert tuple(make_mesh(shape).shape.values()) == sizes


@pytest.mark.parametrize(
  "shape, words",
  [
    ((16, 1, 1, 1), r"needs 16 devices, there are 8; .* is \(8, 1, 1, 1\)"),
    ((2, 3, 2, 1), r"needs 12 devices, there are 8; .* is \(2, 2, 2, 1\)"),
    ((1, 2, 1, 16), r"needs 32 devices, there are 8; .* is \(1, 2, 1, 4\)"),
    ((-1, 3, 1, 1), r"needs a multiple of 3 devices, there are 8; .* is \(-1, 2, 1, 1\)"),
    ((-1, 4, 1, 3), r"a multiple of 12 devices.* is \(-1, 4, 1, 2\)"),
    ((-1, 3, 1, 3), r"a multiple of 9 devices.* is \(8, 1, 1, 1\)"),
    ((0, 1, 1, 1), r"needs 0 devices, there are 8; .* is \(8, 1, 1, 1\)"),
    ((-1, 0, 1, 1), r"is \(-1, 1, 1, 1\)"),
    ((-2, -4, 1, 1), r"the nearest that takes them all is \(8, 1, 1, 1\)"),
    ((-1, -1, 1, 1), "more than one -1"),
    ((2, 2), "4 sizes"),
  ],
)
def test_impossible_mesh_is_a_user_error(shape, words):
  with pytest.raises(UserError, match=words):
    make_mesh(shape)


def test_a_mesh_that_leaves_out_a_process_is_refused():
  hosts = [SimpleNamespace(process_index=i // 2, id=i) for i in range(8)]
  with pytest.raises(UserError, match=r"takes 4 of 8 .* process 2; .* is \(4, 2, 1, 1\)"):
    make_mesh((2, 2, 1, 1), hosts)


def test_batch_is_split_over_data_and_fsdp():
  assert batch_axes(make_mesh((2, 2, 2, 1))) == 4


def _on_hosts(shape, local):
  """A mesh over as many processes as it takes, of `local` devices each."""
  devices = [SimpleNamespace(process_index=i // local) for i in range(np.prod(shape))]
  sizes = dict(zip(AXES, shape, strict=True))
  return SimpleNamespace(
    devices=np.array(devices).reshape(shape), shape=sizes, local_devices=devices[:local]
  )


@pytest.mark.parametrize(
  "shape, local, shares",
  [
    ((2, 2, 1, 2), 4, [(0, 2), (1, 2)]),
    ((2, 1, 2, 2), 4, [(0, 2), (1, 2)]),
    ((1, 2, 2, 2), 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),  # two hosts hold the same rows
    ((1, 1, 2, 4), 2, [(0, 1)] * 4),
  ],
)
def test_processes_that_hold_the_same_rows_read_the_same_piece(shape, local, shares, monkeypatch):
  for process, want in enumerate(shares):
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    assert batch_share(_on_hosts(shape, local)) == want


def test_rows_held_partly_in_common_are_refused():
  words = "context x tensor is 2, and a process has 3 devices, .* the nearest product .* is 1$"
  with pytest.raises(UserError, match=words):
    batch_share(_on_hosts((3, 1, 2, 1), 3))


@pytest.mark.smoke
def test_constraints_reach_the_compiler_under_use_mesh():
  x_BLD = jnp.ones((8, 4, 8))
  model = TwoLayers()
  params = model.init(jax.random.key(0), x_BLD)
  with use_mesh(make_mesh((2, 2, 2, 1))):
    assert _constraints(jax.jit(model.apply).lower(params, x_BLD)) == 2


def test_no_mesh_means_no_constraints():
  x_BLD = jnp.ones((8, 4, 8))
  model = TwoLayers()
  params = model.init(jax.random.key(0), x_BLD)
  assert _constraints(jax.jit(model.apply).lower(params, x_BLD)) == 0


@pytest.mark.smoke
def test_plain_with_mesh_is_refused():
  with make_mesh((8, 1, 1, 1)), pytest.raises(ValueError, match="use_mesh"):
    shard(jnp.ones((8, 4)), "batch", "length")


@pytest.mark.smoke
def test_no_mesh_is_asked_for_in_a_way_that_jax_will_drop():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    jax.jit(lambda x: shard(x, "batch", "length")).lower(jnp.ones((8, 4)))


def test_the_mesh_is_left_again():
  with use_mesh(make_mesh()):
    assert not jax.sharding.get_abstract_mesh().empty
  assert jax.sharding.get_abstract_mesh().empty


def test_without_sizes_several_processes_share_their_devices_as_data(monkeypatch):
  assert parse_mesh([]) is None
  monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
  assert tuple(parse_mesh([]).shape.values()) == (8, 1, 1, 1)
  assert tuple(parse_mesh(["1", "-1", "2", "1"]).shape.values()) == (1, 4, 2, 1)


def test_rows_are_padded_until_their_copies_divide():
  mesh = make_mesh((2, 4, 1, 1))
  assert [row_multiple(mesh, copies) for copies in (1, 2, 3, 4, 6, 8, 16)] == [8, 4, 8, 2, 4, 1, 1]
  assert row_multiple(None, 3) == 1


def test_numbers_of_devices_are_named():
  assert [devices_of(count) for count in (1, 8)] == ["1 device", "8 devices"]
