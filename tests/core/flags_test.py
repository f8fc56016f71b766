"""The flags of every chip: the compilers that are installed here take each of them."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from mg_jax.core import flags
from mg_jax.core.chips import GPUS, TPUS
from mg_jax.core.errors import UserError
from mg_jax.core.topology import tpu_devices

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="the TPU compiler (libtpu) is not installed"
)
_TOPOLOGIES = {"v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2", "tpu7x": "2x2x1"}


def _lower(chip):
  place = SingleDeviceSharding(tpu_devices(f"{chip}:{_TOPOLOGIES[chip]}")[0])
  return jax.jit(lambda x: 2 * x).lower(jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=place))


@needs_libtpu
@pytest.mark.parametrize("chip", flags.TPU_FLAGS)
def test_the_tpu_compiler_takes_every_flag(chip):
  lowered = _lower(chip)
  refused = {}
  for name, value in flags.TPU_FLAGS[chip].items():
    try:
      lowered.compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError as e:
      refused[name] = str(e)
  assert not refused
  lowered.compile(compiler_options=flags.TPU_FLAGS[chip])


@needs_libtpu
def test_a_flag_that_is_none_is_refused():
  with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
    _lower("v5e").compile(compiler_options={"xla_tpu_is_none": "true"})


@needs_libtpu
@pytest.mark.parametrize("chip", flags.TPU_FLAGS)
def test_gathered_weights_are_compiled_with_all_flags(chip):
  """Some flags are refused only where a program has what they are about."""
  mesh = Mesh(np.array(tpu_devices(f"{chip}:{_TOPOLOGIES[chip]}")), "x")
  place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))  # noqa: E731

  def loss(weights, x):
    layer = lambda x, w: (jnp.tanh(x @ w), None)  # noqa: E731
    return jax.lax.scan(layer, x, weights)[0].astype(jnp.float32).sum()

  shapes = (
    jax.ShapeDtypeStruct((4, 1024, 1024), jnp.bfloat16, sharding=place(None, "x")),
    jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=place("x")),
  )
  compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile(compiler_options=flags.TPU_FLAGS[chip])
  assert "all-gather" in compiled.as_text()


def _start(**env):
  """XLA reads its flags in any process, those of GPUs too, and ends it at one it does not know."""
  return subprocess.run(
    [sys.executable, "-c", "import jax; print(jax.jit(lambda x: x + 1)(1))"],
    env=os.environ | {"JAX_PLATFORMS": "cpu"} | env, capture_output=True, text=True, timeout=60,
  )  # fmt: skip


def test_xla_takes_every_gpu_flag():
  lines = (flags.environment(chip)["XLA_FLAGS"] for chip in flags.GPU_FLAGS)
  done = _start(XLA_FLAGS=" ".join(lines))
  assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr[-500:]


def test_a_gpu_flag_that_is_none_ends_the_process():
  done = _start(XLA_FLAGS="--xla_gpu_is_none=true")
  assert done.returncode and "Unknown flag" in done.stderr


def test_every_chip_has_an_environment():
  assert (tuple(flags.TPU_FLAGS), tuple(flags.GPU_FLAGS)) == (TPUS, GPUS)
  for chip in TPUS + GPUS:
    env = flags.environment(chip)
    line = env["LIBTPU_INIT_ARGS" if chip in flags.TPU_FLAGS else "XLA_FLAGS"]
    table = (flags.TPU_FLAGS | flags.GPU_FLAGS)[chip]
    assert dict(part.removeprefix("--").split("=") for part in line.split()) == table
    assert env["JAX_PLATFORMS"].split(",")[0] == ("tpu" if chip in flags.TPU_FLAGS else "cuda")
  with pytest.raises(UserError, match="no chip is named 'v4'; known are v5e"):
    flags.environment("v4")


def test_options_of_a_compilation_are_the_flags_of_the_environment():
  assert flags.compiler_options("v5p") == flags.TPU_FLAGS["v5p"]
  gpu = flags.compiler_options("h200")
  assert gpu.keys() == flags.GPU_FLAGS["h200"].keys()
  assert gpu["xla_gpu_enable_latency_hiding_scheduler"] is True
  assert gpu["xla_gpu_all_gather_combine_threshold_bytes"] == 1 << 30
