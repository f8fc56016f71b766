"""Topologies that are not here: what exists is known, what does not is told."""

import importlib.util

import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.topology import tpu_devices

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="the TPU compiler (libtpu) is not installed"
)


@needs_libtpu
@pytest.mark.parametrize("name, count", [("v5p:2x2x1", 4), ("v6e:2x4", 8), ("tpu7x:2x2x1", 8)])
def test_devices_of_a_topology(name, count):
  devices = tpu_devices(name)
  assert len(devices) == count and devices[0].platform == "tpu"


@needs_libtpu
def test_slices_are_copies():
  devices = tpu_devices("v5p:2x2x1", slices=2)
  assert sorted({d.slice_index for d in devices}) == [0, 1] and len(devices) == 8


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5p", "v5p:4x4", "v6e:2x2x2", "v6e:axb", "", ":2x2"])
def test_names_that_are_none_are_told(name):
  with pytest.raises(UserError, match="write a chip"):
    tpu_devices(name)


@needs_libtpu
def test_a_topology_that_does_not_exist_is_told():
  with pytest.raises(UserError, match="'v5p:3x3x1' does not exist"):
    tpu_devices("v5p:3x3x1")
