"""Where a plan's program runs: meshes that take every device, and what does not divide."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.topology import Pod, tpu_pod
from mg_jax.plan.program import check_divides, device_bytes, plan_mesh, row_bytes, section

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="the TPU compiler (libtpu) is not installed"
)


def _pod(count):
  return Pod("cpu", "v5p", "tpu", jax.devices()[:count], 1, 1.0, ("ici", "dcn"))


@pytest.mark.parametrize(
  "sizes, words",
  [
    ({"rows": 6}, r"global_batch is 6, .* over 4 groups .* nearest valid one is 8"),
    ({"rows": 4, "accumulate": 2}, "accumulate=2; the nearest valid one is 8"),
    ({"heads": 3}, "3 heads do not divide over tensor = 2; the nearest smaller valid size is 1"),
    ({"tokens": 9}, "9 tokens do not divide over context x tensor = 2"),
    ({"rows": 2, "what": "branches"}, "branches is 2, which does not divide"),
  ],
)
def test_what_does_not_divide_is_told_with_the_nearest_that_does(sizes, words):
  good = {"rows": 8, "accumulate": 1, "tokens": 8, "heads": 4}
  mesh = make_mesh((2, 2, 1, 2))
  check_divides(mesh, **good)
  with pytest.raises(UserError, match=words):
    check_divides(mesh, **good | sizes)


def test_a_mesh_has_to_take_every_device():
  for sizes, near in (((1, 2, 1, 1), "1,4,1,1"), ((1, 3, 1, 2), "1,2,1,2"), ((3, -1, 1, 1), "1,4")):
    with pytest.raises(UserError, match=f"has 4; give --mesh={near}"):
      plan_mesh(_pod(4), sizes)
  assert plan_mesh(_pod(4), (1, -1, 1, 2)).shape["fsdp"] == 2


@needs_libtpu
def test_slices_are_joined_along_data():
  pod = tpu_pod("v5p:2x2x1", slices=2)
  mesh = plan_mesh(pod, (2, 2, 1, 2))
  assert [{pod.island(d) for d in part.flat} for part in mesh.devices] == [{0}, {1}]
  with pytest.raises(UserError, match="data=1, which does not divide over 2 slices"):
    plan_mesh(pod, (1, 8, 1, 1))


def test_bytes_are_those_of_one_device():
  mesh = make_mesh((1, 4, 1, 2))
  place = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
  leaf = jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=place)
  assert device_bytes({"a": leaf, "b": leaf}) == 2 * 4 * (8 // 4) * (6 // 2)
  batch = {"x": jax.ShapeDtypeStruct((8, 10), jnp.uint8)}
  assert row_bytes(batch, mesh) == 20


def test_a_section_that_is_missing_is_told():
  with pytest.raises(UserError, match="no 'data'; there are a, b"):
    section({"b": 1, "a": 2}, "data")
