"""Topologies that are not here: what exists is known, what does not is told."""

import importlib.util
import math

import pytest

from mg_jax.core.chips import CHIPS, TPUS
from mg_jax.core.errors import UserError
from mg_jax.core.topology import check_exists, find_pod, shapes, tpu_devices, tpu_pod

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


@pytest.mark.parametrize(
  "name, near",
  [
    ("v5p:3x3x1", "v5p:2x2x1"), ("v5p:2x4x2", "v5p:2x2x4"), ("v5p:8x8x9", "v5p:8x8x8"),
    ("v6e:32x32", "v6e:16x16"), ("v6e:3x5", "v6e:4x4"), ("tpu7x:16x16x48", "tpu7x:16x16x24"),
  ],
)  # fmt: skip
def test_a_topology_that_does_not_exist_is_told_with_the_nearest(name, near):
  with pytest.raises(UserError, match=f"{name!r} does not exist; the nearest that does is {near}$"):
    tpu_devices(name)
  check_exists(near)


def test_shapes_are_those_that_are_sold():
  assert shapes("v6e") == [(2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
  assert {(2, 2, 1), (8, 8, 8), (16, 16, 24)} <= set(shapes("v5p"))
  assert (16, 24, 24) not in shapes("v5p") and (16, 24, 24) in shapes("tpu7x")
  assert all(shapes(chip) for chip in TPUS)


@needs_libtpu
@pytest.mark.parametrize("chip", TPUS)
def test_the_compiler_knows_the_smallest_and_the_largest_shape(chip):
  for shape in (shapes(chip)[0], max(shapes(chip), key=math.prod)):
    devices = tpu_devices(f"{chip}:{'x'.join(map(str, shape))}")
    assert len(devices) == math.prod(shape) * (2 if chip == "tpu7x" else 1)


@needs_libtpu
def test_islands_of_a_pod_are_its_slices():
  pod = tpu_pod("v5p:2x2x1", slices=2)
  assert [pod.island(d) for d in pod.devices] == [0] * 4 + [1] * 4
  assert {tpu_pod("v5p:2x2x1").island(d) for d in tpu_pod("v5p:2x2x1").devices} == {0}
  assert pod.networks == ("ici", "dcn") and pod.memory_gib == CHIPS["v5p"].memory_gib


@pytest.mark.parametrize(
  "change, words",
  [
    ({"topology": "v5p:2x2x1"}, "are for TPUs; with --platform=cuda give --target"),
    ({"slices": 2}, "are for TPUs; with --platform=cuda give --target"),
    ({"platform": "tpu"}, "give --topology=v5p:8x8x8 or the like, or --platform=cuda"),
    ({"platform": "tpu", "topology": "v5p:2x2x1", "slices": 0}, "slices is 0"),
  ],
)
def test_flags_that_do_not_go_together_are_told(change, words):
  gpu = {"platform": "cuda", "topology": None, "slices": 1, "target": "h200", "gpus": 8, "hosts": 1}
  with pytest.raises(UserError, match=words):
    find_pod(**gpu | change)
